//! How the programs put things into words, for a log or a terminal.

use std::fmt::Display;

/// A sentence of somebody else's as it may stand in a line, where nothing may look like a line or a value
/// of its own: what cannot be seen is escaped, and quotes that mark values. An apostrophe is none.
pub fn sentence(text: &str) -> String {
    let mut sentence = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' => sentence.push(c),
            c => sentence.extend(c.escape_debug()),
        }
    }
    sentence
}

/// What an error says, without the page of its documentation that rustls names.
pub fn plain(error: &str) -> &str {
    error
        .split_once(": https://docs.rs/")
        .map_or(error, |(words, _)| words)
}

/// So many of what has this name: `1 session`, `2 sessions`.
pub fn count<N: Display + From<u8> + PartialEq>(number: N, what: impl Display) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// The first of many, no more than `most`, and how many there are beside them: `a, b and 254 more`.
pub fn first<T: Display>(most: usize, all: impl IntoIterator<Item = T>) -> String {
    let mut all = all.into_iter();
    let named: Vec<_> = all.by_ref().take(most).map(|one| one.to_string()).collect();
    match all.count() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_stays_readable_and_is_no_line_and_no_value_of_its_own() {
        for (text, shown) in [
            ("the agent's token: it's out", "the agent's token: it's out"),
            ("x endpoint=\"nsx\"", "x endpoint=\\\"nsx\\\""),
            ("x\nERROR all is lost", "x\\nERROR all is lost"),
            ("\u{1b}[2J\u{202e}", "\\u{1b}[2J\\u{202e}"),
        ] {
            assert_eq!(sentence(text), shown);
        }
    }

    #[test]
    fn an_error_names_no_page_of_a_library() {
        let cut = "the peer is gone: https://docs.rs/rustls/latest/rustls/manual/";
        assert_eq!(plain(cut), "the peer is gone");
        assert_eq!(plain("refused: os error 111"), "refused: os error 111");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(count(1_u8, "session"), "1 session");
        assert_eq!(count(0_usize, "session"), "0 sessions");
        assert_eq!(count(2_u64, "session"), "2 sessions");
    }

    #[test]
    fn of_many_the_first_are_named_and_the_rest_is_counted() {
        for (all, told) in [
            (&[][..], ""),
            (&["a"], "a"),
            (&["a", "b"], "a, b"),
            (&["a", "b", "c"], "a, b and 1 more"),
            (&["a", "b", "c", "d"], "a, b and 2 more"),
        ] {
            assert_eq!(first(2, all), told);
        }
    }
}
