//! Secrets in targets: what the relay's access lines and the agent's audit log show in their place.
//! Pure.
//!
//! Leans to the safe side: a value that only might be a secret is masked. What the target was is
//! of no use to whoever reads the log to act as its caller.

use std::borrow::Cow;

/// In place of a secret.
const MASK: &str = "***";

/// Path segments behind which a ticket follows (`/ticket/T`, `/nfc/T/disk-0.vmdk`).
const TICKETS: [&str; 2] = ["ticket", "nfc"];

/// A parameter of a query or a path whose name has one of these in it holds a secret.
const SECRET_WORDS: [&str; 15] = [
    "token",
    "ticket",
    "passw",
    "pwd",
    "secret",
    "session",
    "saml",
    "assertion",
    "signature",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "jwt",
    "cookie",
];

/// A parameter of a query or a path with one of these names holds a secret.
const SECRET_NAMES: [&str; 9] = [
    "code",
    "key",
    "sig",
    "auth",
    "authorization",
    "pass",
    "pin",
    "otp",
    "nonce",
];

/// A target (path and query) with its secrets masked. Takes whatever a peer sends.
pub fn mask_target(target: &str) -> Cow<'_, str> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let path = mask_path(path);
    let query = query.map(mask_query);
    match (path, query) {
        (Cow::Borrowed(_), None | Some(Cow::Borrowed(_))) => Cow::Borrowed(target),
        (path, None) => path,
        (path, Some(query)) => Cow::Owned(format!("{path}?{query}")),
    }
}

fn mask_path(path: &str) -> Cow<'_, str> {
    let mut masked = String::new();
    let (mut kept, mut at) = (0, 0);
    let mut behind_ticket = false;
    for segment in path.split('/') {
        if !segment.is_empty() && (behind_ticket || is_jwt(segment)) {
            masked.push_str(&path[kept..at]);
            masked.push_str(MASK);
            kept = at + segment.len();
        } else if let Some((name, parameters)) = segment.split_once(';')
            && let Cow::Owned(parameters) = mask_query(parameters)
        {
            // `;jsessionid=S`: where cookies are off, Java servers have the session there.
            masked.push_str(&path[kept..=at + name.len()]);
            masked.push_str(&parameters);
            kept = at + segment.len();
        }
        let name = decoded_as_is(segment);
        let name = name.split(';').next().unwrap_or_default();
        let is_ticket = TICKETS
            .iter()
            .any(|ticket| name.eq_ignore_ascii_case(ticket));
        // An empty segment does not count: some servers merge slashes.
        behind_ticket = (behind_ticket && segment.is_empty()) || is_ticket;
        at += segment.len() + 1;
    }
    if kept == 0 {
        return Cow::Borrowed(path);
    }
    masked.push_str(&path[kept..]);
    Cow::Owned(masked)
}

fn mask_query(query: &str) -> Cow<'_, str> {
    let mut masked = String::new();
    let (mut kept, mut at) = (0, 0);
    // `?` too: what follows a second one may be read as a query again.
    for pair in query.split(['&', ';', '?', '#']) {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (Some(name), value),
            None => (None, pair),
        };
        if !value.is_empty() && (name.is_some_and(is_secret_name) || is_jwt(value)) {
            let value_at = at + pair.len() - value.len();
            masked.push_str(&query[kept..value_at]);
            masked.push_str(MASK);
            kept = at + pair.len();
        }
        at += pair.len() + 1;
    }
    if kept == 0 {
        return Cow::Borrowed(query);
    }
    masked.push_str(&query[kept..]);
    Cow::Owned(masked)
}

fn is_secret_name(name: &str) -> bool {
    let name = decoded(name);
    SECRET_NAMES.contains(&&*name) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Whether a JWT is in `text`: base64url of `{"`, then two more parts. Each part is looked at once, however
/// many beginnings are in it.
fn is_jwt(text: &str) -> bool {
    let text = decoded_as_is(text);
    let begins = |part: &str| part.len() >= 4 && part.bytes().take(4).all(is_base64url);
    let mut behind = text.split('.').skip(1).peekable();
    text.split('.').any(|part| {
        let followed = behind.next().is_some_and(begins) && behind.peek().is_some();
        followed && part.match_indices("eyJ").any(|(at, _)| begins(&part[at..]))
    })
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Percent-decoded, in lower case.
fn decoded(text: &str) -> String {
    decoded_as_is(text).to_ascii_lowercase()
}

/// Percent-decoded as often as a careless server might (twice); what is no UTF-8 is of no
/// interest here.
fn decoded_as_is(text: &str) -> Cow<'_, str> {
    match once(text) {
        None => Cow::Borrowed(text),
        Some(first) => Cow::Owned(once(&first).unwrap_or(first)),
    }
}

fn once(text: &str) -> Option<String> {
    if !text.contains('%') {
        return None;
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes[at..].get(1..3).filter(|_| bytes[at] == b'%');
        let byte = escaped
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_masked_and_all_else_stays() {
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        let table = [
            ("/", "/"),
            ("/sdk", "/sdk"),
            (
                "/api/vcenter/vm?names=a&names=b",
                "/api/vcenter/vm?names=a&names=b",
            ),
            ("/ticket/52d1a7c0", "/ticket/***"),
            ("/ticket/", "/ticket/"),
            ("/ticket", "/ticket"),
            ("/Ticket/x/y", "/Ticket/***/y"),
            ("/ticket//x", "/ticket//***"),
            ("/tickets/x", "/tickets/x"),
            ("/%74icket/x", "/%74icket/***"),
            ("/%2574icket/x", "/%2574icket/***"),
            ("/nfc/52aa-9f/disk-0.vmdk", "/nfc/***/disk-0.vmdk"),
            ("/nfc/52aa-9f/disk-0.vmdk?x=1", "/nfc/***/disk-0.vmdk?x=1"),
            ("/a;jsessionid=X/b", "/a;jsessionid=***/b"),
            (
                "/a;x=1;JSESSIONID=X?token=Y",
                "/a;x=1;JSESSIONID=***?token=***",
            ),
            ("/a;%6Asessionid=X;y=2/b", "/a;%6Asessionid=***;y=2/b"),
            ("/a;v=1;w/b;x=2", "/a;v=1;w/b;x=2"),
            ("/a;jsessionid=/b", "/a;jsessionid=/b"),
            ("/;sid=1;token=X", "/;sid=1;token=***"),
            ("/ticket;v=1/52d1a7c0;x=2/y", "/ticket;v=1/***/y"),
            ("/guestFile?id=12&token=52aa", "/guestFile?id=12&token=***"),
            ("/x?access_token=a&b=c", "/x?access_token=***&b=c"),
            ("/x?%74oken=a", "/x?%74oken=***"),
            ("/x?TOKEN=a", "/x?TOKEN=***"),
            ("/x?token=a=b", "/x?token=***"),
            ("/x?token=", "/x?token="),
            ("/x?token", "/x?token"),
            ("/x?a=1;password=p;c=2", "/x?a=1;password=***;c=2"),
            ("/x?a=1?token=2", "/x?a=1?token=***"),
            ("/x?a=1#token=2", "/x?a=1#token=***"),
            (
                "/ui/webconsole.html?vmId=v&sessionTicket=cst-x",
                "/ui/webconsole.html?vmId=v&sessionTicket=***",
            ),
            ("/cb?code=SplxlOBe&state=x", "/cb?code=***&state=x"),
            ("/zip?zipcode=1", "/zip?zipcode=1"),
            (
                "/x?action=start&~action=find",
                "/x?action=start&~action=find",
            ),
            ("vcenter.sddc.local:443", "vcenter.sddc.local:443"),
            ("", ""),
            ("/x?=a", "/x?=a"),
            ("/x?%", "/x?%"),
            ("/x?%zz=%1", "/x?%zz=%1"),
        ];
        for (target, expected) in table {
            assert_eq!(mask_target(target), expected, "{target}");
        }
        for place in ["/x/J", "/x?a=J", "/x?J", "/x?a=Bearer%20J", "/x/J?b=J"] {
            let masked = mask_target(&place.replace('J', jwt)).into_owned();
            assert!(
                !masked.contains("c2lnbmF0dXJl") && masked.contains(MASK),
                "{masked}"
            );
        }
    }

    proptest! {
        /// A secret is gone wherever in the query its parameter stands, however it is spelled.
        #[test]
        fn a_token_never_stays(
            before in "[a-z=&;%?.]{0,20}", after in "[a-z=&;%?.]{0,20}",
            name in "(token|ticket|password|%74oken|sessionId)", secret in "[A-Z0-9]{8,20}",
        ) {
            let target = format!("/a?{before}&{name}={secret}&{after}");
            prop_assert!(!mask_target(&target).contains(&secret));
        }

        /// As in a query, so in the parameters of a segment.
        #[test]
        fn a_session_never_stays_in_a_path(
            before in "[a-z=;/]{0,20}", after in "[;/?][a-z=;/]{0,20}|",
            name in "(jsessionid|%4aSESSIONID|token)", secret in "[A-Z0-9]{8,20}",
        ) {
            let target = format!("/{before}a;{name}={secret}{after}");
            prop_assert!(!mask_target(&target).contains(&secret));
        }

        /// A JWT is found wherever it begins, and nothing else is taken for one.
        #[test]
        fn a_jwt_is_what_begins_like_one_and_has_two_more_parts(text in "(eyJ|[.]|[a-z-]|%2e|[!]){0,20}") {
            let decoded = decoded_as_is(&text);
            let begins = |part: Option<&str>| {
                part.is_some_and(|part| part.len() >= 4 && part.bytes().take(4).all(is_base64url))
            };
            let found = decoded.match_indices("eyJ").any(|(at, _)| {
                let mut parts = decoded[at..].split('.');
                begins(parts.next()) && begins(parts.next()) && parts.next().is_some()
            });
            prop_assert_eq!(is_jwt(&text), found);
        }

        /// Whatever comes, masking ends, and masking twice is masking once.
        #[test]
        fn masking_is_idempotent(target in "\\PC{0,60}") {
            let once = mask_target(&target).into_owned();
            prop_assert_eq!(mask_target(&once), once.as_str());
        }
    }
}
