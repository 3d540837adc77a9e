use super::*;

/// A report with everything that a report can have.
pub(super) fn full() -> Report {
    let mut report = Report::new(BTreeMap::from([("seconds".into(), "5 <b>".into())]));
    let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
    for micros in 1..=2000 {
        histogram.record(micros).unwrap();
    }
    let round = Round {
        load: "open".into(),
        asked_rate: Some(200.0),
        calls: 1990,
        errors: BTreeMap::from([("no_agent".into(), 7), ("<script>".into(), 3)]),
        bytes: 64 << 20,
        elapsed_s: 10.0,
        latency: Latency::from(&histogram),
        series: (1..=4)
            .map(|tick| Point {
                at_s: f64::from(tick) * 0.25,
                calls: 50,
                errors: 1,
                bytes: 1000,
                memory: BTreeMap::from([("relay".into(), 20 << 20)]),
                cpu_s: BTreeMap::from([("relay".into(), 0.1)]),
            })
            .collect(),
        processes: BTreeMap::from([(
            "relay".into(),
            Use {
                cpu_s: 1.0,
                cpu_ms_per_1000_calls: Some(502.5),
                cpu_s_per_gib: Some(16.0),
                memory_most: 20 << 20,
                memory_end: 19 << 20,
                gone: false,
            },
        )]),
        values: BTreeMap::from([("until all are back".into(), Value::lower(80.0, "ms"))]),
        ..Round::default()
    };
    let case = report.case("storm/10", "Agents & their return.");
    case.add("culvert", round.clone());
    case.add("culvert", round);
    report.case("upload", "").skipped = Some("it needs --sink-path".into());
    report
}

#[test]
fn a_report_is_the_same_after_it_was_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let report = full();
    fs::write(&path, report.to_json().unwrap()).unwrap();
    assert_eq!(Report::load(&path).unwrap(), report);

    let newer = Report {
        format: 99,
        ..report
    };
    fs::write(&path, newer.to_json().unwrap()).unwrap();
    let error = Report::load(&path).unwrap_err().to_string();
    assert!(error.contains("format 99, expected 1"), "{error}");
    fs::write(&path, "{}").unwrap();
    let error = Report::load(&path).unwrap_err().to_string();
    assert!(error.contains("not a report of culvert-bench"), "{error}");
}

#[test]
fn of_a_process_that_is_gone_no_figure_is_shown_and_an_old_report_has_none() {
    let mut round = full().cases[0].ways[0].rounds[0].clone();
    let memory = |round: &Round| round.all_processes(Use::mebibytes);
    assert_eq!(memory(&round), Some(20.0));
    let agent = Use {
        gone: true,
        ..round.processes["relay"].clone()
    };
    round.processes.insert("agent".into(), agent);
    assert_eq!(memory(&round), None);
    assert_eq!(round.process("relay", Use::mebibytes), Some(20.0));
    assert_eq!(round.process("agent", Use::mebibytes), None);
    round.processes.clear();
    assert_eq!(memory(&round), None);
    // Of an older report nothing is known to be gone.
    let report = full();
    let known = "\"gone\": false";
    let text = report.to_json().unwrap();
    assert!(text.contains(known));
    let old = text.replace(known, "\"since\": 0");
    assert_eq!(serde_json::from_str::<Report>(&old).unwrap(), report);
}

#[test]
fn latencies_have_as_many_points_as_their_calls_can_say() {
    let latency = &full().cases[0].ways[0].rounds[0].latency;
    assert_eq!(
        (latency.count, latency.p50, latency.p90, latency.max),
        (2000, 1000, 1800, 2000)
    );
    assert!(latency.p99 >= 1980 && latency.p999 >= 1998);
    // 2000 calls know what 999 of 1000 took, and nothing of 9999 of 10,000.
    assert_eq!(latency.curve.last().map(|point| point.0), Some(0.9995));
    let empty = Histogram::new_with_bounds(1, 1000, 3).unwrap();
    assert_eq!(Latency::from(&empty).curve, []);
}

#[test]
fn the_table_has_each_case_its_errors_and_its_own_figures() {
    let text = table::table(&full());
    for expected in [
        "storm/10",
        "culvert",
        "open 200/s",
        "6 failed: <script>",
        "14 failed: no_agent",
        "until all are back: 80.00 (80.00 to 80.00) ms",
        "not measured: it needs --sink-path",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn the_page_stands_alone_and_shows_nothing_as_markup_that_was_measured() {
    let page = html::page(&full());
    assert_eq!(
        page.matches("<svg").count(),
        3,
        "latency, throughput, memory"
    );
    for foreign in [
        "<script", "http://", "https://", "src=", "@import", "url(", "NaN", "inf ",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for expected in [
        "&lt;script&gt;",
        "5 &lt;b&gt;",
        "Agents &amp; their return.",
        "no_agent",
        // For who hears the page and does not see it.
        "<main><h1>",
        "<th scope=\"col\">p50 ms",
        "<th scope=\"rowgroup\" rowspan=\"1\"><a href=\"#storm/10\">",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
}
