//! The proxy auto-configuration of a tenant: a script by which browsers and other tools send to the
//! relay what it has a way to, and nothing else.

use std::fmt::Write;

use bytes::Bytes;
use culvert_proto::connect_name::ConnectName;

/// Where it is served.
pub(crate) const PATH: &str = "/.culvert/proxy.pac";
/// What it is.
pub(crate) const CONTENT_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// The script. `proxy` is what a matching URL goes through, like `HTTPS relay.example.com:443`.
///
/// Names and proxy have no character that means anything within a string of the language: their
/// types see to that.
pub(crate) fn script(proxy: &str, names: &[ConnectName]) -> Bytes {
    let mut script = String::with_capacity(512 + 64 * names.len());
    script.push_str("var names = {");
    for (number, name) in names.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(script, "{comma}\n  \"{name}\": true");
    }
    let _ = write!(
        script,
        r#"
}};

function FindProxyForURL(url, host) {{
  var parts = /^(https|wss):\/\/(?:[^\/@]*@)?(\[[^\]]*\]|[^\/:?#]*)(?::(\d+))?(?:[\/?#]|$)/i.exec(url);
  if (!parts) return "DIRECT";
  var name = parts[2].toLowerCase().replace(/\.$/, "") + ":" + (parts[3] || "443");
  return Object.prototype.hasOwnProperty.call(names, name) ? "{proxy}" : "DIRECT";
}}
"#
    );
    script.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_each_name_once_and_the_proxy() {
        let names = ["vc.sddc.local:443", "[fd00::1]:443"];
        let names: Vec<_> = names.map(|name| ConnectName::parse(name).unwrap()).into();
        let script = script("HTTPS relay.example.com:443", &names);
        let script = std::str::from_utf8(&script).unwrap();
        for part in [
            "\n  \"vc.sddc.local:443\": true,",
            "\n  \"[fd00::1]:443\": true\n}",
            "\"HTTPS relay.example.com:443\"",
        ] {
            assert!(script.contains(part), "{script}");
        }
    }
}
