//! Bytes as a request target, read by models of lenient upstreams.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| culvert_policy::model::target(data));
