//! The one reader of JSON objects in tokens: strict about names, lazy about values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most members of a header or claims set. Real ones have a dozen.
const MAX_MEMBERS: usize = 128;

/// The members of a JSON object by name, each of them once; values are borrowed and not looked
/// into until asked for, so that a hostile token costs little more memory than its own length.
pub(super) struct Members<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

/// The member is there, but not what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrongType;

impl<'a> Members<'a> {
    /// Reads an object. `None`: not one, or with repeated or too many members.
    pub(super) fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether there is such a member, whatever its value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, WrongType> {
        self.read(name)
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, WrongType> {
        self.read(name)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, WrongType> {
        self.read(name)
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, WrongType> {
        self.read(name)
    }

    /// A value as it is written.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }

    /// A string or an array of strings; `true` when it was an array.
    pub(super) fn texts(&self, name: &str) -> Result<Option<(Vec<String>, bool)>, WrongType> {
        match self.0.get(name) {
            Some(raw) if raw.get().starts_with('[') => {
                Ok(self.read(name)?.map(|texts| (texts, true)))
            }
            _ => Ok(self.text(name)?.map(|text| (vec![text], false))),
        }
    }

    fn read<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, WrongType> {
        let Some(raw) = self.0.get(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| WrongType)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = BTreeMap<Cow<'de, str>, &'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    match members.entry(name) {
                        Entry::Vacant(vacant) => vacant.insert(value),
                        Entry::Occupied(_) => return Err(A::Error::custom("repeated member")),
                    };
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Object).map(Members)
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_distinct_members_are_read() {
        assert!(Members::parse(br#"{"a":1,"b":{"a":2,"a":3}}"#).is_some());
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[1]"#,
            r#"null"#,
            r#""a""#,
            r#"{"a":1}x"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            "",
        ] {
            assert!(Members::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn the_number_of_members_is_bounded() {
        let object = |n: usize| {
            let members: Vec<_> = (0..n).map(|i| format!("\"{i}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(Members::parse(object(MAX_MEMBERS).as_bytes()).is_some());
        assert!(Members::parse(object(MAX_MEMBERS + 1).as_bytes()).is_none());
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_is_looked_into() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(6000), "]".repeat(6000));
        let members = Members::parse(deep.as_bytes()).unwrap();
        assert!(members.has("a"));
        assert_eq!(members.text("a"), Err(WrongType));
        assert_eq!(members.texts("a"), Err(WrongType));
    }

    #[test]
    fn values_must_have_the_asked_type() {
        let json = br#"{"s":"x","n":5,"z":null,"l":["a","b"],"m":["a",1],"b":true}"#;
        let members = Members::parse(json).unwrap();
        assert_eq!(members.text("s"), Ok(Some("x".into())));
        assert_eq!(members.text("absent"), Ok(None));
        assert_eq!(members.number("n"), Ok(Some(5.0)));
        for name in ["n", "z", "l", "b"] {
            assert_eq!(members.text(name), Err(WrongType), "{name}");
        }
        for name in ["s", "z", "l", "b"] {
            assert_eq!(members.number(name), Err(WrongType), "{name}");
        }
        assert_eq!(members.texts("s"), Ok(Some((vec!["x".into()], false))));
        assert_eq!(
            members.texts("l"),
            Ok(Some((vec!["a".into(), "b".into()], true)))
        );
        assert_eq!(members.texts("m"), Err(WrongType));
        assert_eq!(members.texts("z"), Err(WrongType));
    }
}
