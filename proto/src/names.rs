//! Names that tenants and endpoints may carry: both fit into one label of a host name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest single name: one DNS label (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 63;

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The string is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The string is longer than one DNS label.
    #[error("a name has at most {MAX_NAME} bytes")]
    TooLong,
    /// A byte outside `a-z`, `0-9`, `-`.
    #[error("a name has only lower-case letters, digits and '-'")]
    Byte,
    /// `-` at either end, or `--` anywhere: `--` separates endpoint from tenant in host names.
    #[error("a name neither begins nor ends with '-' and has no '--'")]
    Dash,
}

fn check(name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(NameError::Empty);
    }
    if bytes.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    if !bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    {
        return Err(NameError::Byte);
    }
    if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return Err(NameError::Dash);
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check(name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
    };
}

name_type! {
    /// A tenant: the isolation boundary that owns endpoints, agents and callers.
    /// A lower-case DNS label without `--`, at most [`MAX_NAME`] bytes; cheap to clone.
    TenantName
}

name_type! {
    /// An endpoint: the registered public name of an upstream, within a tenant.
    /// A lower-case DNS label without `--`, at most [`MAX_NAME`] bytes; cheap to clone.
    EndpointName
}
