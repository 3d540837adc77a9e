//! Two ends in conversation, with the model beside them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| culvert_proto::mux::model::operations(data));
