//! The engine: decides, for one partition of the tokens topic, what is sent to Ably and what is said of it.
//!
//! Pure: no clock, no sockets, no tasks. [`Engine::apply`] takes one [`Input`] and the moment at which it happened and
//! adds [`Effect`]s to a buffer. What partitions of one process share (connections, budgets, limits) is [`Shared`], lent
//! to every call.

mod effect;
mod event;
mod op;
mod outcome;
mod record;
mod time;

pub use effect::{Effect, Effects, Input, Notice, Refusal, Reload, Report, ReportSeq};
pub use event::{Event, EventKind, Offset, Record};
pub use op::{ConnectionId, Head, MESSAGE_NAME, OpId, OpKind, Operation, Status};
pub use outcome::{Answer, Class, Doubt, Outcome, Rejection, Serial};
pub use record::{
    Cause, Covered, ErrorClass, ErrorInfo, OperationOutcome, OperationRecord, ResponseOutcome, ResponseRecord,
    ResultRecord, SCHEMA_VERSION, Stamp,
};
pub use time::Time;
