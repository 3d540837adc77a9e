//! `policy.toml`: the agent's allow/deny list, and the tests that it must pass.
//!
//! A file that is empty, cut off, or has an unknown or repeated key is refused, and so is one
//! whose own tests fail: a policy that does not do what its author wrote down is never run.

use std::ops::Range;
use std::path::Path;

use culvert_policy::{Policy, RuleError, RuleSpec};

use crate::document::Document;
use crate::endpoint::Endpoint;
use crate::error::ConfigError;

mod call;
pub mod preset;
mod rule;

pub use call::{Expected, PolicyTest, TestCall, TestFailure};

use rule::Written;

/// The only version of the file format.
const VERSION: i64 = 1;

/// A checked policy file.
#[derive(Debug)]
pub struct PolicyFile {
    /// The compiled rules.
    pub policy: Policy,
    /// The file's own tests.
    pub tests: Vec<PolicyTest>,
    /// Whether callers learn the id of the rule that denied them.
    pub reveal_rule: bool,
    /// How many of the rules are the file's own; those of presets follow them.
    pub own_rules: usize,
}

/// Reads and checks a policy file, and runs its tests.
pub fn load(file: &Path) -> Result<PolicyFile, ConfigError> {
    read(Document::read(file)?)
}

/// Checks the text of a policy file, and runs its tests. `file` names it in errors.
pub fn parse(text: &str, file: &Path) -> Result<PolicyFile, ConfigError> {
    read(Document::new(file, text))
}

impl PolicyFile {
    /// The file's own rules that no test of the file is decided by: nobody would notice if they
    /// went wrong. Of rules that are not enforced, those that no test's call matches.
    pub fn untested_rules(&self) -> Vec<&str> {
        let mut untested: Vec<&str> = self
            .policy
            .rules()
            .take(self.own_rules)
            .map(|rule| &*rule.id)
            .collect();
        for test in &self.tests {
            let decision = self.policy.decide(&test.call.facts(&self.policy));
            let deciding = [decision.rule(), decision.destination_rule()];
            let shadow = decision.shadow();
            untested.retain(|id| {
                !deciding.contains(&Some(id)) && shadow.iter().all(|hit| *hit.rule != **id)
            });
        }
        untested
    }

    /// The tests of endpoints that are none of these: one that expects a denial always passes.
    pub fn tests_elsewhere<'a>(
        &'a self,
        endpoints: &'a [Endpoint],
    ) -> impl Iterator<Item = &'a PolicyTest> {
        let has = |name: &str| endpoints.iter().any(|e| e.name.as_str() == name);
        self.tests
            .iter()
            .filter(move |test| !has(&test.call.endpoint))
    }

    /// Runs the file's tests; [`load`] has done so already.
    pub fn run_tests(&self) -> Result<(), Vec<TestFailure>> {
        let failures: Vec<_> = self
            .tests
            .iter()
            .filter_map(|test| test.run(&self.policy).err())
            .collect();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }
}

fn read(mut document: Document) -> Result<PolicyFile, ConfigError> {
    let written: Written = document.parse()?;
    let document = &document;
    check_whole(document, &written)?;
    let specs = written
        .rule
        .iter()
        .map(|rule| rule.get_ref().spec(document));
    let specs = specs.collect::<Result<Vec<RuleSpec>, _>>()?;
    let presets = preset::uses(document, &written)?;
    finish(document, &written, specs, &presets)
}

/// Compiles the rules, and runs the tests that the file has for them.
fn finish(
    document: &Document,
    written: &Written,
    mut specs: Vec<RuleSpec>,
    presets: &[preset::Use],
) -> Result<PolicyFile, ConfigError> {
    let own_rules = specs.len();
    specs.extend(presets.iter().flat_map(|preset| preset.rules.clone()));
    let policy =
        Policy::compile(specs).map_err(|errors| first_error(document, written, presets, errors))?;
    let mut tests = Vec::with_capacity(written.test.len());
    for test in &written.test {
        let test = test.get_ref().check(document, &policy)?;
        if tests
            .iter()
            .any(|other: &PolicyTest| other.name == test.name)
        {
            let span = written.test[tests.len()].get_ref().name.span();
            return Err(document.error(span, format!("another test is named {:?}", test.name)));
        }
        tests.push(test);
    }
    let failures: Vec<_> = tests
        .iter()
        .zip(&written.test)
        .filter_map(|(test, written)| Some((written, test.run(&policy).err()?)))
        .collect();
    if let Some(((first, failure), others)) = failures.split_first() {
        let mut message = failure.to_string();
        for (_, other) in others {
            message.push_str(&format!("\n{other}"));
        }
        return Err(document.error(first.get_ref().expect.span(), message));
    }
    Ok(PolicyFile {
        policy,
        tests,
        reveal_rule: written.reveal_rule,
        own_rules,
    })
}

/// What concerns the file as a whole.
fn check_whole(document: &Document, written: &Written) -> Result<(), ConfigError> {
    match &written.version {
        None => {
            return Err(ConfigError::file(
                &document.file,
                "version is missing; expected version = 1 before the first [[rule]]",
            ));
        }
        Some(version) if *version.get_ref() != VERSION => {
            let message = format!("found {}; expected version = {VERSION}", version.get_ref());
            return Err(document.error(version.span(), message));
        }
        Some(_) => {}
    }
    // Half a policy often is a policy too, and a wider one. A cut inside of a line shows.
    if !document.text.ends_with('\n') {
        let end = document.text.len();
        let message = "the last line has no end: the file seems to be cut off; \
                       if it is whole, end it with a newline";
        return Err(document.error(end..end, message));
    }
    Ok(())
}

/// The first of several errors, at its place in the file.
fn first_error(
    document: &Document,
    written: &Written,
    presets: &[preset::Use],
    errors: Vec<RuleError>,
) -> ConfigError {
    // What comes from a preset can only be wrong by what the policy gives it.
    let from_presets = presets
        .iter()
        .flat_map(|preset| preset.rules.iter().map(|_| preset.span.clone()));
    let own = written.rule.iter().map(|rule| rule.span());
    let places: Vec<Range<usize>> = own.chain(from_presets).collect();
    let located = errors.into_iter().map(|error| {
        let key = written
            .rule
            .get(error.rule)
            .and_then(|rule| rule.get_ref().span(error.key, error.item));
        let span = key.or_else(|| places.get(error.rule).cloned());
        (span.unwrap_or(0..0), error.message)
    });
    match located.min_by_key(|(span, _)| span.start) {
        Some((span, message)) => document.error(span, message),
        None => ConfigError::file(&document.file, "the rules cannot be compiled"),
    }
}

#[cfg(test)]
mod tests;
