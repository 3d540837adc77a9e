//! How many instructions each case of the micro-benches takes, by valgrind's callgrind: figures
//! that do not depend on how busy the machine is, so that a regression shows anywhere.
//!
//! `benches/instructions.sh` compares them with `benches/instructions.toml` and fails if one has
//! risen; `benches/instructions.sh record` writes the file.

#![allow(clippy::print_stdout, reason = "it reports")]

#[path = "../benches/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use bytes::BytesMut;
use common::cases::{Bulk, Credit, Heads, SmallCall, waiting};
use common::tunnel::Tunnel;

/// The part by which a count may rise: `benches/README.md` says how much they vary.
const TOLERANCE: f64 = 0.03;

/// Rounds before those that are counted: tables have grown and lazy statics are there.
const WARM_UP: u32 = 20;

/// A case, and how many rounds of it are counted.
const CASES: [(&str, u32); 10] = [
    ("encode call head", 1000),
    ("decode call head", 1000),
    ("encode answer", 1000),
    ("decode answer", 1000),
    ("small call, both ends", 200),
    ("bulk of 4 MiB, both ends", 3),
    ("credit for one frame", 200),
    ("schedule a batch from 1000 streams", 1),
    ("driver: small call over a pipe", 200),
    ("driver: bulk of 4 MiB over a pipe", 3),
];

/// Counts are taken in here and nowhere else: callgrind is told this name.
#[inline(never)]
fn counted(rounds: u32, mut round: impl FnMut()) {
    for _ in 0..rounds {
        round();
    }
}

fn run(case: &str, rounds: u32) {
    let now = Instant::now();
    let measure = |round: &mut dyn FnMut()| {
        for _ in 0..WARM_UP.min(4 * rounds) {
            round();
        }
        counted(rounds, round);
    };
    let mut heads = Heads::new();
    match case {
        "encode call head" => measure(&mut || heads.encode_call()),
        "decode call head" => measure(&mut || _ = black_box(heads.decode_call())),
        "encode answer" => measure(&mut || heads.encode_answer()),
        "decode answer" => measure(&mut || _ = black_box(heads.decode_answer())),
        "small call, both ends" => {
            let mut call = SmallCall::new(now);
            measure(&mut || call.run());
        }
        "bulk of 4 MiB, both ends" => {
            let mut bulk = Bulk::new(now);
            measure(&mut || bulk.run());
        }
        "credit for one frame" => {
            let mut credit = Credit::new(now);
            measure(&mut || credit.run());
        }
        "schedule a batch from 1000 streams" => {
            let mut relay = waiting(now, 1000);
            let mut batch = BytesMut::with_capacity(80 * 1024);
            counted(rounds, || _ = relay.poll_transmit(&mut batch, now));
        }
        "driver: small call over a pipe" => {
            let tunnel = Tunnel::new();
            measure(&mut || tunnel.call(200));
        }
        "driver: bulk of 4 MiB over a pipe" => {
            let tunnel = Tunnel::new();
            measure(&mut || tunnel.call(4 << 20));
        }
        case => panic!("there is no case {case}"),
    }
}

/// Instructions of one round of a case.
fn count(case: &str, rounds: u32) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args([
            "--collect-atstart=no",
            "--toggle-collect=*instructions*counted*",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["run", case])
        // The same string functions on every machine, whatever its processor has.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-ERMS,-FSRM",
        )
        .output()
        .expect("valgrind is installed");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let counted = words
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse::<u64>().ok())
        .unwrap_or_else(|| panic!("no count in {words}"));
    assert!(counted > 0, "nothing was counted: {words}");
    counted / u64::from(rounds)
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[derive(Default)]
struct Recorded {
    rustc: String,
    counts: BTreeMap<String, u64>,
}

fn read(file: &Path) -> Recorded {
    let text = std::fs::read_to_string(file).expect("counts are recorded");
    let table: toml::Table = text.parse().expect("it is TOML");
    let counts = table["counts"].as_table().expect("a table of counts");
    Recorded {
        rustc: table["rustc"].as_str().expect("a version").to_owned(),
        counts: counts
            .iter()
            .map(|(case, count)| (case.clone(), count.as_integer().unwrap().unsigned_abs()))
            .collect(),
    }
}

fn record(file: &Path) {
    let mut text = format!(
        "# Instructions of one round of each case: `benches/instructions.sh record`.\n\
         rustc = \"{}\"\n\n[counts]\n",
        rustc()
    );
    for (case, rounds) in CASES {
        let count = count(case, rounds);
        println!("{count:>12}  {case}");
        text += &format!("\"{case}\" = {count}\n");
    }
    std::fs::write(file, text).unwrap();
}

/// Whether nothing has risen beyond the tolerance.
fn check(file: &Path) -> bool {
    let recorded = read(file);
    let same_rustc = recorded.rustc == rustc();
    let mut good = true;
    for (case, rounds) in CASES {
        let count = count(case, rounds);
        let Some(before) = recorded.counts.get(case) else {
            println!("{count:>12}  {case}: not recorded yet");
            good = false;
            continue;
        };
        let change = count as f64 / *before as f64 - 1.0;
        let verdict = match change {
            change if change > TOLERANCE => "RISEN",
            change if change < -TOLERANCE => "fallen: record it, so that it stays so",
            _ => "",
        };
        println!("{count:>12}  {:+6.2} %  {case}  {verdict}", 100.0 * change);
        good &= change <= TOLERANCE;
    }
    if !same_rustc {
        println!(
            "Recorded with {}, counted with {}: no verdict. Record again with this one.",
            recorded.rustc,
            rustc()
        );
    }
    good || !same_rustc
}

fn main() -> ExitCode {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", case] => {
            let rounds = CASES.iter().find(|(name, _)| *name == case);
            run(case, rounds.expect("a case").1);
        }
        ["record"] => record(&file),
        ["check"] => {
            if !check(&file) {
                return ExitCode::FAILURE;
            }
        }
        _ => {
            println!("usage: instructions check | record | run CASE");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
