#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oddswire_fuzz::query::check(input));
