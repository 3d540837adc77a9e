//! Why there is no token: whose fault it is, and what to do.

use std::path::Path;
use std::time::Duration;

use crate::fetch::{DiscoveryError, FetchError};

/// Why no access token was obtained. `Display` says what happened and what to do; no variant
/// holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObtainError {
    /// The exchange with the issuer failed: it cannot be reached, or fails itself.
    #[error("the issuer gave no token: {0}")]
    Exchange(#[from] FetchError),
    /// The issuer's metadata is of no use.
    #[error("the token endpoint was not found: {0}")]
    Discovery(#[from] DiscoveryError),
    /// The issuer does not accept the client's id and secret (RFC 6749, 5.2).
    #[error(
        "the issuer refuses the client (invalid_client){}: check client_id, the secret, and how \
         the issuer wants it sent",
        said(.description)
    )]
    InvalidClient {
        /// What the issuer said about it.
        description: Option<String>,
    },
    /// The issuer accepts the client, but not what it asks for (RFC 6749, 5.2; RFC 8707, 2).
    #[error("the issuer refuses the request ({code}){}: {}", said(.description), advice(.code))]
    Refused {
        /// The issuer's error code.
        code: String,
        /// What the issuer said about it.
        description: Option<String>,
    },
    /// The refresh token is void (RFC 6749, 5.2).
    #[error(
        "the issuer refuses the refresh token (invalid_grant){}: it is expired, revoked or was \
         replaced; get a new one and put it into refresh_token_file",
        said(.description)
    )]
    InvalidGrant {
        /// What the issuer said about it.
        description: Option<String>,
    },
    /// A token's file cannot be used.
    #[error("cannot use the token file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The token in a file is no longer good.
    #[error("the token in {path} is expired: whoever writes the file should have renewed it")]
    Expired {
        /// The file.
        path: String,
    },
    /// The client's own key did not sign.
    #[error("the client's assertion could not be signed: {0}")]
    Assertion(String),
    /// The issuer's answer is not what OAuth prescribes.
    #[error("the issuer's answer is not usable: {0}; check that the address is a token endpoint")]
    BadAnswer(&'static str),
    /// The renewing task is gone: only while the program ends.
    #[error("tokens are no longer renewed: the program is ending")]
    Stopped,
}

/// Whose fault it is that there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The way to the issuer, or the issuer: trying again may help.
    Issuer,
    /// This side's configuration, or the client's entry at the issuer: somebody has to act.
    Configuration,
}

impl ObtainError {
    pub(super) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            reason: error.to_string(),
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::InvalidClient { .. }
            | Self::InvalidGrant { .. }
            | Self::Refused { .. }
            | Self::File { .. }
            | Self::Assertion(_) => Fault::Configuration,
            Self::Exchange(error) | Self::Discovery(DiscoveryError::Fetch(error)) => match error {
                FetchError::Address { .. }
                | FetchError::Authorities { .. }
                | FetchError::Proxy { .. }
                | FetchError::Tls { .. } => Fault::Configuration,
                FetchError::Status { status, .. } if (300..500).contains(status) => {
                    // 408, 425 and 429 ask for patience.
                    if matches!(status, 408 | 425 | 429) {
                        Fault::Issuer
                    } else {
                        Fault::Configuration
                    }
                }
                FetchError::Unreachable { .. }
                | FetchError::TimedOut { .. }
                | FetchError::TooLarge { .. }
                | FetchError::Status { .. } => Fault::Issuer,
            },
            Self::Discovery(_) => Fault::Configuration,
            Self::BadAnswer(_) | Self::Expired { .. } | Self::Stopped => Fault::Issuer,
        }
    }

    /// How long the issuer asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Exchange(FetchError::Status { retry_after, .. })
            | Self::Discovery(DiscoveryError::Fetch(FetchError::Status { retry_after, .. })) => {
                retry_after.map(Duration::from_secs)
            }
            _ => None,
        }
    }
}

fn said(description: &Option<String>) -> String {
    description
        .as_ref()
        .map(|text| format!(", saying {text:?}"))
        .unwrap_or_default()
}

fn advice(code: &str) -> &'static str {
    match code {
        "invalid_scope" => "the client may not have that scope; check scope",
        "invalid_target" => "it does not know that audience or resource; check audience",
        "unauthorized_client" | "unsupported_grant_type" => {
            "allow the client this grant at the issuer"
        }
        _ => "check scope and audience, and the client's entry at the issuer",
    }
}
