//! What two reports are compared by.

use crate::report::{Better, Round, Use, Way};

/// A measure: its name, which change is good, and its figure in a round.
type Measure = (String, Better, Box<dyn Fn(&Round) -> Option<f64>>);

/// What is compared of a way.
pub(super) fn measures(way: &Way) -> Vec<Measure> {
    let open = way
        .rounds
        .first()
        .is_some_and(|round| round.asked_rate.is_some());
    let bulk = way
        .rounds
        .iter()
        .any(|round| round.bytes > round.calls * (256 << 10) && round.bytes > 0);
    let mut all: Vec<Measure> = Vec::new();
    let mut add = |name: &str, better, of: fn(&Round) -> Option<f64>| {
        all.push((name.to_owned(), better, Box::new(of)));
    };
    // By a schedule the rate is what was asked for.
    if bulk {
        add("MB/s", Better::Higher, |round| {
            Some(round.megabytes_per_second())
        });
        add("CPU s/GiB", Better::Lower, |round| {
            round.all_processes(|used| used.cpu_s_per_gib)
        });
    } else {
        if !open {
            add("calls/s", Better::Higher, |round| {
                Some(round.calls_per_second())
            });
        }
        add("CPU ms/1000 calls", Better::Lower, |round| {
            round.all_processes(|used| used.cpu_ms_per_1000_calls)
        });
        // Where transfers run beside the calls it is theirs.
        add("CPU s/GiB", Better::Lower, |round| {
            let calls = round.all_processes(|used| used.cpu_ms_per_1000_calls);
            let gib = round.all_processes(|used| used.cpu_s_per_gib);
            gib.filter(|_| calls.is_none())
        });
    }
    add("p50 ms", Better::Lower, |round| {
        latency(round, round.latency.p50)
    });
    add("p99 ms", Better::Lower, |round| {
        latency(round, round.latency.p99)
    });
    add("errors, share", Better::Lower, |round| {
        Some(round.error_share())
    });
    add("memory MiB", Better::Lower, |round| {
        round.all_processes(Use::mebibytes)
    });
    for (name, (value, _)) in way.values() {
        let key = name.to_owned();
        let of = move |round: &Round| round.values.get(&key).map(|value| value.value);
        let shown = format!("{name} {}", value.unit).trim_end().to_owned();
        all.push((shown, value.better, Box::new(of)));
    }
    all
}

fn latency(round: &Round, micros: u64) -> Option<f64> {
    (round.latency.count > 0).then_some(micros as f64 / 1e3)
}
