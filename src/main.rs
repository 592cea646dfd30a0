//! The `target-notifyd` executable.
fn main() {}
