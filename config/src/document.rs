//! From a file and the environment to one checked TOML text.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::ConfigError;

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A configuration text with the place it came from, for errors and relative paths.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) file: PathBuf,
    pub(crate) text: String,
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
        Ok(Self {
            file: file.to_owned(),
            text,
        })
    }

    /// Replaces keys by environment variables: `CULVERT_RELAY__URL` for `relay.url`.
    ///
    /// `tables` are the tables of the file that may be named, `keys` the keys outside of tables;
    /// a variable for another key of such a table is an unknown key like any other. Values are
    /// TOML where they parse as such (`2`, `true`, `["a"]`), text otherwise.
    pub(crate) fn with_environment(
        mut self,
        keys: &[&str],
        tables: &[&str],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut overrides: Vec<(String, String, String)> = environment
            .filter_map(|(name, value)| {
                let path = name.strip_prefix("CULVERT_")?.to_ascii_lowercase();
                let (table, key) = path.split_once("__").unwrap_or(("", &path));
                let known = if table.is_empty() {
                    keys.contains(&key)
                } else {
                    tables.contains(&table)
                };
                known.then(|| (table.to_owned(), key.to_owned(), value))
            })
            .collect();
        if overrides.is_empty() {
            return Ok(self);
        }
        overrides.sort();
        let mut document: toml_edit::DocumentMut =
            self.text
                .parse()
                .map_err(|error: toml_edit::TomlError| match error.span() {
                    Some(span) => ConfigError::at(&self.file, &self.text, span, error.message()),
                    None => ConfigError::file(&self.file, error.message()),
                })?;
        for (table, key, value) in overrides {
            let value: toml_edit::Value = value.parse().unwrap_or_else(|_| value.into());
            let target = if table.is_empty() {
                Some(document.as_table_mut() as &mut dyn toml_edit::TableLike)
            } else {
                document
                    .as_table_mut()
                    .entry(&table)
                    .or_insert_with(toml_edit::table)
                    .as_table_like_mut()
            };
            if let Some(target) = target {
                target.insert(&key, toml_edit::Item::Value(value));
            }
        }
        self.text = document.to_string();
        Ok(self)
    }

    /// What was written, as `T`.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text)
            .map_err(|error| ConfigError::toml(&self.file, &self.text, &error))
    }

    /// An error at a value of the text.
    pub(crate) fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError::at(&self.file, &self.text, span, message)
    }

    /// A path of the text: relative ones start at the file's own folder.
    pub(crate) fn path(&self, written: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(written)
    }
}
