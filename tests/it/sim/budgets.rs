//! Budgets, from books of our own: no operation leaves that what we are told forbids already, counted as the server counts; and
//! whatever was refused for its rate is followed by a pause.

use std::collections::HashMap;

use super::plan::Plan;
use super::scene::{Kept, SECOND, hold};
use crate::engine::{Class, Limits, OpId, OpKind, Operation, Outcome, Pipelining};

/// What a frame counts for besides its text.
const FRAME: usize = 1_024;

/// The books.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    connections: HashMap<u32, Meter>,
    frames: HashMap<u32, Meter>,
    channels: HashMap<Box<str>, Meter>,
    bandwidths: HashMap<Box<str>, Meter>,
    account: Meter,
    requests: Meter,
    bandwidth: Meter,
    sent_at: HashMap<OpId, u64>,
}

/// How much of a budget is used up.
#[derive(Debug, Default)]
struct Meter {
    level: f64,
    at: u64,
    refused_at: u64,
}

impl Meter {
    /// Uses some of a budget of `rate` a second, a tenth of a second's worth at once; whether there was so much.
    fn takes(&mut self, now: u64, amount: f64, rate: f64) -> bool {
        if rate == 0.0 {
            return true;
        }
        let most = (rate / 10.0).max(1.0);
        self.level = (self.level - (now - self.at) as f64 / SECOND as f64 * rate).max(0.0);
        self.at = now;
        self.level += amount;
        self.level - amount + amount.min(most) <= most + 1e-3
    }

    /// What was sent then was refused: there is nothing left.
    fn refused(&mut self, now: u64, sent_at: u64, rate: f64) {
        if sent_at > self.refused_at {
            self.takes(now, 0.0, rate);
            self.refused_at = now;
            self.level = self.level.max((rate / 10.0).max(1.0));
        }
    }
}

impl Budgets {
    /// An operation leaves. `counted`: the server does not publish it together with the one before.
    pub(super) fn sent(&mut self, now: u64, plan: &Plan, operation: &Operation, counted: bool) -> Kept {
        let Plan { limits, pipelining, .. } = plan;
        let (c, channel) = (operation.connection, &operation.head.channel);
        self.sent_at.insert(operation.id, now);
        let is_request = *pipelining == Pipelining::Off;
        if !is_request {
            let frames = self.frames.entry(c).or_default().takes(now, 1.0, f64::from(limits.frame_rate));
            hold!(frames, "R14: too many frames on connection {c}");
        }
        if operation.kind == OpKind::Update {
            let bytes = (operation.data.len() + FRAME) as f64;
            let on_channel = self.bandwidths.entry(channel.as_ref().into()).or_default();
            let on_channel = on_channel.takes(now, bytes, limits.channel_bandwidth as f64);
            hold!(on_channel, "R14: too many bytes of full texts on {channel}");
            let of_account = self.bandwidth.takes(now, bytes, limits.account_bandwidth as f64);
            hold!(of_account, "R14: too many bytes of full texts");
        }
        if !counted && !is_request {
            return Ok(());
        }
        let channels = self.channels.entry(channel.as_ref().into()).or_default();
        hold!(channels.takes(now, 1.0, f64::from(limits.channel_rate)), "R14: too many operations on {channel}");
        hold!(self.account.takes(now, 1.0, f64::from(limits.account_rate)), "R14: too many operations");
        if is_request {
            hold!(self.requests.takes(now, 1.0, f64::from(limits.request_rate)), "R14: too many requests");
        } else {
            let connection = self.connections.entry(c).or_default();
            let allows = connection.takes(now, 1.0, f64::from(limits.connection_rate));
            hold!(allows, "R14: too many operations on connection {c}");
        }
        Ok(())
    }

    /// An operation has its outcome.
    pub(super) fn answered(&mut self, now: u64, plan: &Plan, operation: &Operation, outcome: &Outcome) {
        let Some(sent_at) = self.sent_at.remove(&operation.id) else { return };
        let Outcome::Rejected(rejection) = outcome else { return };
        if rejection.class != Class::RateLimited {
            return;
        }
        let Limits { connection_rate, channel_rate, account_rate, request_rate, .. } = plan.limits;
        let (meter, rate) = match rejection.code {
            42_913 => (self.channels.entry((*operation.head.channel).into()).or_default(), channel_rate),
            42_910 | 42_917 => (&mut self.account, account_rate),
            42_914 => {
                // Where no full text was sent it is the channel that pauses, and what was sent before says nothing new.
                return self.channels.entry((*operation.head.channel).into()).or_default().refused_at = now;
            }
            90_010 => return,
            42_918 | 42_922 => (&mut self.requests, request_rate),
            _ if plan.pipelining == Pipelining::Off => (&mut self.requests, request_rate),
            _ => (self.connections.entry(operation.connection).or_default(), connection_rate),
        };
        if rate > 0 {
            meter.refused(now, sent_at, f64::from(rate));
        }
    }
}
