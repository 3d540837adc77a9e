//! Well-known header names as one byte. Positions never change their meaning: append only.

use http::header::{self, HeaderName};

macro_rules! table {
    ($($name:expr;)*) => {
        const COUNT: usize = [$(stringify!($name)),*].len();
        static TABLE: [HeaderName; COUNT] = [$($name,)*];
    };
}

const fn own(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

table! {
    header::ACCEPT; header::ACCEPT_ENCODING; header::ACCEPT_LANGUAGE; header::ACCEPT_RANGES;
    header::AGE; header::ALLOW; header::AUTHORIZATION; header::CACHE_CONTROL;
    header::CONTENT_DISPOSITION; header::CONTENT_ENCODING; header::CONTENT_LANGUAGE;
    header::CONTENT_LENGTH; header::CONTENT_LOCATION; header::CONTENT_RANGE;
    header::CONTENT_SECURITY_POLICY; header::CONTENT_TYPE; header::COOKIE; header::DATE;
    header::ETAG; header::EXPECT; header::EXPIRES; header::FORWARDED; header::HOST;
    header::IF_MATCH; header::IF_MODIFIED_SINCE; header::IF_NONE_MATCH; header::IF_RANGE;
    header::IF_UNMODIFIED_SINCE; header::LAST_MODIFIED; header::LINK; header::LOCATION;
    header::ORIGIN; header::PRAGMA; header::RANGE; header::REFERER; header::REFERRER_POLICY;
    header::RETRY_AFTER; header::SEC_WEBSOCKET_ACCEPT; header::SEC_WEBSOCKET_EXTENSIONS;
    header::SEC_WEBSOCKET_KEY; header::SEC_WEBSOCKET_PROTOCOL; header::SEC_WEBSOCKET_VERSION;
    header::SERVER; header::SET_COOKIE; header::STRICT_TRANSPORT_SECURITY; header::TE;
    header::TRAILER; header::USER_AGENT; header::VARY; header::VIA; header::WARNING;
    header::WWW_AUTHENTICATE; header::X_CONTENT_TYPE_OPTIONS; header::X_FRAME_OPTIONS;
    header::X_XSS_PROTECTION; header::ACCESS_CONTROL_ALLOW_ORIGIN;
    own("soapaction"); own("vmware-api-session-id"); own("x-xsrf-token"); own("traceparent");
    own("tracestate"); own("x-request-id"); own("x-requested-with"); own("sec-fetch-site");
    own("sec-fetch-mode"); own("sec-fetch-dest"); own("sec-fetch-user"); own("priority");
    own("grpc-status"); own("grpc-message"); own("grpc-timeout"); own("grpc-encoding");
    own("x-vmware-vcloud-access-token"); own("vmware-cloud-director-proxy"); own("keep-alive");
}

/// The name at a position.
pub(crate) fn name_at(position: u8) -> Option<HeaderName> {
    TABLE.get(usize::from(position)).cloned()
}

/// The position of a name, if it has one.
pub(crate) fn position_of(name: &HeaderName) -> Option<u8> {
    use std::collections::HashMap;
    use std::sync::LazyLock;
    static POSITIONS: LazyLock<HashMap<&HeaderName, u8>> = LazyLock::new(|| {
        TABLE
            .iter()
            .enumerate()
            .map(|(position, name)| (name, position as u8))
            .collect()
    });
    POSITIONS.get(name).copied()
}
