//! Well-known header names as one byte: 1 to 126. Part of the protocol: append only.

use http::header::HeaderName;

/// Cells of the hash table below; a power of two, about four times the names.
const CELLS: usize = 512;

macro_rules! names {
    ($($name:literal)*) => {
        const NAMES: &[&str] = &[$($name,)*];
        static TABLE: [HeaderName; NAMES.len()] = [$(HeaderName::from_static($name),)*];
    };
}

names! {
    "accept" "accept-charset" "accept-encoding" "accept-language" "accept-ranges"
    "access-control-allow-credentials" "access-control-allow-headers"
    "access-control-allow-methods" "access-control-allow-origin" "access-control-expose-headers"
    "access-control-max-age" "access-control-request-headers" "access-control-request-method"
    "age" "allow" "alt-svc" "authorization" "cache-control" "content-disposition"
    "content-encoding" "content-language" "content-length" "content-location" "content-md5"
    "content-range" "content-security-policy" "content-type" "cookie" "date" "dnt" "etag" "expect"
    "expires" "forwarded" "from" "host" "if-match" "if-modified-since" "if-none-match" "if-range"
    "if-unmodified-since" "last-modified" "link" "location" "max-forwards" "origin" "pragma"
    "priority" "proxy-status" "range" "referer" "referrer-policy" "retry-after"
    "sec-fetch-dest" "sec-fetch-mode" "sec-fetch-site" "sec-fetch-user" "sec-websocket-accept"
    "sec-websocket-extensions" "sec-websocket-key" "sec-websocket-protocol"
    "sec-websocket-version" "server" "set-cookie" "strict-transport-security" "te" "traceparent"
    "tracestate" "trailer" "upgrade" "upgrade-insecure-requests" "user-agent" "vary" "via"
    "www-authenticate" "x-content-type-options" "x-frame-options" "x-forwarded-for"
    "x-forwarded-host" "x-forwarded-proto" "x-request-id" "x-requested-with" "x-xss-protection"
    "soapaction" "vmware-api-session-id" "vmware-use-header-authn" "x-xsrf-token"
    "x-vmware-vcloud-access-token" "x-vmware-vcloud-token-type" "x-vcloud-authorization"
    "x-vmware-vcloud-request-id" "x-vmware-vcloud-client-request-id" "x-vmware-vcloud-tenant-context"
    "x-vmware-vcloud-auth-context" "x-vcenter-session" "x-nsx-username" "x-nsx-groups"
    "x-nsx-requestid" "x-allow-overwrite" "x-envoy-upstream-service-time" "server-timing"
    "grpc-status" "grpc-message" "grpc-timeout" "grpc-encoding"
}

/// Where each name's number stands: number 0 marks an empty cell.
static CELL: [u8; CELLS] = fill();

/// Length and three bytes tell these names well enough apart; what is left is probed.
const fn hash(name: &[u8]) -> usize {
    let (length, middle) = (name.len(), name[name.len() / 2] as usize);
    let (first, last) = (name[0] as usize, name[length - 1] as usize);
    (length * 31 + first * 7 + middle * 3 + last * 13) % CELLS
}

const fn fill() -> [u8; CELLS] {
    assert!(NAMES.len() < 127);
    let mut cells = [0; CELLS];
    let mut index = 0;
    while index < NAMES.len() {
        let mut at = hash(NAMES[index].as_bytes());
        while cells[at] != 0 {
            at = (at + 1) % CELLS;
        }
        cells[at] = index as u8 + 1;
        index += 1;
    }
    cells
}

/// The name of a number.
pub(crate) fn name_of(number: u8) -> Option<HeaderName> {
    TABLE.get(usize::from(number).checked_sub(1)?).cloned()
}

/// The number of a name, if it has one.
pub(crate) fn number_of(name: &HeaderName) -> Option<u8> {
    let name = name.as_str();
    let mut at = hash(name.as_bytes());
    while CELL[at] != 0 {
        if NAMES[usize::from(CELL[at]) - 1] == name {
            return Some(CELL[at]);
        }
        at = (at + 1) % CELLS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_number_of_its_own() {
        for (index, name) in NAMES.iter().enumerate() {
            let name = HeaderName::from_static(name);
            assert_eq!(number_of(&name), Some(index as u8 + 1), "{name}");
            assert_eq!(name_of(index as u8 + 1), Some(name));
        }
        assert_eq!(name_of(0), None);
        assert_eq!(name_of(NAMES.len() as u8 + 1), None);
        assert_eq!(number_of(&HeaderName::from_static("x-of-our-own")), None);
    }

    #[test]
    fn the_documentation_has_every_number() {
        let documentation = include_str!("../../docs/protocol.md");
        for (index, name) in NAMES.iter().enumerate() {
            let entry = format!("{} `{name}`", index + 1);
            assert!(documentation.contains(&entry), "{entry}");
        }
    }

    #[test]
    fn numbers_never_change() {
        // Peers of other builds know these numbers: names are appended, never moved.
        for (number, name) in [(1, "accept"), (17, "authorization"), (27, "content-type")] {
            assert_eq!(name_of(number).unwrap(), name);
        }
        for (number, name) in [
            (84, "soapaction"),
            (87, "x-xsrf-token"),
            (104, "grpc-timeout"),
        ] {
            assert_eq!(name_of(number).unwrap(), name);
        }
    }
}
