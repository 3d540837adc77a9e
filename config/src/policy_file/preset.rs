//! Rules that ship with the agent, by name: `presets = ["vsphere-readonly"]`, or `[[preset]]`
//! where they are for some endpoints or callers only.
//!
//! A preset is a policy file of its own, readable and with its own tests. Where a policy uses
//! it, its rules are added behind the policy's own, as `PRESET:RULE`.

use std::ops::Range;
use std::path::PathBuf;

use culvert_policy::RuleSpec;
use serde::Deserialize;
use toml::Spanned;

use super::PolicyFile;
use super::rule::{List, Narrowing, Written};
use crate::document::Document;
use crate::error::ConfigError;

/// Every preset, with its text.
const SHIPPED: [(&str, &str); 5] = [
    (
        "vsphere-readonly",
        include_str!("../../presets/vsphere-readonly.toml"),
    ),
    (
        "vsphere-operator",
        include_str!("../../presets/vsphere-operator.toml"),
    ),
    (
        "vsphere-provision",
        include_str!("../../presets/vsphere-provision.toml"),
    ),
    (
        "nsx-readonly",
        include_str!("../../presets/nsx-readonly.toml"),
    ),
    ("sddc-never", include_str!("../../presets/sddc-never.toml")),
];

/// The names of the presets that this version ships.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// The text of a preset: a policy file.
pub fn text(name: &str) -> Option<&'static str> {
    let mut shipped = SHIPPED.iter();
    shipped
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// A preset as a policy of its own, whose tests have passed. Its rules have no prefix.
pub fn load(name: &str) -> Result<PolicyFile, ConfigError> {
    let mut document = document(name)?;
    let written: Written = document.parse()?;
    let specs = rules(name)?;
    super::finish(&document, &written, specs, &[])
}

/// A preset that a policy uses.
#[derive(Debug)]
pub(super) struct Use {
    /// Where the policy says so.
    pub(super) span: Range<usize>,
    /// Its rules, named and narrowed.
    pub(super) rules: Vec<RuleSpec>,
}

/// `[[preset]]`: a preset for some endpoints, callers, ... only.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPreset {
    name: Spanned<String>,
    /// What its rules are named after, where a policy uses it twice.
    id: Option<Spanned<String>>,
    endpoint: Option<List<String>>,
    mode: Option<List<super::rule::WrittenMode>>,
    caller: Option<List<String>>,
    scope: Option<List<String>>,
    source: Option<List<String>>,
    enforce: Option<bool>,
}

/// The presets that a policy uses, those of the list first.
pub(super) fn uses(document: &Document, written: &Written) -> Result<Vec<Use>, ConfigError> {
    let mut prefixes: Vec<&str> = Vec::new();
    let mut uses = Vec::new();
    let listed = written.presets.iter().flat_map(|list| list.get_ref());
    for name in listed {
        let rules = known_rules(document, name)?;
        uses.push((name, name.get_ref(), rules));
    }
    for preset in &written.preset {
        let preset = preset.get_ref();
        let mut rules = known_rules(document, &preset.name)?;
        let narrowing = Narrowing {
            endpoint: &preset.endpoint,
            mode: &preset.mode,
            caller: &preset.caller,
            scope: &preset.scope,
            source: &preset.source,
        };
        narrowing.apply(document, &mut rules)?;
        for rule in &mut rules {
            rule.enforce = preset.enforce.unwrap_or(rule.enforce);
        }
        let id = preset.id.as_ref().unwrap_or(&preset.name);
        uses.push((&preset.name, id.get_ref(), rules));
    }
    let mut named = Vec::with_capacity(uses.len());
    for (place, prefix, mut rules) in uses {
        if prefixes.contains(&prefix.as_str()) {
            let message = format!(
                "the preset {prefix:?} is used twice; give one of them an `id` in its [[preset]]"
            );
            return Err(document.error(place.span(), message));
        }
        prefixes.push(prefix);
        for rule in &mut rules {
            rule.id = format!("{prefix}:{}", rule.id);
        }
        let span = place.span();
        named.push(Use { span, rules });
    }
    Ok(named)
}

fn known_rules(document: &Document, name: &Spanned<String>) -> Result<Vec<RuleSpec>, ConfigError> {
    if text(name.get_ref()).is_none() {
        let known: Vec<_> = names().map(|name| format!("{name:?}")).collect();
        let message = format!(
            "there is no preset {:?}; expected one of {}",
            name.get_ref(),
            known.join(", ")
        );
        return Err(document.error(name.span(), message));
    }
    rules(name.get_ref())
}

/// The rules of a preset, those of the presets that it includes first.
fn rules(name: &str) -> Result<Vec<RuleSpec>, ConfigError> {
    let mut document = document(name)?;
    let written: Written = document.parse()?;
    let mut specs = Vec::new();
    for included in written.presets.iter().flat_map(|list| list.get_ref()) {
        specs.extend(rules(included.get_ref())?);
    }
    for rule in &written.rule {
        specs.push(rule.get_ref().spec(&document)?);
    }
    Ok(specs)
}

fn document(name: &str) -> Result<Document, ConfigError> {
    let file = PathBuf::from(format!("preset {name}"));
    match text(name) {
        Some(text) => Ok(Document::new(&file, text)),
        None => Err(ConfigError::file(&file, "there is no such preset")),
    }
}

#[cfg(test)]
mod tests;
