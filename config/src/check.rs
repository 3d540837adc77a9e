//! Checks that several files share: names, hosts, addresses, files that must be there.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use culvert_proto::names::NameError;
use toml::Spanned;
use url::Url;

use crate::document::Document;
use crate::error::ConfigError;

/// An endpoint's or tenant's name.
pub(crate) fn name<T: FromStr<Err = NameError>>(
    document: &Document,
    written: &Spanned<String>,
) -> Result<T, ConfigError> {
    written.get_ref().parse().map_err(|error: NameError| {
        document.error(
            written.span(),
            format!("found {:?}; {error}", written.get_ref()),
        )
    })
}

/// Refuses the first of `[limits]` that is zero.
pub(crate) fn not_zero(document: &Document, limits: &[(&str, bool)]) -> Result<(), ConfigError> {
    match limits.iter().find(|(_, is_zero)| *is_zero) {
        Some((key, _)) => {
            Err(document.error_of(&format!("limits.{key}"), "found 0; expected more"))
        }
        None => Ok(()),
    }
}

/// A node's name: shown in logs, sent to agents.
pub(crate) fn node_name(
    document: &Document,
    written: &Spanned<String>,
) -> Result<String, ConfigError> {
    let name = written.get_ref();
    let fits = !name.is_empty()
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if fits {
        return Ok(name.clone());
    }
    Err(document.error(
        written.span(),
        format!("found {name:?}; expected letters, digits, '-', '.', '_', at most 255 of them"),
    ))
}

/// A DNS host name in lower case, without a port.
pub(crate) fn host(document: &Document, written: &Spanned<String>) -> Result<String, ConfigError> {
    let host = written.get_ref();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        return Ok(host.clone());
    }
    Err(document.error(
        written.span(),
        format!("found {host:?}; expected a host name in lower case, like \"relay.example.com\""),
    ))
}

/// An absolute `http` or `https` URL without credentials. Plain `http` is for loopback only.
pub(crate) fn http_url(document: &Document, written: &Spanned<String>) -> Result<Url, ConfigError> {
    let text = written.get_ref();
    let wrong =
        |what: String| Err(document.error(written.span(), format!("found {text:?}; {what}")));
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(format!("expected an https URL ({error})")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(document.error(
            written.span(),
            "the URL has credentials; expected none: secrets come from files",
        ));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => wrong("expected https: plain http is for loopback addresses only".into()),
        _ => wrong("expected an https URL".into()),
    }
}

/// Host and port as a URL of one of these schemes, the first of which is the usual one, and nothing else.
pub(crate) fn origin(
    document: &Document,
    written: &Spanned<String>,
    schemes: &[&str],
) -> Result<Url, ConfigError> {
    let text = written.get_ref();
    let plain = |url: &Url| {
        schemes.contains(&url.scheme())
            && url.has_host()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    Url::parse(text).ok().filter(plain).ok_or_else(|| {
        // It may be a password that has no place there.
        let found = match text.contains('@') {
            true => "a URL with credentials".to_owned(),
            false => format!("{text:?}"),
        };
        document.error(
            written.span(),
            format!(
                "found {found}; expected {}://HOST[:PORT] without path, query or credentials",
                schemes[0]
            ),
        )
    })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// A file that must be there and readable.
pub(crate) fn file(
    document: &Document,
    written: &Spanned<PathBuf>,
) -> Result<PathBuf, ConfigError> {
    let path = document.path(written.get_ref());
    match std::fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(document.error(
            written.span(),
            format!("cannot read the file {} ({error})", path.display()),
        )),
    }
}

/// A file with a private key: there, readable, and its owner's alone to write. Reading is left
/// to a group too, as certificate tools install keys (`ssl-cert` and the like).
pub(crate) fn private_file(
    document: &Document,
    written: &Spanned<PathBuf>,
) -> Result<PathBuf, ConfigError> {
    let path = file(document, written)?;
    key_mode(&path).map_err(|problem| document.error(written.span(), problem))?;
    Ok(path)
}

/// Refuses a private key that others may use. One that is not there is for whoever reads it to refuse.
pub(crate) fn key_mode(path: &Path) -> Result<(), String> {
    let mode = std::fs::metadata(path)
        .map(|m| m.permissions().mode() & 0o777)
        .unwrap_or(0);
    if mode & 0o027 == 0 {
        return Ok(());
    }
    Err(format!(
        "the private key {} has mode {mode:03o}; expected one that others cannot use (chmod 600 {})",
        path.display(),
        path.display()
    ))
}

/// Nothing occurs twice.
pub(crate) fn unique<'a>(
    document: &Document,
    written: impl Iterator<Item = &'a Spanned<String>>,
    what: &str,
) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for value in written {
        if !seen.insert(value.get_ref()) {
            return Err(document.error(
                value.span(),
                format!(
                    "the {what} {:?} occurs twice; expected it once",
                    value.get_ref()
                ),
            ));
        }
    }
    Ok(())
}
