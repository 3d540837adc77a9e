//! Anything on a connection whose WebSocket handshake is done.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| culvert_proto::mux::model::websocket(data));
