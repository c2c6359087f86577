#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gusset_ratelimit::fuzz::client(data));
