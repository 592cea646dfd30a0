//! See `targets.rs`.
#![no_main]

#[path = "../targets.rs"]
#[expect(dead_code, reason = "one of its functions is this program's")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::answer(data));
