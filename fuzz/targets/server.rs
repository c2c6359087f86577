#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gusset_registry::fuzz::server(data));
