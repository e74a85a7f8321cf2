#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kullback_fuzz::check(bytes));
