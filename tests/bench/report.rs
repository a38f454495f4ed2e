//! The numbers: as a table for people, as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One number of the relay beside the floor's, if there is one; where the price of exactly-once delivery is asked, beside
/// that of the relay with at-least-once delivery.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) relay: f64,
    pub(crate) floor: Option<f64>,
    pub(crate) goal: Option<Goal>,
}

/// What the relay's number should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// At most so many times the floor's.
    TimesFloor(f64),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::TimesFloor(times) => self.floor.is_some_and(|floor| self.relay <= floor * times),
            Goal::AtMost(most) => self.relay <= most,
            Goal::AtLeast(least) => self.relay >= least,
        })
    }
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = format!("\n{:52} {:>10} {:>10} {:>7}  {}\n", "", "relay", "floor", "ratio", "goal");
    for row in rows {
        let name = format!("{} ({})", row.name, row.unit);
        let (floor, ratio) = row
            .floor
            .map_or_else(Default::default, |floor| (format!("{floor:.2}"), format!("{:.2}", row.relay / floor)));
        let goal = match row.goal {
            Some(Goal::TimesFloor(times)) => format!("<= {times} x floor"),
            Some(Goal::AtMost(most)) => format!("<= {most}"),
            Some(Goal::AtLeast(least)) => format!(">= {least}"),
            None => String::new(),
        };
        let met = match row.is_met() {
            Some(true) => ": met",
            Some(false) => ": MISSED",
            None => "",
        };
        writeln!(table, "{name:52} {:>10.2} {floor:>10} {ratio:>7}  {goal}{met}", row.relay).expect("written");
    }
    table
}

pub(crate) fn json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let goal = match row.goal {
            Some(Goal::TimesFloor(times)) => json!({"timesFloor": times}),
            Some(Goal::AtMost(most)) => json!({"atMost": most}),
            Some(Goal::AtLeast(least)) => json!({"atLeast": least}),
            None => Value::Null,
        };
        json!({"name": row.name, "unit": row.unit, "relay": row.relay, "floor": row.floor, "goal": goal, "met": row.is_met()})
    });
    format!("{}\n", Value::Array(rows.collect()))
}
