//! The status page: one look at the node, no scripts, nothing from elsewhere.

use super::status::Status;

/// The status as HTML that reloads itself.
pub(crate) fn render(status: &Status) -> String {
    let node = escape(&status.node);
    let text = escape(&status.to_string());
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>{node} - culvert-relay</title>\
         <style>body{{font:15px/1.5 ui-monospace,monospace;margin:2rem;color-scheme:light dark}}\
         a{{margin-right:1rem}}</style><h1>{node}</h1><pre>{text}</pre>\
         <p><a href=\"/readyz\">readiness</a><a href=\"/metrics\">metrics</a>\
         <a href=\"/api/v1/status\">status</a><a href=\"/api/v1/openapi.json\">API</a></p></html>\n"
    )
}

/// What is text stays text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
