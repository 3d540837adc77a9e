//! What must hold of whatever bytes a peer sends, as plain functions that panic where it does
//! not: tests call them with what they make up, fuzz targets with what a fuzzer makes up.

use crate::soap::{SoapOutcome, operation};

/// A request target: one reading, whatever upstream reads it.
pub fn target(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        crate::canonical::model::check(text);
    }
}

/// A SOAP body: the operation does not depend on how the body arrives, and is really there.
pub fn soap(bytes: &[u8]) {
    let whole = operation(bytes, true);
    assert_ne!(
        whole,
        Ok(SoapOutcome::NeedMore),
        "a whole body is decided on"
    );
    let cuts = [1, 2, 3, 5, 7].map(|part| bytes.len() * part / 8);
    for cut in cuts {
        match operation(&bytes[..cut], false) {
            Ok(SoapOutcome::NeedMore) => {}
            early => assert_eq!(early.is_ok(), whole.is_ok(), "decided too early at {cut}"),
        }
    }
    if let Ok(SoapOutcome::Operation(found)) = whole {
        assert!(
            found
                .name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)),
            "a name that no rule could name"
        );
        let there = bytes
            .windows(found.name.len())
            .any(|window| window == found.name.as_bytes());
        assert!(there, "an operation that is not in the body");
    }
}

/// What a fuzzer begins with: target, name and bytes.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const ENVELOPE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Header/><e:Body>\
        <Login xmlns=\"urn:vim25\"><_this type=\"SessionManager\">S</_this></Login>\
        </e:Body></e:Envelope>";
    let soap = [
        ("login", ENVELOPE.to_owned()),
        (
            "doctype",
            ENVELOPE.replace("?>\n", "?><!DOCTYPE x [<!ENTITY a 'b'>]>"),
        ),
        ("cdata", ENVELOPE.replace(">S<", "><![CDATA[</e:Body>]]><")),
        (
            "second",
            ENVELOPE.replace("</e:Body>", "<Destroy_Task/></e:Body>"),
        ),
        (
            "twelve",
            ENVELOPE.replace(
                "schemas.xmlsoap.org/soap/envelope/",
                "www.w3.org/2003/05/soap-envelope",
            ),
        ),
    ];
    let targets = [
        ("rest", "/api/vcenter/vm/vm-42/power?action=stop"),
        ("escapes", "/%41/%c3%a9%2e%2E;x=1/..%252f%5c"),
        ("dots", "/a/./b/../c//d/..;/e#f"),
    ];
    let soap = soap
        .into_iter()
        .map(|(name, text)| ("soap", name, text.into_bytes()));
    let targets = targets
        .into_iter()
        .map(|(name, text)| ("targets", name, text.as_bytes().to_vec()));
    soap.chain(targets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever one byte is changed, left out or doubled.
    #[test]
    fn what_must_hold_holds_of_damaged_seeds() {
        for (kind, _, seed) in seeds() {
            let check = if kind == "soap" { soap } else { target };
            check(&seed);
            for at in 0..seed.len() {
                for byte in *b"<>&\"'/;%. \0\xff" {
                    let mut damaged = seed.clone();
                    damaged[at] = byte;
                    check(&damaged);
                    damaged.insert(at, seed[at]);
                    check(&damaged);
                }
                let mut shorter = seed.clone();
                shorter.remove(at);
                check(&shorter);
            }
        }
    }
}
