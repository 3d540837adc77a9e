//! The operations of vSphere's SOAP API (`urn:vim25`), for whoever checks a policy: a decision
//! never looks at them.

use crate::glob::{Case, Glob};

/// Every operation, one a line, sorted.
const KNOWN: &str = include_str!("../data/vim25-operations.txt");

/// Every known operation, in the order of the alphabet.
pub fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.lines()
}

/// Whether the API has an operation of this name.
pub fn is_known(name: &str) -> bool {
    known().any(|known| known == name)
}

/// The operations that a name with `*` stands for.
pub fn matching(pattern: &str) -> impl Iterator<Item = &'static str> {
    let glob = Glob::new(pattern);
    known().filter(move |name| glob.matches(name, Case::Exact))
}

/// The known operation that is most like `name`, if one is like it at all.
pub fn suggestion(name: &str) -> Option<&'static str> {
    let name = name.replace('*', "");
    let wanted = name.to_ascii_lowercase();
    let limit = (name.len() / 3).max(1);
    let distances = known().filter_map(|known| {
        let lower = known.to_ascii_lowercase();
        // `PowerOnVM` was meant to be `PowerOnVM_Task`.
        if lower.strip_suffix("_task") == Some(&wanted) {
            return Some((0, known));
        }
        (lower.len().abs_diff(wanted.len()) <= limit)
            .then(|| (distance(lower.as_bytes(), wanted.as_bytes()), known))
            .filter(|(distance, _)| *distance <= limit)
    });
    distances.min().map(|(_, known)| known)
}

/// Whether an operation changes nothing that others see: it reads, or it keeps house in the
/// caller's own session. By its name: the API has no other sign. What is not known to read is
/// taken for a change.
pub fn reads(name: &str) -> bool {
    const WORDS: [&str; 16] = [
        "Are",
        "Check",
        "Continue",
        "CurrentTime",
        "Does",
        "Estimate",
        "Fetch",
        "Find",
        "Get",
        "Has",
        "Is",
        "List",
        "Query",
        "Read",
        "Retrieve",
        "WaitFor",
    ];
    const OWN: [&str; 27] = [
        "CancelRetrievePropertiesEx",
        "CancelWaitForUpdates",
        "CloseInventoryViewFolder",
        "CreateCollectorForEvents",
        "CreateCollectorForTasks",
        "CreateCollectorWithInfoFilterForTasks",
        "CreateContainerView",
        "CreateFilter",
        "CreateInventoryView",
        "CreateListView",
        "CreateListViewFromView",
        "CreatePropertyCollector",
        "DestroyCollector",
        "DestroyPropertyCollector",
        "DestroyPropertyFilter",
        "DestroyView",
        "Login",
        "LoginBySSPI",
        "LoginByToken",
        "Logout",
        "ModifyListView",
        "OpenInventoryViewFolder",
        "ResetCollector",
        "ResetListView",
        "ResetListViewFromView",
        "RewindCollector",
        "SetCollectorPageSize",
    ];
    OWN.contains(&name)
        || name == "SessionIsActive"
        || WORDS.iter().any(|word| {
            let behind = name.strip_prefix(word);
            // `Are` begins `AreAlarmActionsEnabled`, and no word that only looks like it.
            behind.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_uppercase())
            })
        })
}

/// Levenshtein's: how many bytes to insert, remove or replace.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut above = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = above + usize::from(x != y);
            above = row[j + 1];
            row[j + 1] = replaced.min(above + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_sorted() {
        assert_eq!(known().count(), 968);
        assert!(known().is_sorted());
        assert!(is_known("RetrievePropertiesEx"));
        assert!(!is_known("RetrievePropertiesE"));
    }

    #[test]
    fn a_name_with_a_mistake_is_recognised() {
        for (name, expected) in [
            ("PowerOnVM", Some("PowerOnVM_Task")),
            ("poweroffvm_task", Some("PowerOffVM_Task")),
            ("RetreivePropertiesEx", Some("RetrievePropertiesEx")),
            ("Destroy", Some("Destroy_Task")),
            ("Logn", Some("Login")),
            ("SomethingElseAltogether", None),
        ] {
            assert_eq!(suggestion(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_known_to_read_changes_something() {
        for (name, expected) in [
            ("RetrievePropertiesEx", true),
            ("DestroyView", true),
            ("QueryPerf", true),
            ("Destroy_Task", false),
            ("ReconfigVM_Task", false),
            ("Reload", false),
            ("CreateVM_Task", false),
            ("IssueSomething", false),
        ] {
            assert_eq!(reads(name), expected, "{name}");
        }
        let found: Vec<_> = matching("Destroy*").filter(|name| reads(name)).collect();
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
