//! The PAC file of a tenant, and the proxy listener without TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use culvert_tests::issuer::{CALLER, OTHER_CALLER, world};
use culvert_tests::stack::caller_token;
use culvert_tests::{Answer, Curl, Http, Nginx, Stack, port};

const POLICY: &str = r#"
version = 1

[[rule]]
id = "connections"
action = "allow"
mode = ["connect"]
caller = ["caller-acme"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

fn stack(upstream: &str, listen: &str) -> Stack {
    let names = r#"["vcenter.sddc.local:443", "10.0.0.5:443"]"#;
    Stack::options()
        .endpoint("vcenter", upstream)
        .endpoint_settings(&format!(
            "mode = [\"http\", \"connect\"]\nconnect = {names}"
        ))
        .policy(POLICY)
        .listen(listen)
        .start()
}

/// What the script says of each URL, in an engine of the language.
fn evaluate(script: &Answer, urls: &[&str]) -> Vec<String> {
    let program = "const script = process.argv[1]; (0, eval)(script);\n\
                   for (const url of process.argv.slice(2))\n\
                     console.log(FindProxyForURL(url, new URL(url).hostname));";
    let output = Command::new("node")
        .args(["-e", program, &script.text()])
        .args(urls)
        .output()
        .expect("node is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// Browsers send what the tenant declares through the relay, and everything else past it.
#[test]
fn the_script_names_what_the_callers_tenant_declares_and_nothing_else() {
    let stack = stack("https://127.0.0.1:9", "");
    let url = format!("https://localhost:{}/.culvert/proxy.pac", stack.public);
    let fetch = |token: &str| Curl::new(&url).args(["--user", &format!("x:{token}")]);
    let urls = [
        "https://vcenter.sddc.local/ui/",
        "https://VCENTER.sddc.local:443/",
        "wss://vcenter.sddc.local/ticket",
        "https://10.0.0.5/",
        "https://vcenter.sddc.local:5480/",
        "http://vcenter.sddc.local:443/",
        "https://nsx.sddc.local/",
        "https://hasOwnProperty/",
    ];
    let through = format!("HTTPS localhost:{}", stack.public);
    for http in Http::BOTH {
        let script = fetch(caller_token()).http(http).ok();
        assert_eq!(script.status, 200, "{script}");
        assert_eq!(
            script.header("content-type"),
            Some("application/x-ns-proxy-autoconfig")
        );
        assert_eq!(script.header("cache-control"), Some("private, max-age=60"));
        let _ = script.call();
        let said = evaluate(&script, &urls);
        assert!(said[..4].iter().all(|said| *said == through), "{said:?}");
        assert!(said[4..].iter().all(|said| said == "DIRECT"), "{said:?}");
    }
    let others = fetch(&world().token(OTHER_CALLER)).ok();
    assert!(!others.text().contains("sddc.local"), "{others}");
    let nobody = Curl::new(&url).run();
    nobody.assert_refused(401, "unauthenticated", "relay");
    let challenges = nobody
        .headers
        .iter()
        .filter(|(name, _)| name == "www-authenticate");
    let challenges: Vec<_> = challenges.map(|(_, value)| value.as_str()).collect();
    assert!(
        challenges
            .iter()
            .any(|challenge| challenge.starts_with("Basic ")),
        "{nobody}"
    );
}

/// For private networks alone: the listener without TLS takes CONNECT and the PAC file.
#[test]
fn the_listener_without_tls_is_a_proxy_and_nothing_else() {
    let nginx = Nginx::start();
    let proxy = port::free();
    let stack = stack(&nginx.url(), &format!("proxy = \"127.0.0.1:{proxy}\"\n"));
    let token = world().token(CALLER);
    let through = format!("http://x:{token}@127.0.0.1:{proxy}");
    let answer = Curl::new("https://vcenter.sddc.local/api/vm")
        .args([
            "--noproxy",
            "",
            "--suppress-connect-headers",
            "--proxy",
            &through,
        ])
        .ok();
    assert_eq!(answer.json()["host"], "vcenter.sddc.local", "{answer}");

    let pac = Curl::new(&format!("http://127.0.0.1:{proxy}/.culvert/proxy.pac"))
        .args(["--user", &format!("x:{token}")])
        .ok();
    let said = evaluate(&pac, &["https://vcenter.sddc.local/"]);
    assert_eq!(said, [format!("PROXY 127.0.0.1:{proxy}")]);

    for (host, path) in [
        (
            format!("vcenter--acme.localhost:{}", stack.public),
            "/api/vm",
        ),
        ("localhost".to_owned(), "/.culvert/v1/session"),
        ("localhost".to_owned(), "/.culvert/errors"),
    ] {
        let mut caller = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Bearer {token}\r\n\
             Connection: close\r\n\r\n"
        );
        caller.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("takes CONNECT only"), "{answer}");
    }
    assert!(
        stack.relay.log().contains("in plain text"),
        "a warning at the start"
    );
    assert_eq!(nginx.access_log().lines().count(), 1);
}
