//! Long random walks through everything that two ends can do, with the model beside them.
//!
//! Four million steps each time; more by
//! `CULVERT_MODEL_STEPS=100000000 cargo test -p culvert-proto walks`. A walk is known by its
//! number: one that fails is shortened before it is shown, and
//! `CULVERT_MODEL_WALK=number cargo test -p culvert-proto walks` takes that one alone.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mux::model::seen::Seen;
use crate::mux::model::step::{Setup, Step};
use crate::mux::model::world::World;

/// Steps of one walk, if its session lives so long.
const STEPS: usize = 1000;

/// Walks that are tried to make a failing one shorter.
const ATTEMPTS: usize = 2000;

/// Numbers that look random and depend on the walk's number alone (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn walk(number: u64) -> (Setup, Vec<Step>) {
    let mut numbers = Numbers(number);
    let setup = Setup::of(std::array::from_fn(|_| numbers.next() as u8));
    let steps = (0..STEPS)
        .map(|_| {
            let number = numbers.next();
            Step::of(number as u8, (number >> 8) as u16, (number >> 24) as u16)
        })
        .collect();
    (setup, steps)
}

/// Takes the steps until the session is over or they are.
fn take(setup: Setup, steps: &[Step]) -> Seen {
    let mut world = World::new(setup);
    for step in steps {
        world.step(step);
        if world.is_over() {
            break;
        }
    }
    world.end();
    world.seen
}

fn fails(setup: Setup, steps: &[Step]) -> bool {
    catch_unwind(AssertUnwindSafe(|| take(setup, steps))).is_err()
}

/// Leaves out as many steps as can be, so that it still fails.
fn shortened(setup: Setup, mut steps: Vec<Step>) -> Vec<Step> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let (mut part, mut attempts) = (steps.len() / 2, 0);
    while part > 0 && attempts < ATTEMPTS {
        let (mut at, before) = (0, steps.len());
        while at < steps.len() && attempts < ATTEMPTS {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + part).min(steps.len()));
            attempts += 1;
            if fails(setup, &fewer) {
                steps = fewer;
            } else {
                at += part;
            }
        }
        if steps.len() == before || part > 1 {
            part /= 2;
        }
    }
    set_hook(hook);
    steps
}

#[test]
fn millions_of_steps_keep_every_promise() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let most: u64 = number("CULVERT_MODEL_STEPS").unwrap_or(4_000_000);
    let (next, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    let all = Mutex::new(Seen::default());
    let check = |number: u64| {
        let (setup, steps) = walk(number);
        match catch_unwind(|| take(setup, &steps)) {
            Ok(seen) => {
                taken.fetch_add(seen.steps, Ordering::Relaxed);
                all.lock().unwrap().add(seen);
            }
            Err(_) => {
                let steps: Vec<String> = shortened(setup, steps)
                    .iter()
                    .map(|step| format!("    {step:?}"))
                    .collect();
                let steps = steps.join("\n");
                panic!(
                    "walk {number} fails as shown above; again, with its last words: \
                     CULVERT_MODEL_WALK={number} cargo test -p culvert-proto walks\n\
                     Shortest walk that fails: {setup:?}\n{steps}"
                )
            }
        }
    };
    if let Some(number) = number("CULVERT_MODEL_WALK") {
        check(number);
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while taken.load(Ordering::Relaxed) < most {
                    check(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    let (walks, seen) = (next.into_inner(), all.into_inner().unwrap());
    eprintln!("{walks} walks: {seen:#?}");
    // The rarest of it a hundred times in a million steps.
    if most >= 1_000_000 {
        seen.assert_everything_happened();
    }
}
