//! `audit verify`: whether an audit log is as it was written.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use culvert_config::audit::AuditSink;
use culvert_config::{AgentConfig, ConfigError};

use super::chain::Head;
use super::check::Checker;
use super::file;

/// Longest line that is read whole: a multiple of the longest that is written.
const MAX_LINE: usize = 1024 * 1024;

/// Which log to verify.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The configuration file (agent.toml): all files of its audit log are verified.
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    config: Option<PathBuf>,
    /// Files of one log, oldest first.
    #[arg(value_name = "FILE", required_unless_present = "config")]
    files: Vec<PathBuf>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the audit log of this configuration is no file; name files to verify")]
    NoFile,
    #[error("{}: {error}", file.display())]
    Read { file: PathBuf, error: io::Error },
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Report {
    files: Vec<(String, u64)>,
    checker: Checker,
}

impl Report {
    /// Whether the log is as it was written.
    pub(crate) fn holds(&self) -> bool {
        self.checker.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (file, lines) in &self.files {
            writeln!(f, "{file}: {lines} lines")?;
        }
        let checker = &self.checker;
        for torn in &checker.torn {
            let (file, line) = (&torn.file, torn.line);
            writeln!(
                f,
                "note: {file}:{line}: half a line, as a crash leaves it; no finding"
            )?;
        }
        for finding in &checker.findings {
            writeln!(f, "{}:{}: {}", finding.file, finding.line, finding.what)?;
        }
        match (checker.first, checker.findings.len()) {
            (None, 0) => writeln!(f, "there are no lines"),
            (Some(first), 0) => {
                let Head { seq, hash } = checker.last;
                writeln!(
                    f,
                    "the chain holds from line number {first} to {seq}, whose hash is {hash}"
                )
            }
            (_, 1) => writeln!(f, "1 finding: the log is not as it was written"),
            (_, many) => writeln!(f, "{many} findings: the log is not as it was written"),
        }
    }
}

/// Reads a log and checks its chain.
pub(crate) fn verify(args: &VerifyArgs) -> Result<Report, VerifyError> {
    let (files, noted) = match &args.config {
        Some(config) => {
            let config = AgentConfig::load(config)?;
            let AuditSink::File { file, keep, .. } = config.audit.sink else {
                return Err(VerifyError::NoFile);
            };
            file::all(&file, keep).map_err(at(&file))?
        }
        None => {
            let last = args.files.last().ok_or(VerifyError::NoFile)?;
            let noted = file::noted(last).map_err(at(&file::beside(last, "head")))?;
            let open = |file: &PathBuf| {
                let opened = File::open(file).map_err(at(file));
                opened.map(|opened| (file.clone(), opened))
            };
            (
                args.files.iter().map(open).collect::<Result<_, _>>()?,
                noted,
            )
        }
    };
    let mut checker = Checker::new(noted);
    let mut lines = Vec::with_capacity(files.len());
    for (path, file) in files {
        let name = path.display().to_string();
        checker.begin(&name);
        let count = read(file, &mut checker).map_err(at(&path))?;
        lines.push((name, count));
    }
    checker.end();
    Ok(Report {
        files: lines,
        checker,
    })
}

/// What could not be read.
fn at(path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let file = path.to_owned();
    move |error| VerifyError::Read { file, error }
}

fn read(file: File, checker: &mut Checker) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut count = 0;
    while let Some(ended) = next_line(&mut reader, &mut line)? {
        checker.line(&line, ended);
        count += 1;
    }
    Ok(count)
}

/// Reads a line, without its end; whether it had one. `None`: there is no further one. Of a line
/// that is too long to be one of ours, the rest is passed over.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let mut any = false;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(any.then_some(false));
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = MAX_LINE.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(true));
        }
    }
}
