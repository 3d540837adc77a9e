//! The tables of limits in docs/configuration.md have every limit, with the default that it has.

use std::collections::BTreeSet;
use std::path::Path;

use culvert_config::agent::AgentLimits;
use culvert_config::relay::RelayLimits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Keys and defaults of the table under `[limits]` in the part of the page that begins with this
/// heading.
fn table(heading: &str) -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = std::fs::read_to_string(file).unwrap();
    let (_, part) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, table) = part.split_once("\n`[limits]`\n\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let rows = rows.skip(2).map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let key = cells.next().unwrap().trim_matches('`').to_owned();
        (key, cells.next().unwrap().to_owned())
    });
    rows.collect()
}

/// Checks the table against the defaults; `reckoned` have none that could be written down.
fn check<L: Default + DeserializeOwned + Serialize>(heading: &str, reckoned: &[&str]) {
    let real = Table::try_from(L::default()).unwrap();
    let mut written = Table::new();
    let mut named = BTreeSet::new();
    for (key, default) in table(heading) {
        assert!(named.insert(key.clone()), "{key} is there twice");
        if !reckoned.contains(&key.as_str()) {
            let number = default.parse().map(Value::Integer);
            written.insert(key, number.unwrap_or(Value::String(default)));
        }
    }
    let real_names = real
        .keys()
        .map(String::as_str)
        .chain(reckoned.iter().copied());
    assert_eq!(named, real_names.map(str::to_owned).collect());
    let written: L = written.try_into().unwrap();
    assert_eq!(Table::try_from(written).unwrap(), real);
}

#[test]
fn every_limit_of_the_relay_and_its_default_is_in_the_manual() {
    let reckoned = [
        "tenant_max_sessions",
        "tenant_max_calls",
        "tenant_max_call_rate",
        "tenant_max_byte_rate",
        "tenant_max_buffer",
    ];
    check::<RelayLimits>("relay.toml", &reckoned);
}

#[test]
fn every_limit_of_the_agent_and_its_default_is_in_the_manual() {
    check::<AgentLimits>("agent.toml", &[]);
}
