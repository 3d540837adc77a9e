//! What the readers of TOML say, in the words of whoever writes the file: they speak of Rust's types.

/// Their message about the value of `key`. One that is not known here stays as it is.
pub(crate) fn of_reader(message: &str, key: Option<&str>) -> String {
    let key = key.unwrap_or_default();
    known(message, key).unwrap_or_else(|| message.to_owned())
}

fn known(message: &str, key: &str) -> Option<String> {
    if let Some(name) = message.strip_prefix("missing field ") {
        return Some(format!("{} is missing", name.trim_matches('`')));
    }
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let (name, known) = rest.split_once(", expected ")?;
        let name = name.trim_matches('`');
        let known = choice(known, "").unwrap_or_default();
        return Some(format!("there is no key {name} here; expected {known}"));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (found, known) = rest.split_once(", expected ")?;
        let found = found.trim_matches('`');
        let known = choice(known, "\"")?;
        return Some(format!("found {found:?}; expected {known}"));
    }
    for what in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some(rest) = message.strip_prefix(what) {
            // What was found may say anything, what is expected never says this.
            let (value, expected) = rest.rsplit_once(", expected ")?;
            let value = match what {
                "invalid length " => "sequence",
                _ => value,
            };
            return Some(format!(
                "found {}; expected {}",
                found(value),
                wanted(expected, value, key)
            ));
        }
    }
    let words = match message {
        "wanted string or table" => "expected text in quotes",
        "duplicate key" => {
            "written twice; expected it once (each of several tables of a name is in double brackets, like \
             [[endpoint]])"
        }
        "invalid IP address syntax" => "expected an IP address, like \"10.1.2.3\"",
        "string values must be quoted, expected literal string" => "expected text in quotes",
        "invalid basic string, expected `\"`" | "invalid literal string, expected `'`" => {
            "the text has no quote at its end"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

/// `a`, `b`: names that a reader knows, with `or` before the last.
fn choice(known: &str, quote: &str) -> Option<String> {
    let names = known.split('`').skip(1).step_by(2);
    let names: Vec<String> = names.map(|name| format!("{quote}{name}{quote}")).collect();
    let (last, others) = names.split_last()?;
    Some(match others {
        [] => last.clone(),
        others => format!("{} or {last}", others.join(", ")),
    })
}

/// A value: as it is written, where it is short.
fn found(value: &str) -> &str {
    match value {
        "sequence" => "a list",
        "map" => "a table",
        value => {
            let bare = ["boolean `", "integer `", "floating point `"]
                .iter()
                .find_map(|kind| value.strip_prefix(kind));
            match bare {
                Some(bare) => bare.trim_end_matches('`'),
                None => value.strip_prefix("string ").unwrap_or(value),
            }
        }
    }
}

/// What is to be written in place of a value.
fn wanted(expected: &str, value: &str, key: &str) -> String {
    let words = match expected {
        // Everything has its place in a table that is written once.
        _ if value == "map" && key.ends_with(']') => {
            let name = key.split('[').next().unwrap_or_default();
            return format!("[{name}] once, in single brackets");
        }
        "a sequence" if value == "map" && !key.contains('[') => {
            return format!("[[{key}]], in double brackets");
        }
        "a sequence" if value.starts_with("string ") || value.starts_with("integer ") => {
            return format!("a list, like [{}]", found(value));
        }
        "a sequence" => "a list, in brackets",
        "a string" => "text in quotes",
        "path string" => "a file's name in quotes",
        "a boolean" => "true or false, without quotes",
        "a map" => "a table, like { name = ... }",
        "u16" => "a port, 1 to 65535",
        "u32" => "a whole number, 0 to 4294967295",
        "u64" | "i64" => "a whole number",
        table if table.starts_with("struct ") => "a table, like { name = ... }",
        other => return other.to_owned(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only errors are looked at")]
    struct Written {
        file: PathBuf,
        on: Option<bool>,
        port: Option<u16>,
        most: Option<u32>,
        version: Option<i64>,
        text: Option<String>,
        list: Option<Vec<String>>,
        table: Option<Inner>,
        map: Option<BTreeMap<String, Vec<String>>>,
        word: Option<Word>,
        address: Option<IpAddr>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only errors are looked at")]
    struct Inner {
        one: String,
        two: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Allow,
        Deny,
        Ask,
    }

    /// As the libraries say it today: who brings a new one sees here what has become of its words.
    #[test]
    fn nobody_who_writes_a_file_has_to_know_the_types_of_rust() {
        let _known = [Word::Allow, Word::Deny, Word::Ask];
        for (written, said) in [
            (
                "on = \"yes\"",
                "found \"yes\"; expected true or false, without quotes",
            ),
            (
                "port = \"443\"",
                "found \"443\"; expected a port, 1 to 65535",
            ),
            ("port = 99999", "found 99999; expected a port, 1 to 65535"),
            (
                "most = -1",
                "found -1; expected a whole number, 0 to 4294967295",
            ),
            (
                "most = 1.5",
                "found 1.5; expected a whole number, 0 to 4294967295",
            ),
            ("version = \"1\"", "found \"1\"; expected a whole number"),
            ("text = 5", "found 5; expected text in quotes"),
            ("text = [\"a\"]", "found a list; expected text in quotes"),
            ("text = a.b", "expected text in quotes"),
            ("text = \"a", "the text has no quote at its end"),
            (
                "file = true",
                "found true; expected a file's name in quotes",
            ),
            (
                "list = \"GET\"",
                "found \"GET\"; expected a list, like [\"GET\"]",
            ),
            (
                "list = \"x, expected y\"",
                "found \"x, expected y\"; expected a list, like [\"x, expected y\"]",
            ),
            ("list = 443", "found 443; expected a list, like [443]"),
            ("list = true", "found true; expected a list, in brackets"),
            (
                "[list]",
                "found a table; expected [[list]], in double brackets",
            ),
            (
                "table = \"5s\"",
                "found \"5s\"; expected a table, like { name = ... }",
            ),
            (
                "table = [\"x\"]",
                "found a list; expected a table, like { name = ... }",
            ),
            (
                "[[table]]",
                "found a table; expected [table] once, in single brackets",
            ),
            (
                "map = \"a=b\"",
                "found \"a=b\"; expected a table, like { name = ... }",
            ),
            (
                "word = \"permit\"",
                "found \"permit\"; expected \"allow\", \"deny\" or \"ask\"",
            ),
            ("word = true", "expected text in quotes"),
            ("table = { one = \"1\" }", "two is missing"),
            (
                "table = { won = \"1\" }",
                "there is no key won here; expected one or two",
            ),
            (
                "address = \"10.0.0.0/8\"",
                "expected an IP address, like \"10.1.2.3\"",
            ),
            ("on = true\non = false", "written twice; expected it once"),
        ] {
            let error = toml::from_str::<Written>(written).unwrap_err();
            let key = written.split([' ', ']']).next().unwrap();
            let key = match key.strip_prefix("[[") {
                Some(key) => format!("{key}[1]"),
                None => key.trim_start_matches('[').to_owned(),
            };
            let words = of_reader(error.message().trim(), Some(&key));
            assert!(
                words.starts_with(said),
                "{written}: {words:?}, not {said:?}"
            );
        }
        let words = of_reader("something new", None);
        assert_eq!(words, "something new");
    }
}
