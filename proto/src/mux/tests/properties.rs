//! Properties over random conversations and random bytes.
//!
//! The number of cases is proptest's (`PROPTEST_CASES`).

use proptest::prelude::*;

use super::*;
use crate::mux::model::inputs::{Said, feed};
use crate::mux::model::step::{Setup, Step};
use crate::mux::model::world::World;
use crate::mux::model::{controls, frames, heads, operations, seeds};

proptest! {
    #[test]
    fn a_conversation_keeps_every_promise(
        setup in any::<[u8; 10]>().prop_map(Setup::of),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(setup);
        for step in &steps {
            world.step(step);
        }
        world.end();
    }

    #[test]
    fn no_bytes_make_a_session_panic(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        frames(&data);
    }

    #[test]
    fn what_can_be_read_has_one_spelling(data in prop::collection::vec(any::<u8>(), 0..60)) {
        heads(&data);
        controls(&data);
    }

    /// What a fuzzer does first to its seeds.
    #[test]
    fn damage_to_what_is_well_formed_makes_nothing_panic(
        seed in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let seeds = seeds();
        let (target, _, mut data) = seeds[seed.index(seeds.len())].clone();
        for (at, byte) in damage {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if cut.index(4) == 0 {
            data.truncate(cut.index(data.len()) + 1);
        }
        target_of(target)(&data);
    }

    #[test]
    fn no_frames_make_a_session_panic(frames in prop::collection::vec(any_frame(), 1..40)) {
        let now = start();
        let mut mux = greeted(Side::Dialer, now);
        let id = mux.open(&call_head(), Bytes::from_static(b"body"), false).unwrap();
        transmit(&mut mux, now);
        let mut said = Said { greeted: true, ..Said::default() };
        for (kind, flags, stream, payload) in &frames {
            let mut message = BytesMut::new();
            put_frame(&mut message, *kind, flags & kind.flags(), *stream, payload);
            feed(&mut mux, message.freeze(), stream % 2 == 0, now, &mut said);
        }
        let _ = mux.read(id, now);
    }
}

fn step() -> impl Strategy<Value = Step> {
    any::<(u8, u16, u16)>().prop_map(|(what, pick, size)| Step::of(what, pick, size))
}

/// The check of each fuzz target by its name.
fn target_of(name: &str) -> fn(&[u8]) {
    match name {
        "frames" => frames,
        "heads" => heads,
        "controls" => controls,
        "operations" => operations,
        "websocket" => websocket,
        name => panic!("there is no target {name}"),
    }
}

#[test]
fn every_seed_of_the_fuzz_targets_passes() {
    for (target, _, data) in seeds() {
        target_of(target)(&data);
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
