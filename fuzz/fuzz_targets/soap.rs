//! Bytes as the body of a SOAP call.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| culvert_policy::model::soap(data));
