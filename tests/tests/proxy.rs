//! Proxy mode: CONNECT to names that endpoints declare, and bytes both ways.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use culvert_tests::issuer::{CALLER, OTHER_CALLER, world};
use culvert_tests::stack::caller_token;
use culvert_tests::wait::until;
use culvert_tests::way::{Ending, Way, client_hello};
use culvert_tests::{Curl, Nginx, Stack};

/// Callers of acme may connect to port 443 and 902, and not to 5480.
const POLICY: &str = r#"
version = 1
reveal_rule = true

[[rule]]
id = "connections"
action = "allow"
mode = ["connect", "tcp"]
caller = ["caller-acme"]
port = [443, 902]

[[rule]]
id = "no-appliance"
action = "deny"
port = [5480]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

const NAME: &str = "vcenter.sddc.local:443";

/// A stack whose endpoint has names to CONNECT to.
fn stack(upstream: &str, mode: &str, names: &str) -> Stack {
    Stack::options()
        .endpoint("vcenter", upstream)
        .endpoint_settings(&format!("mode = [\"http\", \"{mode}\"]\nconnect = {names}"))
        .policy(POLICY)
        .start()
}

fn bearer(token: &str) -> String {
    format!("Proxy-Authorization: Bearer {token}\r\n")
}

/// An upstream that speaks no TLS and hands each connection to the test.
fn listen() -> (String, Receiver<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, connections) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            connection
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            if sender.send(connection).is_err() {
                return;
            }
        }
    });
    (format!("https://127.0.0.1:{port}"), connections)
}

fn accepted(connections: &Receiver<TcpStream>) -> TcpStream {
    connections
        .recv_timeout(Duration::from_secs(30))
        .expect("the agent connects")
}

/// curl with Basic and Bearer, and with what Go and Python tools take from `HTTPS_PROXY`: the TLS
/// that they speak is the upstream's own.
#[test]
fn curl_reaches_the_upstream_under_its_own_name_with_each_kind_of_credential() {
    let nginx = Nginx::start();
    let stack = stack(&nginx.url(), "connect", &format!("[\"{NAME}\"]"));
    let url = "https://vcenter.sddc.local/api/vm?x=1";
    let token = caller_token();
    let proxy = format!("https://x:{token}@localhost:{}", stack.public);
    let curls = [
        Curl::through(stack.public, url).args(["--proxy-user", &format!("x:{token}")]),
        Curl::through(stack.public, url).args([
            "--proxy-header",
            &format!("Proxy-Authorization: Bearer {token}"),
        ]),
        Curl::new(url)
            .args([
                "--noproxy",
                "",
                "--suppress-connect-headers",
                "--proxy-cacert",
                world().ca_file().to_str().unwrap(),
            ])
            .env("HTTPS_PROXY", &proxy),
    ];
    for curl in curls {
        let answer = curl.ok();
        assert_eq!(answer.status, 200, "{answer}");
        assert_eq!(answer.json()["host"], "vcenter.sddc.local", "{answer}");
        assert_eq!(answer.json()["target"], "/api/vm?x=1", "{answer}");
        assert_eq!(
            answer.header("culvert-call"),
            None,
            "nobody touches what is inside"
        );
    }
    let ours = |line: &&str| line.contains("mode=\"connect\"") && line.contains(NAME);
    until("there is an access line for each", || {
        stack.relay.log().lines().filter(ours).count() == 3
    });
    let access = stack.relay.log();
    assert!(!access.contains("/api/vm"), "{access}");
    assert!(!access.contains(token), "a token in the log");
}

/// The agent reads the server's name in the ClientHello before the upstream gets a byte.
#[test]
fn a_caller_that_means_another_server_than_it_connected_to_gets_nowhere() {
    let nginx = Nginx::start();
    let stack = stack(&nginx.url(), "connect", &format!("[\"{NAME}\"]"));
    let bearer = bearer(caller_token());
    let mut way = Way::open(stack.public, NAME, &bearer);
    assert_eq!(way.status(), 200);
    let error = way.handshake("nsx.sddc.local").unwrap_err();
    assert!(error.to_lowercase().contains("unrecogni"), "{error}");
    // What is no TLS at all.
    let mut way = Way::open(stack.public, NAME, &bearer);
    way.write(b"GET /api/vm HTTP/1.1\r\nHost: vcenter.sddc.local\r\n\r\n");
    let (bytes, ending) = way.read_to_end();
    assert_eq!((bytes.as_slice(), ending), (&b""[..], Ending::Reset));
    // And the right one.
    let mut way = Way::open(stack.public, NAME, &bearer);
    way.handshake("vcenter.sddc.local")
        .expect("the upstream's own certificate");
    // Nobody in particular.
    let mut way = Way::open(stack.public, NAME, &bearer);
    let error = way
        .handshake_without_name("vcenter.sddc.local")
        .unwrap_err();
    assert!(error.to_lowercase().contains("unrecogni"), "{error}");
    assert_eq!(nginx.access_log(), "");
    until("the audit log says why", || {
        let log = stack.agent.log();
        log.contains("the ClientHello names nsx.sddc.local") && log.contains("does not speak TLS")
    });
}

/// Old tools do not say which server they mean; an endpoint may take them nevertheless.
#[test]
fn a_caller_that_names_no_server_is_let_through_where_the_endpoint_says_so() {
    let nginx = Nginx::start();
    let names = format!("[\"{NAME}\"]\nallow_no_sni = true");
    let stack = stack(&nginx.url(), "connect", &names);
    let mut way = Way::open(stack.public, NAME, &bearer(caller_token()));
    way.handshake_without_name("vcenter.sddc.local")
        .expect("the upstream's own certificate");
    let mut way = Way::open(stack.public, NAME, &bearer(caller_token()));
    way.handshake("nsx.sddc.local")
        .expect_err("a name that is not the endpoint's");
}

#[test]
fn who_may_not_is_told_why_on_the_answer_to_the_connect() {
    let (upstream, connections) = listen();
    let names = r#"["vcenter.sddc.local:443", "VC.sddc.local.:443"]"#;
    let stack = stack(&upstream, "connect", names);
    let expect = |target: &str, fields: &str, status: u16, code: &str, layer: &str| {
        let mut way = Way::open(stack.public, target, fields);
        let problem = way.refusal();
        assert_eq!(way.status(), status, "{}", way.head);
        assert_eq!(way.field("content-type"), Some("application/problem+json"));
        assert!(
            problem["type"]
                .as_str()
                .unwrap()
                .ends_with(&format!("#{code}")),
            "{problem}"
        );
        assert_eq!(problem["layer"], layer);
        assert_eq!(way.field("culvert-call"), problem["call"].as_str());
        assert!(way.field("proxy-status").unwrap().contains(code));
        // All that many tools show.
        let line = way.head.lines().next().unwrap();
        for word in [code, layer, problem["call"].as_str().unwrap()] {
            assert!(line.contains(word), "{word} in {line}");
        }
        problem
    };
    let (ours, theirs) = (bearer(caller_token()), bearer(&world().token(OTHER_CALLER)));
    for fields in ["", "Proxy-Authorization: Basic eDp5\r\n"] {
        expect(NAME, fields, 407, "unauthenticated", "relay");
    }
    // Of a tenant that has no agent here so far. Which names others have it does not learn.
    let early = (503, "endpoint-offline");
    let known = expect(NAME, &theirs, early.0, early.1, "relay");
    let unknown = expect("nothing.sddc.local:443", &theirs, early.0, early.1, "relay");
    assert_eq!(known["detail"], unknown["detail"]);
    let host_mode = format!("vcenter--acme.localhost:{}", stack.public);
    for target in ["vcenter.sddc.local:22", &host_mode, "127.0.0.1:443"] {
        expect(target, &ours, 404, "unknown-endpoint", "relay");
    }
    assert!(connections.try_recv().is_err(), "an upstream was dialled");
    assert_eq!(
        Way::open(stack.public, "vc.SDDC.local:443", &ours).status(),
        200
    );
    accepted(&connections);
}

#[test]
fn the_policy_decides_on_name_port_and_caller() {
    let (upstream, connections) = listen();
    let stack = stack(&upstream, "tcp", r#"["appliance.sddc.local:5480"]"#);
    let mut way = Way::open(
        stack.public,
        "appliance.sddc.local:5480",
        &bearer(caller_token()),
    );
    let problem = way.refusal();
    assert_eq!(way.status(), 403, "{}", way.head);
    assert!(
        problem["type"]
            .as_str()
            .unwrap()
            .ends_with("#policy-denied"),
        "{problem}"
    );
    assert_eq!(
        (&problem["rule"], &problem["layer"]),
        (&"no-appliance".into(), &"agent".into())
    );
    assert!(connections.try_recv().is_err(), "an upstream was dialled");
}

#[test]
fn an_upstream_that_does_not_listen_is_the_answer_to_the_connect() {
    let port = culvert_tests::port::free();
    let stack = stack(
        &format!("https://127.0.0.1:{port}"),
        "connect",
        &format!("[\"{NAME}\"]"),
    );
    let mut way = Way::open(stack.public, NAME, &bearer(&world().token(CALLER)));
    let problem = way.refusal();
    assert_eq!(way.status(), 502, "{}", way.head);
    assert!(
        problem["type"]
            .as_str()
            .unwrap()
            .ends_with("#upstream-unreachable"),
        "{problem}"
    );
}

/// Bytes that are not TLS, in mode `tcp`: each direction ends for itself, and many bytes both ways
/// at once come out as they went in.
#[test]
fn tcp_carries_any_bytes_and_each_direction_ends_for_itself() {
    let (upstream, connections) = listen();
    let stack = stack(&upstream, "tcp", r#"["esx-01.sddc.local:902"]"#);
    let request = format!(
        "CONNECT esx-01.sddc.local:902 HTTP/1.0\r\n{}\r\n",
        bearer(caller_token())
    );
    let mut way = Way::send(stack.public, &request);
    assert!(way.head.starts_with("HTTP/1.0 200 "), "{}", way.head);
    assert!(way.field("culvert-call").is_some());
    let mut upstream = accepted(&connections);
    upstream
        .write_all(b"220 VMware Authentication Daemon\r\n")
        .unwrap();
    assert_eq!(way.read(34), b"220 VMware Authentication Daemon\r\n");

    let sent: Vec<u8> = (0..4 << 20).map(|n: u32| (n / 7) as u8).collect();
    let echo = std::thread::spawn(move || {
        let mut all = Vec::new();
        upstream.read_to_end(&mut all).unwrap();
        upstream.write_all(&all).unwrap();
        all.len()
    });
    way.write(&sent);
    way.finish();
    let (back, ending) = way.read_to_end();
    assert_eq!(echo.join().unwrap(), sent.len());
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    assert_eq!(ending, Ending::Clean);
}

/// Programs that exit close their connections without TLS's close_notify. What is inside has an end of
/// its own; what came before arrives, all of it, and the upstream is not kept.
#[test]
fn what_a_caller_says_last_arrives_although_it_leaves_without_goodbye() {
    let (upstream, connections) = listen();
    let stack = stack(&upstream, "connect", &format!("[\"{NAME}\"]"));
    let last_words = vec![7; 100_000];
    for _ in 0..10 {
        let mut way = Way::open(stack.public, NAME, &bearer(caller_token()));
        let mut hello = client_hello("vcenter.sddc.local", &[]);
        hello.extend(&last_words);
        way.write(&hello);
        drop(way);
        let mut upstream = accepted(&connections);
        let mut heard = Vec::new();
        let ended = upstream.read_to_end(&mut heard);
        assert_eq!(heard.len(), hello.len(), "{ended:?}");
        ended.expect("an end");
        // What it has to say to nobody ends soon too.
        let gone = Instant::now();
        until("the upstream is let go", || upstream.write(b"x").is_err());
        assert!(
            gone.elapsed() < Duration::from_secs(20),
            "{:?}",
            gone.elapsed()
        );
    }
}

/// Go's clients offer HTTP/2 to a proxy, and send a CONNECT of HTTP/1.1 whatever was chosen: terraform does.
#[test]
fn a_connect_is_taken_of_who_has_asked_for_http_2_and_does_not_speak_it() {
    let (upstream, connections) = listen();
    let stack = stack(&upstream, "tcp", r#"["esx-01.sddc.local:902"]"#);
    let offered = ["h2", "http/1.1"];
    let ask = |fields: &str| {
        let target = "esx-01.sddc.local:902";
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n");
        Way::send_with(stack.public, &offered, &request)
    };
    let mut way = ask(&bearer(caller_token()));
    assert_eq!(way.status(), 200, "{}", way.head);
    accepted(&connections).write_all(b"hello").unwrap();
    assert_eq!(way.read(5), b"hello");
    let mut refused = ask("");
    assert_eq!(refused.status(), 407, "{}", refused.head);
    assert_eq!(refused.refusal()["layer"], "relay");
}

/// Neither end takes what was cut short for the end.
#[test]
fn a_reset_travels_both_ways() {
    let (upstream, connections) = listen();
    let stack = stack(&upstream, "tcp", r#"["esx-01.sddc.local:902"]"#);
    let bearer = bearer(caller_token());
    let mut way = Way::open(stack.public, "esx-01.sddc.local:902", &bearer);
    let mut upstream = accepted(&connections);
    upstream.write_all(b"half of ").unwrap();
    assert_eq!(way.read(8), b"half of ");
    reset(upstream);
    let (rest, ending) = way.read_to_end();
    assert_eq!((rest.as_slice(), ending), (&b""[..], Ending::Reset));

    let mut way = Way::open(stack.public, "esx-01.sddc.local:902", &bearer);
    let mut upstream = accepted(&connections);
    way.write(b"half of ");
    let mut half = [0; 8];
    upstream.read_exact(&mut half).unwrap();
    // As by a crash: the caller's kernel closes, nobody says goodbye.
    let gone = Instant::now();
    drop(way);
    let error = upstream.read(&mut half).expect_err("no clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(
        gone.elapsed() < Duration::from_secs(10),
        "{:?}",
        gone.elapsed()
    );
}

#[test]
fn a_new_policy_ends_the_ways_that_it_forbids_and_leaves_the_others_open() {
    let (upstream, connections) = listen();
    let names = r#"["esx-01.sddc.local:902", "esx-02.sddc.local:902"]"#;
    let stack = stack(&upstream, "tcp", names);
    let bearer = bearer(caller_token());
    let mut forbidden = Way::open(stack.public, "esx-01.sddc.local:902", &bearer);
    let mut its_upstream = accepted(&connections);
    let mut other = Way::open(stack.public, "esx-02.sddc.local:902", &bearer);
    let mut other_upstream = accepted(&connections);

    let rule = "[[rule]]\nid = \"closed\"\naction = \"deny\"\nhost = [\"esx-01.sddc.local\"]\n";
    let (file, new) = (stack.file("policy.toml"), stack.file("policy.new"));
    std::fs::write(&new, format!("{POLICY}\n{rule}")).unwrap();
    std::fs::rename(new, file).unwrap();
    let (rest, ending) = forbidden.read_to_end();
    assert_eq!((rest.as_slice(), ending), (&b""[..], Ending::Reset));
    let error = its_upstream.read(&mut [0]).expect_err("no clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    other_upstream.write_all(b"still here").unwrap();
    assert_eq!(other.read(10), b"still here");
}

/// Closes with a TCP reset.
fn reset(connection: TcpStream) {
    let linger = socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}

/// One connection, many ways: HTTP/2's CONNECT, by node's own client.
#[test]
fn node_opens_ways_over_one_http2_connection() {
    let nginx = Nginx::start();
    let stack = stack(&nginx.url(), "connect", &format!("[\"{NAME}\"]"));
    let script = r#"
const http2 = require('http2'), tls = require('tls'), fs = require('fs');
const [port, token, ca] = process.argv.slice(1);
const roots = fs.readFileSync(ca);
const session = http2.connect(`https://localhost:${port}`, { ca: roots });
const name = 'vcenter.sddc.local';
function call(path) {
  return new Promise((done, fail) => {
    const way = session.request({ ':method': 'CONNECT', ':authority': `${name}:443`,
      'proxy-authorization': `Basic ${Buffer.from('x:' + token).toString('base64')}` });
    way.on('error', fail);
    way.on('response', (head) => {
      if (head[':status'] !== 200 || !head['culvert-call']) return fail(new Error(JSON.stringify(head)));
      const inner = tls.connect({ socket: way, servername: name, ca: roots }, () =>
        inner.write(`GET ${path} HTTP/1.1\r\nHost: ${name}\r\nConnection: close\r\n\r\n`));
      let text = '';
      inner.on('data', (data) => text += data).on('error', fail);
      // The upstream has ended its half; the other one is the caller's to end.
      inner.on('end', () => { way.end(); done(text); });
    });
  });
}
Promise.all([call('/api/one'), call('/api/two')]).then(
  (texts) => { console.log(texts.join('\n')); session.close(); },
  (error) => { console.error(error); process.exit(1); });
"#;
    let output = std::process::Command::new("node")
        .args(["-e", script, &stack.public.to_string(), caller_token()])
        .arg(world().ca_file())
        .output()
        .expect("node is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(
        text.contains("\"target\":\"/api/one\"") && text.contains("\"target\":\"/api/two\""),
        "{text}"
    );
}
