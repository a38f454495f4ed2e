//! The errors that the emulator gives, with Ably's codes.

use std::borrow::Cow;

use crate::ably::wire::ErrorInfo;

/// An error as it goes over the wire.
pub(super) type Failure = ErrorInfo<'static>;

/// An error.
pub(super) fn failure(code: u32, status_code: u16, message: impl Into<Cow<'static, str>>) -> Failure {
    let href = Some(format!("https://help.ably.io/error/{code}").into());
    ErrorInfo { code, status_code, message: message.into(), href }
}

pub(super) fn too_large(size: usize, limit: usize) -> Failure {
    let text = format!("Maximum message length exceeded (size was {size} bytes, limit is {limit} bytes)");
    failure(40009, 413, text)
}

pub(super) fn not_mutable() -> Failure {
    let text = "Can only update/delete/append messages on channels with mutableMessages enabled";
    failure(93002, 400, text)
}

pub(super) fn no_such_message() -> Failure {
    failure(40400, 404, "No message with this serial")
}

pub(super) fn forbidden(operation: &str, channel: &str) -> Failure {
    failure(40160, 401, format!("Channel denied access based on given capability: {operation} on {channel}"))
}

pub(super) fn not_attached_to_publish() -> Failure {
    failure(40165, 401, "Unable to publish: the attachment lacks the mode PUBLISH")
}

pub(super) fn connection_rate(limit: u32) -> Failure {
    failure(42911, 429, exceeded("connection.inboundRate", limit))
}

pub(super) fn channel_rate(limit: u32) -> Failure {
    failure(42913, 429, exceeded("channel.maxRate", limit))
}

pub(super) fn channel_bandwidth(limit: u32) -> Failure {
    failure(42914, 429, exceeded("channel.maxBandwidth", limit))
}

fn exceeded(metric: &str, limit: u32) -> String {
    format!("Rate limit exceeded; request rejected (nonfatal); metric = {metric}; permitted rate = {limit}")
}

pub(super) fn account_rate() -> Failure {
    failure(42917, 429, "Rate limit exceeded; request rejected (nonfatal); metric = messages.maxRate")
}

pub(super) fn fatal_rate(code: u32) -> Failure {
    failure(code, 429, "Rate limit exceeded; connection closed (fatal); metric = connection.inboundRate")
}

pub(super) fn too_many_channels() -> Failure {
    failure(90010, 400, "Maximum number of channels per connection exceeded")
}

/// What an injected refusal says.
pub(super) fn injected(code: u32) -> Failure {
    let status_code = match code {
        42_900..=42_999 | 80_021 | 90_021 => 429,
        50_000..=59_999 | 80_003 => 503,
        40_111 | 40_114 | 40_115 => 403,
        40_100..=40_199 => 401,
        40_400..=40_499 => 404,
        40_009 => 413,
        _ => 400,
    };
    failure(code, status_code, "refused by the emulator's faults")
}
