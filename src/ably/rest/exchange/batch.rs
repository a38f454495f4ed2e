//! Publishes to many channels in one request [Ably: batch publish].
//!
//! Messages of their own go so, and nothing else: no batch can append. Their ids are ours, so that all that a lost answer leaves in
//! doubt can be published again as it is.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::Method;
use serde::Deserialize;

use super::super::super::auth::Auth;
use super::super::super::fault;
use super::super::super::wire::ErrorInfo;
use super::{Answer, Api, Done, Parcel, is_for_all};
use crate::engine::Outcome;

/// What one request may hold [Ably: 100 channels, 1,000 messages, 2 MiB].
const CHANNELS_MAX: usize = 100;
const MESSAGES_MAX: usize = 1_000;
const BYTES_MAX: usize = 2 << 20;
/// What a part has besides its channel and its messages, and more for what has to be escaped.
const PART_OVERHEAD: usize = 512;

/// What is said of a part of a batch, which is for one channel.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Part<'a> {
    #[serde(borrow)]
    results: Vec<Said<'a>>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Said<'a> {
    #[serde(default, borrow)]
    serials: Option<Vec<Option<Cow<'a, str>>>>,
    #[serde(default, borrow)]
    error: Option<ErrorInfo<'a>>,
}

/// Divides what is to be published into as few requests as it takes.
pub(in super::super) fn divide(parcels: Vec<Parcel>) -> Vec<Vec<Parcel>> {
    let mut batches: Vec<Vec<Parcel>> = Vec::new();
    let mut held = (0, 0);
    for parcel in parcels {
        let (channel, body) = parcel.part();
        let own = (parcel.messages, channel.len() + body.len() + PART_OVERHEAD);
        let more = (held.0 + own.0, held.1 + own.1);
        let fits =
            |batch: &&mut Vec<Parcel>| batch.len() < CHANNELS_MAX && more.0 <= MESSAGES_MAX && more.1 <= BYTES_MAX;
        match batches.last_mut().filter(fits) {
            Some(batch) => {
                held = more;
                batch.push(parcel);
            }
            None => {
                held = own;
                batches.push(vec![parcel]);
            }
        }
    }
    batches
}

impl Api {
    /// Publishes a batch. One that is refused as a whole is published again one by one: the refusal may be about one of them,
    /// and nothing says about which.
    pub(in super::super) async fn publish(self, auth: Auth, parcels: Vec<Parcel>, body: Bytes) -> Vec<Done> {
        let (answer, renewed) = self.send(auth.clone(), &Method::POST, "messages", &body).await;
        if let Answer::Refused(rejection, wait) = &answer
            && !is_for_all(rejection, *wait)
        {
            let auth = renewed.unwrap_or(auth);
            return join_all(parcels.into_iter().map(|parcel| self.clone().perform(auth.clone(), parcel))).await;
        }
        let taken = if let Answer::Taken(body) = &answer { self.outcomes(body, parcels.len()) } else { None };
        let (outcomes, trouble) = taken.map_or_else(
            || {
                let (outcome, trouble) = answer.without_outcome();
                (vec![outcome; parcels.len()], trouble)
            },
            |outcomes| (outcomes, None),
        );
        let done = |(parcel, outcome): (Parcel, _)| Done { op: parcel.op, outcome, renewed: None, trouble: None };
        let mut done: Vec<Done> = parcels.into_iter().zip(outcomes).map(done).collect();
        // Said once, and after what says nothing of the way there.
        if let Some(last) = done.last_mut() {
            (last.renewed, last.trouble) = (renewed, trouble);
        }
        done
    }

    /// What the answer to a batch says of each of its parts; `None` when it is not Ably's.
    fn outcomes(&self, body: &[u8], parts: usize) -> Option<Vec<Outcome>> {
        let all: Vec<Part<'_>> = self.settings.encoding.decode(body).ok()?;
        let outcomes: Option<Vec<_>> = all.into_iter().map(|part| part.results.into_iter().next()?.outcome()).collect();
        outcomes.filter(|outcomes| outcomes.len() == parts)
    }
}

impl Said<'_> {
    fn outcome(self) -> Option<Outcome> {
        if let Some(error) = &self.error {
            return Some(Outcome::Rejected(fault::rejection(Some(error))));
        }
        let serial = self.serials?.into_iter().next().flatten();
        Some(Outcome::Acked { serial: serial.map(|serial| Arc::from(&*serial)) })
    }
}
