//! Reports: puts what became of operations and responses into records for the results topic.
//!
//! Records are serialised at once, into a buffer that is used again: a report costs no allocation of its own.

use super::effect::{Effect, Effects, Fact, Report, ReportSeq};
use super::flow::Flow;
use super::op::OpKind;
use super::outcome::{Answer, Doubt, Outcome};
use super::record::{
    Cause, Covered, ErrorClass, ErrorInfo, OperationOutcome, OperationRecord, ResponseOutcome, ResponseRecord,
    ResultRecord, SCHEMA_VERSION, Stamp, json,
};
use super::response::{InFlight, Response};
use super::settings::Settings;
use super::time::Time;

/// Writes the reports of one partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reporter<'a> {
    pub(super) now: Time,
    pub(super) partition: i32,
    pub(super) epoch: u64,
    pub(super) settings: &'a Settings,
}

impl Reporter<'_> {
    /// Reports what became of an operation.
    pub(super) fn operation(
        &self,
        seq: ReportSeq,
        response: &Response,
        operation: &InFlight,
        answer: &Answer,
        flow: &Flow,
        effects: &mut Effects,
    ) {
        let (outcome, version_serial, error) = self.explain(answer);
        let (latency, is_publish) = (self.now.since(operation.sent_at), operation.kind == OpKind::Publish);
        let (head, serial) = response.target(operation);
        let record = ResultRecord::Operation(OperationRecord {
            v: SCHEMA_VERSION,
            response_id: &response.head.response_id,
            part: response.head.part,
            channel: &response.head.channel,
            pattern: response.pattern().as_str(),
            op: operation.kind,
            name: operation.published.map(|published| published.name.as_str()),
            op_seq: operation.seq,
            cause: operation.cause,
            outcome,
            covered: self.covered(operation.span),
            tokens: operation.tokens,
            bytes: operation.bytes,
            segment: head.segment,
            serial: serial.map(|serial| &**serial).or(version_serial.filter(|_| is_publish)),
            version_serial: version_serial.filter(|_| !is_publish),
            create_id: (operation.kind == OpKind::Create).then_some(&*response.head.create_id),
            resent: answer.resent,
            error,
            attempt: operation.attempt,
            sent_at: Stamp(operation.sent_at),
            settled_at: Stamp(self.now),
            latency_ms: millis(latency),
            queued_ms: millis(operation.queued),
            instance: &self.settings.instance,
            relay_version: self.settings.relay_version,
            epoch: self.epoch,
            connection_id: flow.ably_id(answer.connection),
            client_id: flow.client_id(answer.connection).filter(|_| operation.kind == OpKind::Create),
            supersedes: self.superseded(response, operation),
            replaces: response.head.supersedes.as_deref().filter(|_| operation.kind == OpKind::Create),
            cut: response
                .segments
                .place()
                .filter(|_| head.segment == response.head.segment && operation.kind != OpKind::Append),
            reopens: response.reopens.as_deref().copied().filter(|_| operation.kind != OpKind::Append),
        });
        let fact = Fact::Operation {
            op: operation.kind,
            cause: operation.cause,
            outcome,
            class: answer.outcome.class(),
            latency,
            tokens: operation.tokens,
        };
        write(seq, response, &record, fact, effects);
    }

    /// Reports how a response ended.
    pub(super) fn response(
        &self,
        seq: ReportSeq,
        response: &Response,
        outcome: ResponseOutcome,
        reason: Option<&str>,
        effects: &mut Effects,
    ) {
        let counts = &response.counts;
        // Of what was cut off only a part may ever have been read.
        let text_sha256 = if response.cut_off.is_some() { String::new() } else { response.text.sha256() };
        let record = ResultRecord::Response(ResponseRecord {
            v: SCHEMA_VERSION,
            response_id: &response.head.response_id,
            part: response.head.part,
            channel: &response.head.channel,
            pattern: response.pattern().as_str(),
            outcome,
            reason,
            covered: self.covered(response.span),
            tokens: counts.tokens,
            bytes: response.text.len() as u64,
            operations: counts.operations,
            rejected: counts.rejected,
            unknown: counts.unknown,
            repairs: counts.repairs,
            segments: response.count_segments(),
            text_sha256: &text_sha256,
            serial: response.first_serial().map(|serial| &**serial),
            started_at: Stamp(response.started_at),
            last_event_at: Stamp(response.last_event_at),
            first_ack_at: response.first_ack_at.map(Stamp),
            settled_at: Stamp(self.now),
            time_to_first_ack_ms: response.first_ack_at.map(|at| millis(at.since(response.started_at))),
            dirty_ms: millis(response.repair.dirty(self.now)),
            gaps: counts.gaps,
            duplicates: counts.duplicates,
            headless: response.headless,
            reopened: counts.reopened,
            verified: response.verified(),
            instance: &self.settings.instance,
            relay_version: self.settings.relay_version,
            epoch: self.epoch,
        });
        let fact =
            Fact::Response { outcome, headless: response.headless, gaps: counts.gaps, duplicates: counts.duplicates };
        write(seq, response, &record, fact, effects);
    }

    fn explain<'a>(&self, answer: &'a Answer) -> (OperationOutcome, Option<&'a str>, Option<ErrorInfo<'a>>) {
        match &answer.outcome {
            Outcome::Acked { serial } => (OperationOutcome::Acked, serial.as_deref(), None),
            Outcome::Rejected(rejection) => {
                let error = ErrorInfo {
                    code: Some(rejection.code),
                    status_code: Some(rejection.status_code),
                    class: ErrorClass::Refused(rejection.class),
                    message: &rejection.message,
                };
                (OperationOutcome::Rejected, None, Some(error))
            }
            Outcome::Unknown(doubt) => {
                let class = ErrorClass::Doubtful(*doubt);
                let error = ErrorInfo { code: None, status_code: None, class, message: in_words(*doubt) };
                (OperationOutcome::Unknown, None, Some(error))
            }
        }
    }

    /// The records whose operations died with the former owner.
    fn superseded(&self, response: &Response, operation: &InFlight) -> Option<Covered<'_>> {
        let takeover = response.takeover.filter(|_| operation.cause == Cause::Takeover)?;
        let (first, last) = operation.span;
        let first = response.through.map_or(first, |through| first.max(through + 1));
        let last = last.min(takeover.before - 1);
        (first <= last).then(|| self.covered((first, last)))
    }

    fn covered(&self, (first, last): (i64, i64)) -> Covered<'_> {
        Covered { topic: &self.settings.topic, partition: self.partition, first, last }
    }
}

fn write(seq: ReportSeq, response: &Response, record: &ResultRecord<'_>, fact: Fact, effects: &mut Effects) {
    let start = effects.bytes.len();
    effects.bytes.extend_from_slice(response.head.response_id.as_bytes());
    let middle = effects.bytes.len();
    json::write(record, &mut effects.last_second, &mut effects.bytes);
    let end = effects.bytes.len();
    effects.list.push(Effect::Report(Report {
        seq,
        key: start..middle,
        value: middle..end,
        fact,
        traceparent: response.traceparent.clone(),
    }));
}

fn millis(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

const fn in_words(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::ConnectionLost => "the connection was lost before the answer",
        Doubt::Skipped => "later operations were answered, this one was not",
        Doubt::NoSerial => "taken, but the answer names no message",
        Doubt::Stopped => "the connection was ended before the answer",
        Doubt::NoAnswer => "the request got no answer that says what became of it",
    }
}
