//! Puts into a transaction what is to be written.

use std::collections::HashSet;
use std::sync::Arc;

use rdkafka::consumer::ConsumerGroupMetadata;

use super::{CALL, Failure, LOOK, Thread, Written};
use crate::engine::ReportSeq;
use crate::kafka::error::Error;
use crate::kafka::results::batch::Lane;
use crate::kafka::results::outbox::{Kept, Place, Sent};

impl Thread {
    /// Begins a transaction and puts into it what is to be written.
    pub(super) fn fill(
        &mut self,
        group: Option<Arc<ConsumerGroupMetadata>>,
        gone: &HashSet<Lane>,
    ) -> Result<Written, Failure> {
        self.outbox.begin().map_err(|error| self.failure(error))?;
        let mut written = Written::default();
        self.produce_reports(gone, &mut written)?;
        if self.again.as_ref().is_none_or(|(missing, _)| missing.letters) {
            self.produce_letters(&mut written)?;
        }
        self.delivered(&mut written)?;
        if let Some(group) = group.filter(|_| !self.marks.is_empty()) {
            let offsets = self.offsets(|_| true);
            let added = self.shared.call(|| self.outbox.add_offsets(&offsets, &group, CALL));
            added.map_err(|error| self.failure(error))?;
            written.offsets = true;
        }
        Ok(written)
    }

    fn produce_reports(&mut self, gone: &HashSet<Lane>, written: &mut Written) -> Result<(), Failure> {
        let batches = std::mem::take(&mut self.batches);
        let mut produced = Ok(());
        let reports = batches.iter().flat_map(|batch| batch.reports.iter().map(|report| (report, &batch.bytes)));
        for (report, bytes) in reports.filter(|(report, _)| !gone.contains(&report.lane)) {
            if self.again.as_ref().is_some_and(|(missing, _)| !missing.results.contains(&report.lane.partition)) {
                continue;
            }
            self.outbox.report(report, bytes);
            if self.carefully || self.outbox.is_full() {
                produced = self.delivered(written);
                if produced.is_err() {
                    break;
                }
            }
        }
        self.batches = batches;
        produced
    }

    fn produce_letters(&mut self, written: &mut Written) -> Result<(), Failure> {
        self.letters.sort_by_key(|letter| (letter.lane.partition, letter.offset));
        let mut letters = std::mem::take(&mut self.letters).into_iter();
        while let Some(letter) = letters.next() {
            self.outbox.resend(Sent::Letter(Box::new(letter)));
            if self.carefully
                && let Err(failure) = self.delivered(written)
            {
                self.letters.extend(letters);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Waits until everything that was produced is delivered.
    fn delivered(&mut self, written: &mut Written) -> Result<(), Failure> {
        let alone = self.carefully;
        let mut refused: Option<Kept> = None;
        while self.outbox.on_its_way() > 0 {
            self.outbox.wait(LOOK);
            for delivery in self.outbox.delivered() {
                match delivery {
                    Ok((Sent::Report { lane, seq, .. }, place)) => {
                        let last: &mut (ReportSeq, i64) = written.lanes.entry(lane).or_default();
                        *last = (last.0.max(seq), last.1.max(place.offset + 1));
                    }
                    Ok((Sent::Letter(letter), Place { partition, offset })) => {
                        let end: &mut i64 = written.letters.entry(partition).or_default();
                        *end = (*end).max(offset + 1);
                        self.letters.push(*letter);
                    }
                    Err(kept) => refused = Some(self.keep(kept, refused, alone)),
                }
            }
            if self.shared.is_over() {
                return Err(Failure::Fatal(self.not_durable()));
            }
        }
        match refused {
            None => Ok(()),
            // By itself, or with others? A dead letter that is too long by itself is shorter the next time.
            Some(kept) if kept.is_too_long() && (!alone || kept.is_letter()) => Err(self.abort(None)),
            Some(kept) => {
                let kept = self.explain(kept)?;
                Err(match self.abort(Some(kept.trouble(&self.outbox))) {
                    // What of its numbers the broker knows is not sure any more.
                    Failure::Aborted(reason) => Failure::Broken(reason),
                    failure => failure,
                })
            }
        }
    }

    /// A record that comes back because the transaction has failed does not say why that has. The transaction does, when it is
    /// to be committed.
    fn explain(&mut self, mut kept: Kept) -> Result<Kept, Failure> {
        if kept.is_purged() {
            match self.shared.call(|| self.outbox.commit(CALL)) {
                Ok(()) => {
                    let reason = "records came back from a transaction that was committed".to_owned();
                    return Err(Failure::Fatal(Error::Fatal { role: "results", reason }));
                }
                Err(error) => kept.explain(&error),
            }
        }
        Ok(kept)
    }

    /// A record was refused: a dead letter that is too long, and was alone, gets shorter.
    fn keep(&mut self, mut kept: Kept, before: Option<Kept>, alone: bool) -> Kept {
        let too_long = kept.is_too_long();
        if let Some(mut letter) = kept.take_letter() {
            if too_long && alone {
                letter.shorten();
            }
            self.letters.push(*letter);
        }
        self.carefully |= too_long;
        before.filter(Kept::is_too_long).unwrap_or(kept)
    }
}
