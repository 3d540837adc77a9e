//! What lies under `deploy/` to watch relay and agent by: a real Prometheus understands their metrics, the
//! alerting rules and the dashboards, and each names what the programs have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::issuer::world;
use culvert_tests::prometheus::Prometheus;
use culvert_tests::wait::until;
use culvert_tests::{Curl, Nginx, Stack};
use serde_json::Value;

const TOKEN: &str = "c0ffee00c0ffee00";

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file)
}

fn json(file: &str) -> Value {
    let text = std::fs::read_to_string(deploy(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every expression of a dashboard, as its default is: for all instances.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap());
    let all = |e: &str| {
        e.replace("$instance", ".*")
            .replace("$__rate_interval", "1m")
    };
    expressions.map(all).collect()
}

/// The names of our metrics in an expression, as a family is declared.
fn families(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("culvert_"));
    ours.map(|name| {
        let suffixes = ["_total", "_bucket", "_info"];
        let suffix = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
        suffix.unwrap_or(name)
    })
}

#[test]
fn a_real_prometheus_understands_the_metrics_the_alerts_and_the_dashboards() {
    let nginx = Nginx::start();
    let options = Stack::options().endpoint("vcenter", &nginx.url());
    let configured = options.configure();
    let agent = configured.open_admin(TOKEN);
    let _processes = [
        configured.start("culvert-relay"),
        configured.start("culvert-agent"),
    ];
    let jobs = [
        ("culvert-relay", configured.admin),
        ("culvert-agent", agent),
    ];
    let token = configured.file("admin.token");
    let prometheus = Prometheus::start(
        &jobs,
        &token,
        &world().ca_file(),
        &deploy("prometheus/alerts.yaml"),
    );
    until("both are scraped", || {
        prometheus.query("up == 1").len() == 2
    });
    until("the agent's registration is seen", || {
        !prometheus.query("culvert_relay_endpoints == 1").is_empty()
    });

    let metrics = |port: u16| {
        let url = format!("https://localhost:{port}/metrics");
        let request = Curl::new(&url).header(&format!("Authorization: Bearer {TOKEN}"));
        request.ok().text()
    };
    let declared: BTreeSet<String> = jobs
        .iter()
        .flat_map(|(_, port)| {
            let text = metrics(*port);
            let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            let names = types.filter_map(|line| line.split(' ').next());
            names.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    // Those of which there is none yet are in no answer; tests/manual.rs holds the manual to be true.
    let manual = std::fs::read_to_string(deploy("../docs/operations.md")).unwrap();
    let is_known = |family: &str| {
        let name = family.trim_start_matches("culvert_relay_");
        let name = name.trim_start_matches("culvert_agent_");
        declared.contains(family) || manual.contains(&format!("`{name}"))
    };
    let mut shown = BTreeSet::new();
    for file in ["grafana/relay.json", "grafana/agent.json"] {
        let expressions = expressions(&json(file));
        assert!(expressions.len() > 10, "{file}");
        for expression in expressions {
            prometheus.query(&expression);
            for family in families(&expression) {
                assert!(is_known(family), "{file}: {family}");
                shown.insert(family.to_owned());
            }
        }
    }
    let not_shown: Vec<_> = declared.difference(&shown).collect();
    assert!(not_shown.is_empty(), "on no dashboard: {not_shown:?}");

    let rules = || {
        let groups = prometheus.api("rules")["data"]["groups"].clone();
        let groups = groups.as_array().unwrap().clone();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone());
        rules.collect::<Vec<_>>()
    };
    until("every rule has been evaluated", || {
        rules().iter().all(|rule| rule["health"] != "unknown")
    });
    // All is well, but that the agents of tests have one session. A rule may have been evaluated before
    // there was a sample: what it says then is no matter.
    let is_as_it_should = |rule: &Value| {
        let waits = rule["name"] == "CulvertAgentOneSession";
        (rule["state"] == "inactive") != waits
    };
    until("one alert waits, and no other", || {
        rules().iter().all(is_as_it_should)
    });
    for rule in rules() {
        assert_eq!(rule["health"], "ok", "{rule}");
        for family in families(rule["query"].as_str().unwrap()) {
            assert!(is_known(family), "{rule}");
        }
    }
}

/// Each alert comes when it should, and none while all is well: the cases are in the file itself.
#[test]
fn every_alert_comes_when_it_should() {
    let output = Command::new("promtool")
        .args(["test", "rules", "alerts.test.yaml"])
        .current_dir(deploy("prometheus"))
        .output()
        .expect("promtool is installed");
    assert!(output.status.success(), "{output:?}");
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yaml")).unwrap();
    let cases = std::fs::read_to_string(deploy("prometheus/alerts.test.yaml")).unwrap();
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        let fires = format!("alertname=\"{alert}\"");
        assert!(cases.contains(&fires), "{alert} has no case");
    }
}
