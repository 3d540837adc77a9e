//! Heads of calls and answers: what can be read has one spelling.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| culvert_proto::mux::model::heads(data));
