//! Properties over random conversations and random bytes.
//!
//! The number of cases is proptest's (`PROPTEST_CASES`).

use proptest::prelude::*;

use super::pair::Pair;
use super::world::{World, step};
use super::*;
use crate::frame::{self, FIN};
use crate::limits::FRAME;

proptest! {
    #[test]
    fn a_conversation_keeps_every_promise(
        delay in prop_oneof![Just(0u64), 1..200u64],
        growth in prop_oneof![Just(0u64), 1..4_000_000u64],
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(delay, growth);
        for step in &steps {
            world.step(step);
        }
        world.end();
    }

    #[test]
    fn no_bytes_make_a_session_panic(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..8),
        greeted_first in any::<bool>(),
    ) {
        let now = start();
        let mut mux =
            if greeted_first { greeted(Side::Dialer, now) } else { Mux::new(config(Side::Dialer), now) };
        feed(&mut mux, messages.into_iter().map(Bytes::from), now);
    }

    #[test]
    fn no_frames_make_a_session_panic(frames in prop::collection::vec(any_frame(), 1..40)) {
        let now = start();
        let mut mux = greeted(Side::Dialer, now);
        let id = mux.open(&call_head(), Bytes::from_static(b"body"), false).unwrap();
        transmit(&mut mux, now);
        let messages = frames.iter().map(|(kind, flags, stream, payload)| {
            let mut message = BytesMut::new();
            put_frame(&mut message, *kind, flags & kind.flags(), *stream, payload);
            message.freeze()
        });
        feed(&mut mux, messages, now);
        let _ = mux.read(id, now);
    }

    #[test]
    fn no_damage_to_a_conversation_makes_a_session_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let conversation = conversation();
        let now = start();
        let mut mux = Mux::new(config(Side::Dialer), now);
        let mut whole = BytesMut::from(&conversation[..]);
        let at = at.index(whole.len());
        whole[at] = byte;
        whole.truncate(cut.index(whole.len()) + 1);
        feed(&mut mux, [whole.freeze()].into_iter(), now);
    }
}

/// A frame that is one in form, on a stream that may exist.
fn any_frame() -> impl Strategy<Value = (Kind, u8, u32, Vec<u8>)> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<u32>().prop_map(|word| word.to_be_bytes().to_vec()),
        Just(vec![0; 100_000]),
        Just(encoded(
            |out| crate::heads::encode_head(&answer(), out).unwrap()
        )),
        Just(encoded(|out| {
            let head = encoded(|out| crate::heads::encode_call(&call_head(), out).unwrap());
            crate::wire::put_length(out, head.len());
            out.extend_from_slice(&head);
        })),
    ];
    (
        prop::sample::select(Kind::ALL),
        any::<u8>(),
        0..8u32,
        payload,
    )
}

fn encoded(put: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    put(&mut out);
    out.to_vec()
}

/// Everything that an acceptor says in a short conversation, in one message.
fn conversation() -> Bytes {
    let mut pair = Pair::new(Duration::ZERO);
    let now = pair.now;
    let mut all = BytesMut::from(&transmit(&mut Mux::new(config(Side::Acceptor), now), now)[..]);
    let notice = Control::Notice {
        code: None,
        text: "hello".into(),
    };
    pair.acceptor.send_control(&notice).unwrap();
    let body = Bytes::from(vec![7; 3 * FRAME]);
    let id = pair.acceptor.open(&call_head(), body, true).unwrap();
    pair.acceptor.stop(id, ResetCode::NotNeeded);
    let gone = pair
        .acceptor
        .open(&call_head(), Bytes::new(), false)
        .unwrap();
    all.extend_from_slice(&transmit(&mut pair.acceptor, now));
    pair.acceptor.reset(gone, ResetCode::Cancelled);
    pair.acceptor.drain(Duration::from_secs(1));
    all.extend_from_slice(&transmit(&mut pair.acceptor, now));
    pair.acceptor.close(GoawayCode::Drain, "good night");
    all.extend_from_slice(&transmit(&mut pair.acceptor, now));
    all.freeze()
}

/// Feeds messages until the session is over, and checks that it stays bounded and ends clean.
fn feed(mux: &mut Mux, messages: impl Iterator<Item = Bytes>, now: Instant) {
    for message in messages {
        let before = mux.ended.is_some();
        let result = mux.handle_message(message, now);
        assert!(!before || result.is_err(), "an error is final");
        let stats = mux.stats();
        assert!(stats.buffered as u64 <= stats.granted);
        while let Some((id, _)) = mux.accept() {
            while let Ok(Some(item)) = mux.read(id, now) {
                if matches!(item, Item::Finished) {
                    break;
                }
            }
        }
        events(mux);
        let batch = transmit(mux, now);
        let mut batch = batch;
        while let Some(frame) = frame::next(&mut batch).unwrap() {
            assert!(
                frame.flags & !FIN == 0,
                "what we send is always well formed"
            );
        }
    }
    if mux.ended.is_some() {
        assert!(mux.is_closed(), "one farewell, and nothing more");
    }
}
