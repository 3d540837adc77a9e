//! A peer that sends anything to a session.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| culvert_proto::mux::model::frames(data));
