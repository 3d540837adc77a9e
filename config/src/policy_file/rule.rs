//! `[[rule]]`, as written, and as a rule.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use culvert_policy::{Action, Mode, Rate, RuleSpec, SoapOps};
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use toml::Spanned;

use super::call::WrittenTest;
use super::preset::WrittenPreset;
use crate::document::Document;
use crate::error::ConfigError;
use crate::units::Size;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) version: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) reveal_rule: bool,
    pub(super) presets: Option<List<String>>,
    #[serde(default)]
    pub(super) preset: Vec<Spanned<WrittenPreset>>,
    #[serde(default)]
    pub(super) rule: Vec<Spanned<WrittenRule>>,
    #[serde(default)]
    pub(super) test: Vec<Spanned<WrittenTest>>,
}

/// A list that is there, with the place of the whole and of each item.
pub(super) type List<T> = Spanned<Vec<Spanned<T>>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRule {
    id: Spanned<String>,
    action: WrittenAction,
    endpoint: Option<List<String>>,
    mode: Option<List<WrittenMode>>,
    method: Option<List<String>>,
    path: Option<List<String>>,
    caller: Option<List<String>>,
    scope: Option<List<String>>,
    query: Option<Spanned<BTreeMap<String, List<String>>>>,
    soap_op: Option<Spanned<WrittenSoapOps>>,
    soap_ns: Option<Spanned<String>>,
    upgrade: Option<List<String>>,
    source: Option<List<String>>,
    host: Option<List<String>>,
    port: Option<List<u16>>,
    max_body: Option<Spanned<Size>>,
    rate: Option<Spanned<String>>,
    enforce: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenAction {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WrittenMode {
    Http,
    Connect,
    Terminate,
    Tcp,
}

impl From<WrittenMode> for Mode {
    fn from(written: WrittenMode) -> Self {
        match written {
            WrittenMode::Http => Self::Http,
            WrittenMode::Connect => Self::Connect,
            WrittenMode::Terminate => Self::Terminate,
            WrittenMode::Tcp => Self::Tcp,
        }
    }
}

/// `"all"`, or a list of operations.
#[derive(Debug)]
enum WrittenSoapOps {
    All,
    Names(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for WrittenSoapOps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AllOrList;

        impl<'de> Visitor<'de> for AllOrList {
            type Value = WrittenSoapOps;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\" or a list of SOAP operations")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
                match word {
                    "all" => Ok(WrittenSoapOps::All),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = items.next_element()? {
                    names.push(name);
                }
                Ok(WrittenSoapOps::Names(names))
            }
        }

        deserializer.deserialize_any(AllOrList)
    }
}

impl WrittenRule {
    /// What the rule means, as far as the file alone can tell.
    pub(super) fn spec(&self, document: &Document) -> Result<RuleSpec, ConfigError> {
        let action = match self.action {
            WrittenAction::Allow => Action::Allow,
            WrittenAction::Deny => Action::Deny,
        };
        let list = |written: &Option<List<String>>| items(document, written, Clone::clone);
        Ok(RuleSpec {
            id: self.id.get_ref().clone(),
            action,
            endpoint: list(&self.endpoint)?,
            mode: items(document, &self.mode, |mode| Mode::from(*mode))?,
            method: list(&self.method)?,
            path: list(&self.path)?,
            caller: list(&self.caller)?,
            scope: list(&self.scope)?,
            query: self.query(document)?,
            soap_op: self
                .soap_op
                .as_ref()
                .map(|written| match written.get_ref() {
                    WrittenSoapOps::All => SoapOps::All,
                    WrittenSoapOps::Names(names) => {
                        SoapOps::Names(names.iter().map(|name| name.get_ref().clone()).collect())
                    }
                }),
            soap_ns: self.soap_ns.as_ref().map(|ns| ns.get_ref().clone()),
            upgrade: list(&self.upgrade)?,
            source: networks(document, &self.source)?,
            host: list(&self.host)?,
            port: items(document, &self.port, |port| *port)?,
            max_body: self.max_body.as_ref().map(|size| size.get_ref().0),
            rate: self
                .rate
                .as_ref()
                .map(|rate| check_rate(document, rate))
                .transpose()?,
            enforce: self.enforce.unwrap_or(true),
        })
    }

    fn query(&self, document: &Document) -> Result<Vec<(String, Vec<String>)>, ConfigError> {
        let Some(query) = &self.query else {
            return Ok(Vec::new());
        };
        if query.get_ref().is_empty() {
            return Err(document.error(query.span(), "expected at least one parameter"));
        }
        let parameters = query.get_ref().iter().map(|(name, values)| {
            let values = values.get_ref().iter().map(|value| value.get_ref().clone());
            (name.clone(), values.collect())
        });
        Ok(parameters.collect())
    }

    /// Where a key, or one item of its list, stands in the file.
    pub(super) fn span(&self, key: &str, item: Option<usize>) -> Option<Range<usize>> {
        let in_list = |written: &Option<List<String>>| {
            let written = written.as_ref()?;
            let item = item.and_then(|index| written.get_ref().get(index));
            Some(item.map_or(written.span(), Spanned::span))
        };
        match key {
            "id" => Some(self.id.span()),
            "endpoint" => in_list(&self.endpoint),
            "method" => in_list(&self.method),
            "path" => in_list(&self.path),
            "caller" => in_list(&self.caller),
            "scope" => in_list(&self.scope),
            "query" => {
                let query = self.query.as_ref()?;
                let values = item.and_then(|index| query.get_ref().values().nth(index));
                Some(values.map_or(query.span(), Spanned::span))
            }
            "soap_op" => {
                let written = self.soap_op.as_ref()?;
                let name = match written.get_ref() {
                    WrittenSoapOps::All => None,
                    WrittenSoapOps::Names(names) => item.and_then(|index| names.get(index)),
                };
                Some(name.map_or(written.span(), Spanned::span))
            }
            "soap_ns" => self.soap_ns.as_ref().map(Spanned::span),
            "upgrade" => in_list(&self.upgrade),
            "source" => in_list(&self.source),
            "host" => in_list(&self.host),
            "port" => {
                let written = self.port.as_ref()?;
                let item = item.and_then(|index| written.get_ref().get(index));
                Some(item.map_or(written.span(), Spanned::span))
            }
            "max_body" => self.max_body.as_ref().map(Spanned::span),
            "rate" => self.rate.as_ref().map(Spanned::span),
            _ => None,
        }
    }
}

/// The items of a list; none where the key is not there. A list that is there has items: whoever
/// empties one means "nothing", and leaving the key out means "anything".
fn items<T, U>(
    document: &Document,
    written: &Option<List<T>>,
    meaning: impl Fn(&T) -> U,
) -> Result<Vec<U>, ConfigError> {
    match written {
        None => Ok(Vec::new()),
        Some(list) if list.get_ref().is_empty() => Err(document.error(
            list.span(),
            "an empty list matches nothing; leave the key out to match any",
        )),
        Some(list) => Ok(list
            .get_ref()
            .iter()
            .map(|item| meaning(item.get_ref()))
            .collect()),
    }
}

fn networks(
    document: &Document,
    written: &Option<List<String>>,
) -> Result<Vec<IpNet>, ConfigError> {
    items(document, written, Clone::clone)?;
    let Some(written) = written else {
        return Ok(Vec::new());
    };
    let network = |text: &Spanned<String>| {
        check_network(text.get_ref()).map_err(|message| document.error(text.span(), message))
    };
    written.get_ref().iter().map(network).collect()
}

/// The keys with which a policy narrows a preset.
#[derive(Debug)]
pub(super) struct Narrowing<'w> {
    pub(super) endpoint: &'w Option<List<String>>,
    pub(super) mode: &'w Option<List<WrittenMode>>,
    pub(super) caller: &'w Option<List<String>>,
    pub(super) scope: &'w Option<List<String>>,
    pub(super) source: &'w Option<List<String>>,
}

impl Narrowing<'_> {
    /// Gives the keys to every rule. Rules of presets leave these keys to the policy.
    pub(super) fn apply(
        &self,
        document: &Document,
        rules: &mut [RuleSpec],
    ) -> Result<(), ConfigError> {
        let endpoint = items(document, self.endpoint, Clone::clone)?;
        let mode = items(document, self.mode, |mode| Mode::from(*mode))?;
        let caller = items(document, self.caller, Clone::clone)?;
        let scope = items(document, self.scope, Clone::clone)?;
        let source = networks(document, self.source)?;
        for rule in rules {
            rule.endpoint.clone_from(&endpoint);
            rule.mode.clone_from(&mode);
            rule.caller.clone_from(&caller);
            rule.scope.clone_from(&scope);
            rule.source.clone_from(&source);
        }
        Ok(())
    }
}

fn check_network(text: &str) -> Result<IpNet, String> {
    let expected = "expected an address or a network such as \"10.0.0.0/8\"";
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse()
            .map_err(|_| format!("found {text:?}; {expected}"))?,
    };
    if network != network.trunc() {
        return Err(format!(
            "found {text:?}; the network is \"{}\"",
            network.trunc()
        ));
    }
    Ok(network)
}

fn check_rate(document: &Document, written: &Spanned<String>) -> Result<Rate, ConfigError> {
    written.get_ref().parse().map_err(|error| {
        document.error(
            written.span(),
            format!("{:?} is {error}", written.get_ref()),
        )
    })
}
