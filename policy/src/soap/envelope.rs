//! The envelope, event by event.

use quick_xml::Error;
use quick_xml::NsReader;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, QName, ResolveResult};

use super::{Operation, SoapError};

/// SOAP 1.1 and SOAP 1.2.
const ENVELOPES: [&str; 2] = [
    "http://schemas.xmlsoap.org/soap/envelope/",
    "http://www.w3.org/2003/05/soap-envelope",
];

/// What an envelope, or the beginning of one, says.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) operation: Option<Operation>,
    /// Whether the text ends inside of the operation's element.
    pub(super) inside_operation: bool,
}

/// Where in the document the next event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the root.
    Prolog,
    /// In the envelope, before `Header` and `Body`.
    Envelope,
    /// In the header, so many elements deep.
    Header(usize),
    /// Behind the header.
    AfterHeader,
    /// In the body, outside of the operation.
    Body,
    /// In the operation, so many elements deep.
    Operation(usize),
    /// Behind the body.
    AfterBody,
    /// Behind the root.
    End,
}

/// Reads `text`, which is the `whole` document or ends behind some `>` of it.
pub(super) fn read(text: &str, whole: bool) -> Result<Found, SoapError> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut place = Place::Prolog;
    let mut soap = "";
    let mut operation = None;
    let mut first = true;
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                check_tag(&start)?;
                let (ns, local) = match reader.resolver().resolve_element(start.name()) {
                    (ResolveResult::Bound(Namespace(ns)), local) => (ns, local.into_inner()),
                    (ResolveResult::Unbound, local) => ("", local.into_inner()),
                    (ResolveResult::Unknown(_), _) => return Err(SoapError::Malformed),
                };
                place = match (place, local) {
                    // A server that looks for the first of that name would find this one.
                    (Place::Header(_) | Place::Operation(_), "Envelope" | "Header" | "Body")
                        if ENVELOPES.contains(&ns) =>
                    {
                        return Err(SoapError::Envelope);
                    }
                    (Place::Header(depth), _) => Place::Header(depth + 1),
                    (Place::Operation(depth), _) => Place::Operation(depth + 1),
                    (Place::Prolog, "Envelope") => {
                        soap = ENVELOPES
                            .into_iter()
                            .find(|uri| *uri == ns)
                            .ok_or(SoapError::NotSoap)?;
                        Place::Envelope
                    }
                    (Place::Prolog, _) => return Err(SoapError::NotSoap),
                    (Place::Envelope, "Header") if ns == soap => Place::Header(0),
                    (Place::Envelope | Place::AfterHeader, "Body") if ns == soap => Place::Body,
                    (Place::Body, name) if operation.is_none() => {
                        operation = Some(Operation {
                            ns: ns.to_owned(),
                            name: name.to_owned(),
                        });
                        Place::Operation(0)
                    }
                    (Place::Body, _) => return Err(SoapError::SecondOperation),
                    (Place::Envelope | Place::AfterHeader | Place::AfterBody, _) => {
                        return Err(SoapError::Envelope);
                    }
                    (Place::End, _) => return Err(SoapError::Malformed),
                };
            }
            Ok(Event::End(_)) => {
                place = match place {
                    Place::Header(0) => Place::AfterHeader,
                    Place::Header(depth) => Place::Header(depth - 1),
                    Place::Operation(0) => Place::Body,
                    Place::Operation(depth) => Place::Operation(depth - 1),
                    Place::Body if operation.is_none() => return Err(SoapError::NoOperation),
                    Place::Body => Place::AfterBody,
                    Place::AfterBody => Place::End,
                    Place::Envelope | Place::AfterHeader => return Err(SoapError::NoOperation),
                    Place::Prolog | Place::End => return Err(SoapError::Malformed),
                };
            }
            Ok(Event::Text(text)) => {
                if !text.bytes().all(|byte| byte.is_ascii_whitespace()) {
                    check_content(place)?;
                }
            }
            Ok(Event::CData(_)) => check_content(place)?,
            Ok(Event::GeneralRef(reference)) => {
                check_content(place)?;
                check_reference(&reference)?;
            }
            Ok(Event::Decl(declaration)) if first => check_declaration(&declaration)?,
            Ok(Event::Decl(_)) => return Err(SoapError::Malformed),
            Ok(Event::DocType(_)) => return Err(SoapError::Doctype),
            Ok(Event::Comment(_) | Event::PI(_)) => return Err(SoapError::Markup),
            Ok(Event::Empty(_)) => return Err(SoapError::Malformed),
            Ok(Event::Eof) if !whole || place == Place::End => break,
            Ok(Event::Eof) if place == Place::Prolog => return Err(SoapError::NotSoap),
            Ok(Event::Eof) => return Err(SoapError::Truncated),
            // The text ends inside of markup that has a `>` of its own.
            Err(Error::Syntax(_)) if !whole => break,
            Err(_) => return Err(SoapError::Malformed),
        }
        first = false;
    }
    Ok(Found {
        operation,
        inside_operation: matches!(place, Place::Operation(_)),
    })
}

/// Text has its place in headers and operations only.
fn check_content(place: Place) -> Result<(), SoapError> {
    match place {
        Place::Header(_) | Place::Operation(_) => Ok(()),
        Place::Prolog => Err(SoapError::NotSoap),
        Place::Body => Err(SoapError::SecondOperation),
        Place::Envelope | Place::AfterHeader | Place::AfterBody => Err(SoapError::Envelope),
        Place::End => Err(SoapError::Malformed),
    }
}

/// Usual names; attributes that differ; namespaces that are what they look like.
fn check_tag(tag: &BytesStart<'_>) -> Result<(), SoapError> {
    check_name(tag.name())?;
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_| SoapError::Malformed)?;
        check_name(attribute.key)?;
        let value = &*attribute.value;
        if value.contains('<') {
            return Err(SoapError::Malformed);
        }
        if attribute.key.as_namespace_binding().is_some() {
            let prefixed = attribute.key.prefix().is_some();
            let plain = value
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'&');
            if !plain || (prefixed && value.is_empty()) {
                return Err(SoapError::Malformed);
            }
        }
    }
    Ok(())
}

/// `NAME` or `PREFIX:NAME`, of ASCII letters, digits, `_`, `-` and `.`.
fn check_name(name: QName<'_>) -> Result<(), SoapError> {
    let usual = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let name: &str = name.as_ref();
    let fits = match name.split_once(':') {
        Some((prefix, local)) => usual(prefix) && usual(local),
        None => usual(name),
    };
    if fits {
        Ok(())
    } else {
        Err(SoapError::Malformed)
    }
}

/// Without a document type there are five entities, and characters by number.
fn check_reference(reference: &BytesRef<'_>) -> Result<(), SoapError> {
    let legal = match reference.resolve_char_ref() {
        Ok(Some(character)) => super::is_xml_char(character),
        Ok(None) => matches!(&**reference, "lt" | "gt" | "amp" | "apos" | "quot"),
        Err(_) => false,
    };
    if legal {
        Ok(())
    } else {
        Err(SoapError::Malformed)
    }
}

/// `<?xml version="1.0" encoding="UTF-8" standalone="..."?>`, the last two optional.
fn check_declaration(declaration: &BytesDecl<'_>) -> Result<(), SoapError> {
    let mut parts = declaration.split_ascii_whitespace().skip(1).peekable();
    let value = |part: &str, name: &str| {
        let quoted = part.strip_prefix(name)?.strip_prefix('=')?;
        let unquoted = |quote| quoted.strip_prefix(quote)?.strip_suffix(quote);
        unquoted('"')
            .or_else(|| unquoted('\''))
            .map(str::to_ascii_lowercase)
    };
    let version = parts.next().and_then(|part| value(part, "version"));
    if version.as_deref() != Some("1.0") {
        return Err(SoapError::Malformed);
    }
    if let Some(encoding) = parts.peek().and_then(|part| value(part, "encoding")) {
        if encoding != "utf-8" {
            return Err(SoapError::Encoding);
        }
        parts.next();
    }
    if let Some(standalone) = parts.peek().and_then(|part| value(part, "standalone")) {
        if !matches!(&*standalone, "yes" | "no") {
            return Err(SoapError::Malformed);
        }
        parts.next();
    }
    if parts.next().is_none() {
        Ok(())
    } else {
        Err(SoapError::Malformed)
    }
}
