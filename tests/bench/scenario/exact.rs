//! What exactly-once delivery costs beside at-least-once, and how soon a relay goes on that was killed.

use std::time::Duration;

use super::{ABREAST, AT_LEAST_ONCE, Bench, EXACTLY_ONCE, Goal, RELAY, Row, Subject, UNLIMITED, wait};
use crate::sink::now_us;

const EXACTLY: Subject = Subject::Relay { channel_rate: UNLIMITED, delivery: EXACTLY_ONCE };

/// Tokens of open responses that a relay finds when it starts again.
const LEFT: u32 = 1_000_000;

impl Bench<'_> {
    pub(super) fn delivery(&mut self) -> Vec<Row> {
        let (exactly, at_least) = self.by_turns(EXACTLY, |_| RELAY);
        let latency = (self.paced(EXACTLY), self.paced(RELAY));
        let bare = self.load().bare_commit().as_secs_f64() * 1e3;
        let row = |what: &str, unit, relay, floor, goal| Row {
            name: format!("{EXACTLY_ONCE} ({AT_LEAST_ONCE}), {what}"),
            unit,
            relay,
            floor,
            goal,
        };
        let cpu = Some(Goal::TimesFloor(1.2));
        let (exact_cpu, least_cpu) = (exactly.cpu_seconds_per_million, at_least.cpu_seconds_per_million);
        let (exact_speed, least_speed) = (exactly.tokens_per_second / 1e3, at_least.tokens_per_second / 1e3);
        let millis = |micros: u64| micros as f64 / 1e3;
        let (exact_seen, least_seen) = (latency.0.0, latency.1.0);
        let (exact_p50, least_p50) = (millis(exact_seen.p50_us), millis(least_seen.p50_us));
        let (exact_p99, least_p99) = (millis(exact_seen.p99_us), millis(least_seen.p99_us));
        vec![
            row("CPU", "s/M tokens", exact_cpu, Some(least_cpu), cpu),
            row("throughput", "k tokens/s", exact_speed, Some(least_speed), None),
            row("p50", "ms", exact_p50, Some(least_p50), Some(Goal::TimesFloor(1.1))),
            row("p99", "ms", exact_p99, Some(least_p99), None),
            Row {
                name: "transaction at full load (a bare one)".to_owned(),
                unit: "ms",
                relay: exactly.commit_ms,
                floor: Some(bare),
                goal: None,
            },
            Row {
                name: "share of the time with a transaction open".to_owned(),
                unit: "1",
                relay: exactly.commit_share,
                floor: None,
                goal: None,
            },
        ]
    }

    /// From the start of a process whose predecessor was killed until Ably has its first operation. The floor reads the same
    /// records and does nothing with them.
    pub(super) fn restart(&mut self) -> Row {
        const TOKENS: u32 = 200;
        let (text, left) = (" token", LEFT / self.plan.scale);
        let load = self.load();
        load.fill(left / TOKENS, TOKENS, (left / TOKENS).max(ABREAST), text, false, None);
        let mut process = self.start(EXACTLY, "bytes");
        wait("all texts have arrived", || {
            process.must_live();
            self.seen().text_bytes >= u64::from(left) * text.len() as u64
        });
        // The last results have their transaction, as if it had been killed while nothing came.
        std::thread::sleep(Duration::from_secs(2));
        drop(process);
        let floor = load.read_all();
        let begun = now_us();
        let mut process = self.start(EXACTLY, "none");
        wait("the first operation has arrived", || {
            process.must_live();
            self.seen().frames > 0
        });
        let relay = (self.seen().first_us - begun) as f64 / 1e6;
        let name = format!("restart with {left} tokens above the watermark");
        let goal = (self.plan.scale == 1).then_some(Goal::AtMost(3.0));
        Row { name, unit: "s", relay, floor: Some(floor.as_secs_f64()), goal }
    }
}
