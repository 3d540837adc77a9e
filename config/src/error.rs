//! The one error of this crate: which file, which line, which key, what was found and expected.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration that cannot be run with. Programs print it and exit with 78 (`EX_CONFIG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that has to be changed.
    pub file: PathBuf,
    /// Line and column, from 1, where the file could be read that far.
    pub position: Option<(usize, usize)>,
    /// The dotted key, for example `tls.private_key` or `endpoint[2].upstream`.
    pub key: Option<String>,
    /// What was found and what was expected.
    pub message: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl ConfigError {
    /// An error of the whole file: it cannot be read, say.
    pub fn file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            position: None,
            key: None,
            message: message.into(),
        }
    }

    /// An error at a span of `text`, the file's content. The key is looked up from the span.
    pub fn at(file: &Path, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            position: Some(position(text, span.start)),
            key: key_at(text, span.start),
            message: message.into(),
        }
    }

    /// An error of the value of a dotted `key`, found after the file was read: the line is
    /// looked up again, and left out where the key is not written in the file.
    pub fn at_key(file: &Path, key: &str, message: impl Into<String>) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        Self::of_key(file, &text, key, message)
    }

    /// The same where `text`, the file's content, is at hand.
    pub(crate) fn of_key(file: &Path, text: &str, key: &str, message: impl Into<String>) -> Self {
        let position = span_of(text, key).map(|span| position(text, span.start));
        let key = Some(key.to_owned());
        Self {
            file: file.to_owned(),
            position,
            key,
            message: message.into(),
        }
    }

    /// An error of a TOML reader.
    pub fn toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        Self::of_reader(file, text, error.span(), error.message())
    }

    /// What a reader of TOML said of a span of `text`, in the words of who writes the file.
    pub(crate) fn of_reader(
        file: &Path,
        text: &str,
        span: Option<Range<usize>>,
        message: &str,
    ) -> Self {
        let mut error = match span {
            Some(span) => Self::at(file, text, span, ""),
            None => Self::file(file, ""),
        };
        error.message = crate::words::of_reader(message.trim(), error.key.as_deref());
        error
    }
}

/// Line and column, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// The dotted key whose entry covers `offset`, or the innermost table around it.
///
/// The spans come from the same TOML reader that reads the configuration; this only looks for
/// the narrowest one. A text that is not TOML (a repeated key, say) is looked at line by line.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let Ok(document) = toml_edit::Document::parse(text) else {
        return key_of_line(text, offset);
    };
    let mut path = String::new();
    descend(document.as_table(), offset, &mut path);
    (!path.is_empty()).then_some(path)
}

/// The key that begins the line of `offset`, behind the name of the last table header above it.
fn key_of_line(text: &str, offset: usize) -> Option<String> {
    let offset = text.floor_char_boundary(offset);
    let start = text[..offset].rfind('\n').map_or(0, |end| end + 1);
    let (key, _) = text[start..].lines().next()?.split_once('=')?;
    let table = text[..start]
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix('[')?.split(']').next())
        .map(|name| name.trim_matches(['[', ' ']));
    Some(match table {
        Some(table) => format!("{table}.{}", key.trim()),
        None => key.trim().to_owned(),
    })
}

/// Where the value of a dotted key stands; `table[2].key` is in the second of several tables.
fn span_of(text: &str, key: &str) -> Option<Range<usize>> {
    let document = toml_edit::Document::parse(text).ok()?;
    let mut table: &dyn toml_edit::TableLike = document.as_table();
    let (tables, last) = key.rsplit_once('.').unwrap_or(("", key));
    for part in tables.split('.').filter(|part| !part.is_empty()) {
        table = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, number)) => {
                let number: usize = number.parse().ok()?;
                let tables = table.get(name)?.as_array_of_tables()?;
                tables.get(number.checked_sub(1)?)?
            }
            None => table.get(part)?.as_table_like()?,
        };
    }
    table.get(last)?.span()
}

fn descend(table: &dyn toml_edit::TableLike, offset: usize, path: &mut String) {
    for (name, item) in table.iter() {
        let key_span = table.key(name).and_then(toml_edit::Key::span);
        let on_key = key_span.is_some_and(|span| span.contains(&offset));
        if on_key || covers(item, offset) {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            if let Some(inner) = item.as_table_like() {
                descend(inner, offset, path);
            } else if let Some(tables) = item.as_array_of_tables() {
                let inside = tables
                    .iter()
                    .enumerate()
                    .filter(|(_, t)| covers_table(t, offset));
                if let Some((index, inner)) = inside.last() {
                    path.push_str(&format!("[{}]", index + 1));
                    descend(inner, offset, path);
                }
            }
            return;
        }
    }
}

fn covers(item: &toml_edit::Item, offset: usize) -> bool {
    if let Some(tables) = item.as_array_of_tables() {
        return tables.iter().any(|table| covers_table(table, offset));
    }
    match item.as_table() {
        Some(table) => covers_table(table, offset),
        None => item.span().is_some_and(|span| span.contains(&offset)),
    }
}

/// A `[table]` has the span of its header only; its entries lie behind it.
fn covers_table(table: &toml_edit::Table, offset: usize) -> bool {
    table.span().is_some_and(|span| span.contains(&offset))
        || table.iter().any(|(name, item)| {
            table
                .key(name)
                .and_then(toml_edit::Key::span)
                .is_some_and(|span| span.contains(&offset))
                || covers(item, offset)
        })
}
