//! An operator's browser: a page with scripts, fetch, WebSocket and server-sent events, in host
//! mode and through the PAC file.

use culvert_tests::Stack;
use culvert_tests::browser::Browser;
use culvert_tests::peers::Server;
use culvert_tests::stack::caller_token;
use serde_json::{Value, json};

const POLICY: &str = r#"
version = 1

[[rule]]
id = "the-console"
action = "allow"
mode = ["http"]
path = ["/**"]
upgrade = ["websocket"]

[[rule]]
id = "the-console's-calls"
action = "allow"
mode = ["http"]
path = ["/**"]

[[rule]]
id = "the-way-to-it"
action = "allow"
mode = ["connect"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

fn stack(server: &Server) -> Stack {
    Stack::options()
        .endpoint("vcenter", &server.url())
        .endpoint_settings("mode = [\"http\", \"connect\"]\nconnect = [\"vcenter.sddc.local:443\"]")
        .policy(POLICY)
        .start()
}

/// What the page saw: everything works but what is forbidden.
fn saw(server: &Server) -> Value {
    let event = server.event();
    let result: Value =
        serde_json::from_str(&event).unwrap_or_else(|error| panic!("{error}: {event}"));
    assert_eq!(result["error"], Value::Null, "{result:#}");
    assert_eq!(result["color"], "rgb(1, 2, 3)");
    assert_eq!(result["fetch"]["status"], 200);
    assert_eq!(result["fetch"]["saw"]["length"], 100_000);
    assert_eq!(result["fetch"]["saw"]["cookie"], "session=one");
    assert_eq!(
        result["socket"],
        json!({ "protocol": "binary", "echo": [1, 2, 3], "code": 4001, "reason": "done" })
    );
    assert_eq!(result["event"], "first");
    result
}

/// The page's server takes itself for where the browser is, and the browser for where it is.
#[test]
fn a_page_with_scripts_fetch_and_websocket_works_in_host_mode() {
    let server = Server::start("page.mjs");
    let stack = stack(&server);
    let url = stack.url("/");
    let _browser = Browser::open(&url, caller_token());
    let result = saw(&server);
    assert_eq!(
        result["page"],
        stack.url("/ui/"),
        "the redirect's name is translated"
    );
    let local = server.url();
    let arrived = &result["fetch"]["saw"];
    assert_eq!(arrived["host"], local.trim_start_matches("https://"));
    assert_eq!(arrived["origin"], local);
    assert_eq!(arrived["referer"], format!("{local}/ui/"));
    assert!(result["fetch"]["call"].is_string(), "{result:#}");
    assert_eq!(result["forbidden"], 403);
}

/// Bytes only: the page lies under its own name, and TLS is between browser and server.
#[test]
fn the_same_page_works_through_the_pac_file() {
    let server = Server::start("page.mjs");
    let stack = stack(&server);
    let pac = format!("https://localhost:{}/.culvert/proxy.pac", stack.public);
    let _browser = Browser::open_through(&pac, "https://vcenter.sddc.local/", caller_token());
    let result = saw(&server);
    assert_eq!(result["page"], "https://vcenter.sddc.local/ui/");
    let arrived = &result["fetch"]["saw"];
    assert_eq!(arrived["host"], "vcenter.sddc.local");
    assert_eq!(arrived["origin"], "https://vcenter.sddc.local");
    assert_eq!(result["forbidden"], 404, "policy sees no path here");
}
