//! The cases of the protocol core.

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use culvert_proto::code::ResetCode;
use culvert_proto::head::{CallHead, Head};
use culvert_proto::heads::{decode_call, decode_head, encode_call, encode_head};
use culvert_proto::mux::{Mux, StreamId};

use super::{answer, call_head, pair, pump, read_all};

/// Heads, each way.
pub struct Heads {
    call: CallHead,
    answer: Head,
    encoded_call: Bytes,
    encoded_answer: Bytes,
    out: BytesMut,
}

impl Heads {
    pub fn new() -> Self {
        let (call, answer) = (call_head(), answer());
        let (mut encoded_call, mut encoded_answer) = (BytesMut::new(), BytesMut::new());
        encode_call(&call, &mut encoded_call).unwrap();
        encode_head(&answer, &mut encoded_answer).unwrap();
        Self {
            call,
            answer,
            encoded_call: encoded_call.freeze(),
            encoded_answer: encoded_answer.freeze(),
            out: BytesMut::with_capacity(4096),
        }
    }

    pub fn encode_call(&mut self) {
        self.out.clear();
        encode_call(black_box(&self.call), &mut self.out).unwrap();
    }

    pub fn decode_call(&self) -> CallHead {
        decode_call(black_box(self.encoded_call.clone())).unwrap()
    }

    pub fn encode_answer(&mut self) {
        self.out.clear();
        encode_head(black_box(&self.answer), &mut self.out).unwrap();
    }

    pub fn decode_answer(&self) -> Head {
        decode_head(black_box(self.encoded_answer.clone())).unwrap()
    }
}

/// A call without a body and its answer of 200 bytes, through both ends.
pub struct SmallCall {
    relay: Mux,
    agent: Mux,
    call: CallHead,
    answer: Head,
    now: Instant,
}

impl SmallCall {
    pub fn new(now: Instant) -> Self {
        let (relay, agent) = pair(now);
        Self {
            relay,
            agent,
            call: call_head(),
            answer: answer(),
            now,
        }
    }

    pub fn run(&mut self) {
        let Self {
            relay, agent, now, ..
        } = self;
        let id = relay.open(&self.call, Bytes::new(), true).unwrap();
        pump(relay, agent, *now);
        let (accepted, head) = agent.accept().unwrap();
        black_box(head);
        read_all(agent, accepted, *now);
        agent.send_head(accepted, &self.answer).unwrap();
        agent
            .write(accepted, &mut Bytes::from_static(&[7; 200]))
            .unwrap();
        agent.finish(accepted).unwrap();
        pump(relay, agent, *now);
        read_all(relay, id, *now);
        let_go([relay, agent], id);
    }
}

/// An upload of 4 MiB through both ends.
pub struct Bulk {
    relay: Mux,
    agent: Mux,
    data: Bytes,
    now: Instant,
}

impl Bulk {
    pub const SIZE: usize = 4 << 20;

    pub fn new(now: Instant) -> Self {
        let (relay, agent) = pair(now);
        let data = Bytes::from(vec![7; 64 * 1024]);
        Self {
            relay,
            agent,
            data,
            now,
        }
    }

    pub fn run(&mut self) {
        let Self {
            relay,
            agent,
            data,
            now,
        } = self;
        let id = relay.open(&call_head(), Bytes::new(), false).unwrap();
        pump(relay, agent, *now);
        agent.accept().unwrap();
        for _ in 0..Self::SIZE / data.len() {
            let mut chunk = data.clone();
            while !chunk.is_empty() {
                relay.write(id, &mut chunk).unwrap();
                pump(relay, agent, *now);
                while let Ok(Some(item)) = agent.read(id, *now) {
                    black_box(item);
                }
            }
        }
        relay.reset(id, ResetCode::Cancelled);
        let_go([relay, agent], id);
        pump(relay, agent, *now);
    }
}

/// One frame of 32 KiB, an eighth of the window: received, read, and credit granted for it.
pub struct Credit {
    relay: Mux,
    agent: Mux,
    id: StreamId,
    data: Bytes,
    now: Instant,
}

impl Credit {
    pub fn new(now: Instant) -> Self {
        let (mut relay, mut agent) = pair(now);
        let id = relay.open(&call_head(), Bytes::new(), false).unwrap();
        pump(&mut relay, &mut agent, now);
        agent.accept().unwrap();
        let data = Bytes::from(vec![7; 32 * 1024]);
        Self {
            relay,
            agent,
            id,
            data,
            now,
        }
    }

    pub fn run(&mut self) {
        self.relay.write(self.id, &mut self.data.clone()).unwrap();
        pump(&mut self.relay, &mut self.agent, self.now);
        while let Ok(Some(item)) = self.agent.read(self.id, self.now) {
            black_box(item);
        }
        pump(&mut self.relay, &mut self.agent, self.now);
    }
}

/// An end with so many streams that all have data to send.
pub fn waiting(now: Instant, streams: usize) -> Mux {
    let (mut relay, mut agent) = pair(now);
    let open = || relay.open(&call_head(), Bytes::new(), false).unwrap();
    let ids: Vec<_> = std::iter::repeat_with(open).take(streams).collect();
    pump(&mut relay, &mut agent, now);
    for id in ids {
        relay
            .write(id, &mut Bytes::from_static(&[7; 1000]))
            .unwrap();
    }
    relay
}

fn let_go(ends: [&mut Mux; 2], id: StreamId) {
    for mux in ends {
        mux.release_send(id);
        mux.release_recv(id);
    }
}
