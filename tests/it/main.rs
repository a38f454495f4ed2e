//! The tests that need the whole: one binary.
