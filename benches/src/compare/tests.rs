use std::collections::BTreeMap;

use super::*;
use crate::report::{Latency, Round};

#[test]
fn a_verdict_needs_more_than_the_rounds_spread() {
    use Better::{Higher, Lower};
    let table: [(&[f64], &[f64], Better, Verdict); 12] = [
        // One round says nothing of its noise.
        (&[100.0], &[50.0], Higher, Verdict::Unknown),
        (&[100.0, 101.0], &[50.0], Higher, Verdict::Unknown),
        // Far apart, against a small spread.
        (
            &[100.0, 101.0, 102.0],
            &[50.0, 51.0, 52.0],
            Higher,
            Verdict::Worse,
        ),
        (
            &[100.0, 101.0, 102.0],
            &[50.0, 51.0, 52.0],
            Lower,
            Verdict::Better,
        ),
        (
            &[50.0, 51.0, 52.0],
            &[100.0, 101.0, 102.0],
            Higher,
            Verdict::Better,
        ),
        // Sets that overlap, or that spread further than they lie apart.
        (
            &[100.0, 110.0, 120.0],
            &[90.0, 95.0, 105.0],
            Higher,
            Verdict::Same,
        ),
        (
            &[100.0, 160.0, 170.0],
            &[90.0, 95.0, 99.0],
            Higher,
            Verdict::Same,
        ),
        // Below the threshold, however small the noise.
        (
            &[100.0, 100.1, 100.2],
            &[101.0, 101.1, 101.2],
            Lower,
            Verdict::Same,
        ),
        // Nothing was nothing, and is something.
        (&[0.0, 0.0, 0.0], &[0.1, 0.1, 0.1], Lower, Verdict::Worse),
        (&[0.0, 0.0, 0.0], &[0.0, 0.0, 0.0], Lower, Verdict::Same),
        // By rank: an outlier does not hide a change.
        (
            &[
                100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 107.0, 300.0,
            ],
            &[
                120.0, 121.0, 122.0, 123.0, 124.0, 125.0, 126.0, 127.0, 128.0,
            ],
            Lower,
            Verdict::Worse,
        ),
        // By rank: mixed.
        (
            &[100.0, 120.0, 140.0, 110.0, 130.0],
            &[115.0, 135.0, 155.0, 125.0, 145.0],
            Lower,
            Verdict::Same,
        ),
    ];
    for (before, after, better, expected) in table {
        let found = verdict(before, after, better, 0.05);
        assert_eq!(found, expected, "{before:?} {after:?} {better:?}");
    }
}

fn round(calls: u64, p50: u64) -> Round {
    Round {
        load: "closed".into(),
        calls,
        elapsed_s: 1.0,
        latency: Latency {
            count: calls,
            p50,
            p99: 2 * p50,
            ..Latency::default()
        },
        ..Round::default()
    }
}

fn report(case: &str, rounds: [(&str, u64); 3]) -> Report {
    let mut report = Report::new(BTreeMap::new());
    for (way, calls) in rounds {
        for noise in 0..6 {
            report.case(case, "").add(way, round(calls + noise, 1000));
        }
    }
    report
}

#[test]
fn what_got_worse_is_culvert_and_not_the_machine() {
    let before = report(
        "calls/1",
        [("culvert", 1000), ("nginx", 2000), ("other", 1)],
    );
    let slow_machine = report(
        "calls/1",
        [("culvert", 1000), ("nginx", 1000), ("other", 1)],
    );
    let slow_culvert = report("calls/1", [("culvert", 500), ("nginx", 2000), ("other", 1)]);
    assert!(!Comparison::of(&before, &before, 0.05).got_worse());
    let comparison = Comparison::of(&before, &slow_machine, 0.05);
    assert!(!comparison.got_worse());
    assert!(table(&comparison).contains("WORSE"));
    let comparison = Comparison::of(&before, &slow_culvert, 0.05);
    assert!(comparison.got_worse());
    let change = comparison
        .changes
        .iter()
        .find(|change| change.verdict == Verdict::Worse);
    let change = change.unwrap();
    assert_eq!(
        (change.case.as_str(), change.measure.as_str()),
        ("calls/1", "calls/s")
    );
    assert!(!Comparison::of(&slow_culvert, &before, 0.05).got_worse());
    // Of fewer rounds it is a guess.
    let few = |mut report: Report| {
        let ways = report.cases.iter_mut().flat_map(|case| &mut case.ways);
        ways.for_each(|way| way.rounds.truncate(3));
        report
    };
    let comparison = Comparison::of(&few(before), &few(slow_culvert), 0.05);
    assert!(!comparison.got_worse() && table(&comparison).contains("worse, perhaps"));
}

/// A release is not to be held up by luck, which many measures have some of.
#[test]
fn one_of_many_measures_must_be_further_from_chance_than_one_of_few() {
    let many = |cases: usize, slow: usize, rounds: usize| {
        let mut report = Report::new(BTreeMap::new());
        for number in 0..cases {
            let calls = if number < slow { 500 } else { 1000 };
            for noise in 0..rounds as u64 {
                let case = report.case(&format!("calls/{number}"), "");
                case.add("culvert", round(calls + noise, 1000));
            }
        }
        report
    };
    // Four measures a case. Five rounds that do not overlap are 1 in 126 by chance.
    for (cases, slow, rounds, worse) in [
        (1, 1, 5, true),
        (2, 1, 5, false),
        (50, 1, 5, false),
        (50, 40, 5, true),
        (50, 1, 8, true),
    ] {
        let comparison = Comparison::of(&many(cases, 0, rounds), &many(cases, slow, rounds), 0.05);
        let shown = table(&comparison);
        assert_eq!(comparison.got_worse(), worse, "{shown}");
        assert_eq!(shown.contains("WORSE"), worse, "{shown}");
        assert_eq!(shown.contains("worse, perhaps"), !worse, "{shown}");
    }
}

#[test]
fn an_upload_that_carried_something_was_measured_though_none_ended() {
    let carried = |bytes| {
        let mut report = Report::new(BTreeMap::new());
        let round = Round {
            bytes,
            ..round(0, 1000)
        };
        report.case("upload/many", "").add("culvert", round);
        report
    };
    assert!(!Comparison::of(&carried(1 << 20), &carried(1 << 20), 0.05).got_worse());
    assert!(Comparison::of(&carried(1 << 20), &carried(0), 0.05).got_worse());
}

#[test]
fn rounds_that_were_broken_off_decide_nothing_and_other_settings_are_named() {
    let before = report("calls/1", [("culvert", 1000), ("nginx", 1), ("other", 1)]);
    let mut after = before.clone();
    let broken = Round {
        partial: true,
        ..round(1, 1_000_000)
    };
    after.cases[0].ways[0].rounds.extend(vec![broken; 20]);
    after.configuration.insert("seconds".into(), "60".into());
    let comparison = Comparison::of(&before, &after, 0.05);
    assert!(!comparison.got_worse());
    assert!(comparison.remarks[0].contains("seconds was nothing and is 60"));
}

#[test]
fn cases_of_one_report_alone_are_named() {
    let before = report("a", [("culvert", 1), ("nginx", 1), ("other", 1)]);
    let after = report("b", [("culvert", 1), ("nginx", 1), ("other", 1)]);
    let comparison = Comparison::of(&before, &after, 0.05);
    assert!(comparison.changes.is_empty());
    assert_eq!(
        comparison.remarks,
        [
            "a: only in the first report",
            "b: only in the second report",
            "nothing of Culvert is in both reports: nothing is compared"
        ]
    );
}

/// A release is guarded by the exit code: what fails altogether is the worst that can happen to it.
#[test]
fn what_is_not_measured_again_is_worse_and_what_was_left_out_is_not() {
    let before = report("calls-h1/16", [("culvert", 1000), ("nginx", 1), ("x", 1)]);
    // What got worse, or not, and how many remarks there are.
    let worse = |change: &dyn Fn(&mut Report)| {
        let mut after = before.clone();
        change(&mut after);
        let comparison = Comparison::of(&before, &after, 0.05);
        (comparison.got_worse(), comparison.remarks.len())
    };
    assert_eq!(worse(&|_| ()), (false, 0));
    // The scenario failed, as a whole or in this case.
    let failed = |report: &mut Report| {
        report.cases[0].ways.clear();
        report.cases[0].skipped = Some("it failed".into());
    };
    assert_eq!(worse(&failed), (true, 4));
    let failed = |report: &mut Report| {
        failed(report);
        report.cases[0].name = "calls-h1".into();
    };
    assert!(worse(&failed).0);
    assert_eq!(
        worse(&|report| report.cases[0].ways[0].rounds.clear()),
        (true, 1)
    );
    // Not a call got through, and one round alone would decide nothing.
    let in_vain = |report: &mut Report| {
        let refused = Round {
            errors: BTreeMap::from([("no-agent".into(), 7)]),
            ..round(0, 1000)
        };
        report.cases[0].ways[0].rounds = vec![refused];
    };
    assert_eq!(worse(&in_vain), (true, 1));
    // The machine's own trouble.
    assert_eq!(
        worse(&|report| report.cases[0].ways.retain(|way| way.name != "nginx")),
        (false, 1)
    );
    assert_eq!(worse(&|report| report.interrupted = true), (false, 1));
    let partial = |report: &mut Report| report.cases[0].ways[0].rounds[0].partial = true;
    assert_eq!(worse(&partial), (false, 1));
    // Nothing in common says nothing, and neither does nginx alone.
    assert!(worse(&|report| report.cases.clear()).0);
    assert!(worse(&|report| report.cases[0].name = "upload".into()).0);
    let machine = report("calls-h1/16", [("nginx", 1), ("nginx", 1), ("nginx", 1)]);
    assert!(Comparison::of(&machine, &machine, 0.05).got_worse());
}
