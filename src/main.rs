//! The `tokenrelay` program.

fn main() {}
