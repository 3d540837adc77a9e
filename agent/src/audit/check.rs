//! Whether a log is as it was written: lines in, findings out. Pure.

use std::collections::VecDeque;
use std::fmt;

use super::chain::{Hash, Head, Sealed};

/// How many lines back a line's predecessor is looked for: as far as one that was moved can be
/// told apart from one that was changed.
const WINDOW: usize = 64;

/// What is wrong at a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The line is not what was written.
    Changed,
    /// Lines before this one are gone.
    Missing { from: u64, to: u64 },
    /// The line is not where it was written: moved, copied, or from another log.
    OutOfPlace { seq: u64 },
    /// No line of an audit log.
    NotALine,
    /// The first line of a file does not say what came before: the file's beginning is gone.
    NoBeginning,
    /// Lines at the end of the log are gone.
    CutOff { from: u64, to: u64 },
    /// The log says otherwise than the note beside it of what was safely written.
    Rewritten,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("this line was changed or inserted"),
            Self::Missing { from, to } if from == to => {
                write!(f, "line number {from} was removed before this one")
            }
            Self::Missing { from, to } => {
                write!(
                    f,
                    "lines number {from} to {to} were removed before this one"
                )
            }
            Self::OutOfPlace { seq } => {
                write!(
                    f,
                    "line number {seq} does not belong here: moved, copied or inserted"
                )
            }
            Self::NotALine => f.write_str("this is no line of an audit log: changed or inserted"),
            Self::NoBeginning => {
                f.write_str("the beginning of the file was removed: its first line begins no file")
            }
            Self::CutOff { from, to } => {
                write!(
                    f,
                    "the end was cut off: lines number {from} to {to} are gone"
                )
            }
            Self::Rewritten => f.write_str(
                "this line is not the one that was noted as safely written: it was rewritten",
            ),
        }
    }
}

/// A finding, or a note of what is none, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found<T> {
    pub(crate) file: String,
    /// From 1.
    pub(crate) line: u64,
    pub(crate) what: T,
}

/// Findings that are listed; a log that is not one has as many as it has lines.
const MAX_FINDINGS: usize = 1000;

/// Reads the lines of a log, oldest first.
#[derive(Debug)]
pub(crate) struct Checker {
    /// What was noted beside the log, where that is known.
    noted: Option<Head>,
    file: String,
    line: u64,
    /// Number that the next line must have; `None` before the first one.
    next: Option<u64>,
    /// The last lines: their numbers, and hashes by which a next one may know them.
    recent: VecDeque<Head>,
    /// A whole line that is none: a crash may have left it.
    unreadable: Option<u64>,
    pub(crate) findings: Vec<Found<Finding>>,
    /// Half lines that a crash left.
    pub(crate) torn: Vec<Found<()>>,
    /// The first line's number, and the last line.
    pub(crate) first: Option<u64>,
    pub(crate) last: Head,
}

impl Checker {
    pub(crate) fn new(noted: Option<Head>) -> Self {
        Self {
            noted,
            file: String::new(),
            line: 0,
            next: None,
            recent: VecDeque::with_capacity(WINDOW),
            unreadable: None,
            findings: Vec::new(),
            torn: Vec::new(),
            first: None,
            last: Head::NONE,
        }
    }

    /// What follows is from the next file.
    pub(crate) fn begin(&mut self, file: &str) {
        self.settle();
        file.clone_into(&mut self.file);
        self.line = 0;
    }

    /// The next line, without its end; `ended`: it had one.
    pub(crate) fn line(&mut self, line: &[u8], ended: bool) {
        self.line += 1;
        let Some(sealed) = Sealed::parse(line) else {
            self.settle();
            if ended {
                self.unreadable = Some(self.line);
            } else {
                self.note_torn(self.line);
            }
            return;
        };
        let begins = Beginning::of(&sealed);
        if let Some(unreadable) = self.unreadable.take() {
            if begins.as_ref().is_some_and(|begins| begins.torn) {
                self.note_torn(unreadable);
            } else {
                self.find_at(unreadable, Finding::NotALine);
            }
        }
        if self.line == 1 && begins.is_none() {
            self.find(Finding::NoBeginning);
        }
        self.place(&sealed, begins.as_ref());
    }

    /// The log is over.
    pub(crate) fn end(&mut self) {
        self.settle();
        if let Some(noted) = self.noted
            && self.next.is_none_or(|next| next <= noted.seq)
        {
            let from = self.next.unwrap_or(1);
            self.find(Finding::CutOff {
                from,
                to: noted.seq,
            });
        }
    }

    /// An unreadable line was followed by nothing that explains it.
    fn settle(&mut self) {
        if let Some(line) = self.unreadable.take() {
            self.find_at(line, Finding::NotALine);
        }
    }

    fn place(&mut self, sealed: &Sealed<'_>, begins: Option<&Beginning>) {
        let head = sealed.head;
        let before = head.seq.checked_sub(1);
        let known = self.recent.iter().filter(|known| Some(known.seq) == before);
        let mut candidates: Vec<Hash> = known.map(|known| known.hash).collect();
        // Where the line before is not there, the beginning of a file is taken at its word.
        if candidates.is_empty() {
            candidates.extend(begins.map(|begins| begins.previous));
        }
        let follows = candidates.iter().any(|hash| sealed.follows(hash));
        match self.next {
            None => {
                self.first = Some(head.seq);
                if begins.is_some() && !follows {
                    self.find(Finding::Changed);
                }
            }
            Some(next) if head.seq > next => {
                self.find(Finding::Missing {
                    from: next,
                    to: head.seq - 1,
                });
                if begins.is_some() && !follows {
                    self.find(Finding::Changed);
                }
            }
            Some(next) if head.seq < next => self.find(Finding::OutOfPlace { seq: head.seq }),
            Some(_) if !follows => self.find(Finding::Changed),
            Some(_) => {}
        }
        if self
            .noted
            .is_some_and(|noted| noted.seq == head.seq && noted.hash != head.hash)
        {
            self.find(Finding::Rewritten);
        }
        // Of a line that was changed, the next one knows the hash that it had: the written one,
        // or, if just that was changed, the one that it ought to have.
        self.remember(head);
        if !follows {
            for hash in candidates {
                let hash = Hash::link(&hash, sealed.signed);
                self.remember(Head { hash, ..head });
            }
        }
        if self.next.is_none_or(|next| head.seq >= next) {
            self.next = Some(head.seq + 1);
            self.last = head;
        }
    }

    fn remember(&mut self, head: Head) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(head);
    }

    fn note_torn(&mut self, line: u64) {
        let file = self.file.clone();
        self.torn.push(Found {
            file,
            line,
            what: (),
        });
    }

    fn find(&mut self, what: Finding) {
        self.find_at(self.line, what);
    }

    fn find_at(&mut self, line: u64, what: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            let file = self.file.clone();
            self.findings.push(Found { file, line, what });
        }
    }
}

/// What a line says that begins a file or a run.
#[derive(Debug)]
struct Beginning {
    previous: Hash,
    torn: bool,
}

impl Beginning {
    fn of(sealed: &Sealed<'_>) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Fields<'f> {
            event: &'f str,
            prev: &'f str,
            #[serde(default)]
            torn: bool,
        }
        // Cheap to know of most lines that they are none.
        let is_call = sealed
            .signed
            .windows(15)
            .any(|w| w == b"\"event\":\"call\",");
        if is_call {
            return None;
        }
        let mut line = sealed.signed.to_vec();
        line.push(b'}');
        let fields: Fields<'_> = serde_json::from_slice(&line).ok()?;
        let begins = matches!(fields.event, "start" | "open");
        Some(Self {
            previous: Hash::parse(fields.prev.as_bytes()).filter(|_| begins)?,
            torn: fields.torn,
        })
    }
}
