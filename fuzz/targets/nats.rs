#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gusset_broker::fuzz::nats(data));
