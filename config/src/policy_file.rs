//! `policy.toml`: the agent's allow/deny list, and the tests that it must pass.
//!
//! A file that is empty, cut off, or has an unknown or repeated key is refused, and so is one
//! whose own tests fail: a policy that does not do what its author wrote down is never run.

use std::ops::Range;
use std::path::Path;

use culvert_policy::{Policy, RuleError, RuleSpec};

use crate::document::Document;
use crate::error::ConfigError;

mod call;
mod rule;

pub use call::{Expected, PolicyTest, TestCall, TestFailure};

use rule::{Written, WrittenRule};

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
}

/// Reads and checks a policy file, and runs its tests.
pub fn load(file: &Path) -> Result<PolicyFile, ConfigError> {
    read(&Document::read(file)?)
}

/// Checks the text of a policy file, and runs its tests. `file` names it in errors.
pub fn parse(text: &str, file: &Path) -> Result<PolicyFile, ConfigError> {
    read(&Document {
        file: file.to_owned(),
        text: text.to_owned(),
    })
}

impl PolicyFile {
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

fn read(document: &Document) -> Result<PolicyFile, ConfigError> {
    let written: Written = document.parse()?;
    check_whole(document, &written)?;
    let specs = written
        .rule
        .iter()
        .map(|rule| rule.get_ref().spec(document));
    let specs = specs.collect::<Result<Vec<RuleSpec>, _>>()?;
    let policy =
        Policy::compile(specs).map_err(|errors| first_error(document, &written.rule, errors))?;
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
    for (test, written) in tests.iter().zip(&written.test) {
        test.run(&policy).map_err(|failure| {
            document.error(written.get_ref().expect.span(), failure.to_string())
        })?;
    }
    Ok(PolicyFile {
        policy,
        tests,
        reveal_rule: written.reveal_rule,
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
    if let Some(presets) = &written.presets {
        return Err(document.error(
            presets.span(),
            "this version ships no presets; write the rules into the file",
        ));
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
    rules: &[toml::Spanned<WrittenRule>],
    errors: Vec<RuleError>,
) -> ConfigError {
    let located = errors.into_iter().map(|error| {
        let span = rules
            .get(error.rule)
            .map_or(0..0, |rule| place(rule, &error));
        (span, error.message)
    });
    match located.min_by_key(|(span, _)| span.start) {
        Some((span, message)) => document.error(span, message),
        None => ConfigError::file(&document.file, "the rules cannot be compiled"),
    }
}

fn place(rule: &toml::Spanned<WrittenRule>, error: &RuleError) -> Range<usize> {
    rule.get_ref()
        .span(error.key, error.item)
        .unwrap_or(rule.span())
}

#[cfg(test)]
mod tests;
