//! From a file and the environment to one checked TOML text.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::ConfigError;

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The tables of either program's file, which the environment may name.
const TABLES: [&str; 11] = [
    "listen",
    "tls",
    "directory",
    "peer",
    "limits",
    "relay",
    "oauth",
    "policy",
    "verify_callers",
    "audit",
    "admin",
];

/// A configuration text with the place it came from, for errors and relative paths.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) file: PathBuf,
    pub(crate) text: String,
    overrides: Vec<Override>,
}

/// A key that an environment variable has replaced.
#[derive(Debug)]
struct Override {
    variable: String,
    /// Empty outside of tables.
    table: String,
    key: String,
    value: String,
}

impl Override {
    /// Of a variable that names a key of `tables`, or one of `keys` outside of tables.
    fn of(variable: String, value: String, keys: &[&str], tables: &[&str]) -> Option<Self> {
        let path = variable.strip_prefix("CULVERT_")?.to_ascii_lowercase();
        let (table, key) = path.split_once("__").unwrap_or(("", &path));
        let known = if table.is_empty() {
            keys.contains(&key)
        } else {
            tables.contains(&table)
        };
        let (table, key) = (table.to_owned(), key.to_owned());
        known.then_some(Self {
            variable,
            table,
            key,
            value,
        })
    }

    /// Whether a dotted key is this one.
    fn is(&self, dotted: &str) -> bool {
        match dotted.split_once('.') {
            Some((table, key)) => table == self.table && key == self.key,
            None => self.table.is_empty() && dotted == self.key,
        }
    }

    fn put(&self, document: &mut toml_edit::DocumentMut, value: toml_edit::Value) {
        let table = if self.table.is_empty() {
            Some(document.as_table_mut() as &mut dyn toml_edit::TableLike)
        } else {
            document
                .as_table_mut()
                .entry(&self.table)
                .or_insert_with(toml_edit::table)
                .as_table_like_mut()
        };
        if let Some(table) = table {
            table.insert(&self.key, toml_edit::Item::Value(value));
        }
    }
}

impl Document {
    /// Reads `file` as it stands.
    pub(crate) fn read(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |error: std::io::Error| {
            ConfigError::file(file, format!("cannot read the file ({error})"))
        };
        let size = std::fs::metadata(file).map_err(unreadable)?.len();
        if size > MAX_FILE {
            return Err(ConfigError::file(
                file,
                format!("the file has {size} bytes; expected at most {MAX_FILE}"),
            ));
        }
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        Ok(Self::new(file, text))
    }

    /// A text that `file` has, or is said to have.
    pub(crate) fn new(file: &Path, text: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            text: text.into(),
            overrides: Vec::new(),
        }
    }

    /// Replaces keys by environment variables: `CULVERT_RELAY__URL` for `relay.url`.
    ///
    /// `tables` are the tables of the file that may be named, `keys` the keys outside of tables;
    /// a variable for another key of such a table is an unknown key like any other. Values are
    /// TOML where they parse as such (`2`, `true`, `["a"]`), text otherwise, and where a key takes
    /// nothing else.
    pub(crate) fn with_environment(
        mut self,
        keys: &[&str],
        tables: &[&str],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        for (variable, value) in environment {
            self.refuse_unknown_table(&variable)?;
            let found = Override::of(variable, value, keys, tables);
            self.overrides.extend(found);
        }
        if self.overrides.is_empty() {
            return Ok(self);
        }
        self.overrides
            .sort_by(|one, other| one.variable.cmp(&other.variable));
        let mut document = self.editable()?;
        for replaced in &self.overrides {
            let value = replaced.value.parse();
            let value = value.unwrap_or_else(|_| replaced.value.as_str().into());
            replaced.put(&mut document, value);
        }
        self.text = document.to_string();
        Ok(self)
    }

    /// A misspelt table would be ignored; one of the other program's file is none of ours.
    fn refuse_unknown_table(&self, variable: &str) -> Result<(), ConfigError> {
        let path = variable.strip_prefix("CULVERT_").unwrap_or_default();
        let table = path.split_once("__").map(|(table, _)| table);
        match table.map(str::to_ascii_lowercase) {
            Some(table) if !TABLES.contains(&table.as_str()) => Err(ConfigError::file(
                &self.file,
                format!(
                    "the environment variable {variable} names the table {table:?}; expected one \
                     of {}",
                    TABLES.join(", ")
                ),
            )),
            _ => Ok(()),
        }
    }

    fn editable(&self) -> Result<toml_edit::DocumentMut, ConfigError> {
        let parsed = self.text.parse();
        parsed.map_err(|error: toml_edit::TomlError| {
            ConfigError::of_reader(&self.file, &self.text, error.span(), error.message())
        })
    }

    /// What was written, as `T`.
    pub(crate) fn parse<T: DeserializeOwned>(&mut self) -> Result<T, ConfigError> {
        let parsed = toml::from_str(&self.text);
        let parsed = parsed.or_else(|error| match self.with_text_at(&error) {
            Some(text) => {
                self.text = text;
                toml::from_str(&self.text)
            }
            None => Err(error),
        });
        parsed.map_err(|error| self.explained(ConfigError::toml(&self.file, &self.text, &error)))
    }

    /// The text in which the variable that an error is about is text and no number: a name may look like
    /// one.
    fn with_text_at(&self, error: &toml::de::Error) -> Option<String> {
        let key = ConfigError::toml(&self.file, &self.text, error).key?;
        let replaced = self.overrides.iter().find(|replaced| replaced.is(&key))?;
        let mut document = self.editable().ok()?;
        replaced.put(&mut document, replaced.value.as_str().into());
        let text = document.to_string();
        (text != self.text).then_some(text)
    }

    /// An error at a value of the text.
    pub(crate) fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        self.explained(ConfigError::at(&self.file, &self.text, span, message))
    }

    /// An error of the value of a dotted key, wherever that is written.
    pub(crate) fn error_of(&self, key: &str, message: impl Into<String>) -> ConfigError {
        self.explained(ConfigError::of_key(&self.file, &self.text, key, message))
    }

    /// The error of a key, which may be an environment variable's: then no line of the file has it.
    fn explained(&self, mut error: ConfigError) -> ConfigError {
        let key = error.key.as_deref().unwrap_or_default();
        if let Some(replaced) = self.overrides.iter().find(|replaced| replaced.is(key)) {
            error.position = None;
            error.message = format!("{} ({})", error.message, replaced.variable);
        }
        error
    }

    /// A path of the text: relative ones start at the file's own folder.
    pub(crate) fn path(&self, written: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(written)
    }
}
