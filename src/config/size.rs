//! Sizes as they are printed: no rounder than they are, so that what is printed loads again as the same.

use bytesize::ByteSize;
use serde::Serializer;

/// From large to small.
const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// In the largest unit of which it is so many.
pub(super) fn exactly<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = size.as_u64();
    let fitting = UNITS.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (name, unit) = fitting.unwrap_or(("B", 1));
    serializer.collect_str(&format_args!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use crate::config::InFlight;

    #[test]
    fn what_is_printed_is_what_there_is() {
        for (bytes, printed) in [
            (0, "0B"),
            (1, "1B"),
            (1_000, "1000B"),
            (1 << 10, "1KiB"),
            (10_000, "10000B"),
            (1_025, "1025B"),
            (3 << 19, "1536KiB"),
            (5 << 20, "5MiB"),
            (7 << 30, "7GiB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            let bytes = bytesize::ByteSize::b(bytes);
            let text = toml::to_string(&InFlight { bytes, ..InFlight::default() }).expect("it is printed");
            assert!(text.contains(&format!("bytes = \"{printed}\"")), "{bytes:?}: {text}");
            let again: InFlight = toml::from_str(&text).expect("it loads again");
            assert_eq!(again.bytes, bytes, "{printed}");
        }
    }
}
