//! `[audit]` of `agent.toml`: where the audit log goes, and what happens when it cannot.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::document::Document;
use crate::error::ConfigError;
use crate::units::Size;

/// Least size of a file before the next one is begun.
const MIN_SIZE: u64 = 4 * 1024;

/// Most older files that are kept.
pub const MAX_KEEP: u32 = 100;

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditConfig {
    /// Where it goes.
    #[serde(flatten)]
    pub sink: AuditSink,
    /// What happens when it cannot be written.
    pub on_full: OnFull,
    /// Lines a minute about refused calls of one caller to one endpoint by one rule; further
    /// ones are counted.
    pub denied_per_minute: u32,
}

impl AuditConfig {
    /// The folder of the log's file, if it is not there. Service managers make it when they start the
    /// agent, so that only then it must be.
    pub fn missing_folder(&self) -> Option<&Path> {
        let AuditSink::File { file, .. } = &self.sink else {
            return None;
        };
        // A bare name is in the folder where the agent runs.
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        folder.filter(|folder| !folder.is_dir())
    }
}

/// Where an audit log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AuditSink {
    /// To a file.
    File {
        /// The file that is written.
        file: PathBuf,
        /// Its size, in bytes, at which the next one is begun.
        max_size: Size,
        /// How many older files stay.
        keep: u32,
    },
    /// To standard output.
    Stdout {
        /// Always true.
        stdout: bool,
    },
    /// To a syslog server (RFC 5424).
    Syslog {
        /// The server.
        #[serde(serialize_with = "crate::display")]
        syslog: SyslogServer,
    },
}

/// A syslog server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogServer {
    /// A datagram socket of this machine.
    Unix(PathBuf),
    /// `HOST:PORT`, a datagram a line (RFC 5426).
    Udp(String),
    /// `HOST:PORT`, with octet counting (RFC 6587).
    Tcp(String),
}

impl std::fmt::Display for SyslogServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// What happens when the audit log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// Calls are refused until it can.
    Stop,
    /// Calls go on; lost lines are counted, and an alarm is raised.
    #[default]
    Continue,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            sink: AuditSink::Stdout { stdout: true },
            on_full: OnFull::default(),
            denied_per_minute: 10,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenAudit {
    file: Option<Spanned<PathBuf>>,
    stdout: Option<Spanned<bool>>,
    syslog: Option<Spanned<String>>,
    max_size: Option<Spanned<Size>>,
    keep: Option<Spanned<u32>>,
    #[serde(default)]
    on_full: OnFull,
    denied_per_minute: Option<Spanned<u32>>,
}

pub(crate) fn check(
    document: &Document,
    written: &WrittenAudit,
) -> Result<AuditConfig, ConfigError> {
    let stdout = match &written.stdout {
        Some(stdout) if !stdout.get_ref() => {
            let message = "found false; leave the key out, and give file or syslog";
            return Err(document.error(stdout.span(), message));
        }
        stdout => stdout,
    };
    let sink = match (&written.file, stdout, &written.syslog) {
        (Some(file), None, None) => AuditSink::File {
            file: log_file(document, file)?,
            max_size: max_size(document, written)?,
            keep: keep(document, written)?,
        },
        (None, None, Some(server)) => AuditSink::Syslog {
            syslog: syslog(document, server)?,
        },
        (None, _, None) => AuditSink::Stdout { stdout: true },
        (_, _, Some(syslog)) => {
            let message = "found more than one of file, stdout and syslog; expected one of them";
            return Err(document.error(syslog.span(), message));
        }
        (Some(file), ..) => {
            let message = "found file and stdout; expected one of them";
            return Err(document.error(file.span(), message));
        }
    };
    if !matches!(sink, AuditSink::File { .. }) {
        let misplaced = [
            written.max_size.as_ref().map(Spanned::span),
            written.keep.as_ref().map(Spanned::span),
        ];
        if let Some(span) = misplaced.into_iter().flatten().next() {
            return Err(document.error(span, "found without file; expected file beside it"));
        }
    }
    let default = AuditConfig::default().denied_per_minute;
    let denied_per_minute = match &written.denied_per_minute {
        None => default,
        Some(lines) if (1..=1_000_000).contains(lines.get_ref()) => *lines.get_ref(),
        Some(lines) => {
            let message = format!("found {}; expected 1 to 1000000 lines", lines.get_ref());
            return Err(document.error(lines.span(), message));
        }
    };
    Ok(AuditConfig {
        sink,
        on_full: written.on_full,
        denied_per_minute,
    })
}

/// It may be new.
fn log_file(document: &Document, written: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let path = document.path(written.get_ref());
    if path.file_name().is_none() || path.is_dir() {
        let message = format!("{} is a folder; expected a file", path.display());
        return Err(document.error(written.span(), message));
    }
    Ok(path)
}

fn max_size(document: &Document, written: &WrittenAudit) -> Result<Size, ConfigError> {
    match &written.max_size {
        None => Ok(Size(100 << 20)),
        Some(size) if size.get_ref().0 >= MIN_SIZE => Ok(*size.get_ref()),
        Some(size) => {
            let message = format!("found {} bytes; expected 4 KiB at least", size.get_ref().0);
            Err(document.error(size.span(), message))
        }
    }
}

fn keep(document: &Document, written: &WrittenAudit) -> Result<u32, ConfigError> {
    match &written.keep {
        None => Ok(10),
        Some(keep) if (1..=MAX_KEEP).contains(keep.get_ref()) => Ok(*keep.get_ref()),
        Some(keep) => {
            let message = format!("found {}; expected 1 to {MAX_KEEP} files", keep.get_ref());
            Err(document.error(keep.span(), message))
        }
    }
}

fn syslog(document: &Document, written: &Spanned<String>) -> Result<SyslogServer, ConfigError> {
    let text = written.get_ref();
    let address = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        let good = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
        good.then(|| address.to_owned())
    };
    let server = if let Some(path) = text.strip_prefix("unix:") {
        path.starts_with('/')
            .then(|| SyslogServer::Unix(path.into()))
    } else if let Some(rest) = text.strip_prefix("udp://") {
        address(rest).map(SyslogServer::Udp)
    } else if let Some(rest) = text.strip_prefix("tcp://") {
        address(rest).map(SyslogServer::Tcp)
    } else {
        None
    };
    server.ok_or_else(|| {
        let expected = "\"unix:/dev/log\", \"udp://HOST:PORT\" or \"tcp://HOST:PORT\"";
        document.error(
            written.span(),
            format!("found {text:?}; expected {expected}"),
        )
    })
}
