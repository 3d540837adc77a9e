//! The demo's stand-ins, each a process of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use culvert_tests::Curl;
use culvert_tests::issuer::world;
use culvert_tests::process::program;

#[test]
fn a_stand_in_that_was_out_of_descriptors_goes_on_once_it_has_some() {
    let folder = tempfile::tempdir().unwrap();
    let leaf = world().authority.issue(&["localhost"]).unwrap();
    leaf.write(folder.path(), "issuer").unwrap();
    std::fs::write(folder.path().join("clients.json"), "[]").unwrap();
    // It lives as long as its standard input is open.
    let mut issuer = Command::new("bash")
        .args(["-c", "ulimit -n 32 && exec \"$@\"", "bash"])
        .arg(program("culvert-demo"))
        .args(["issuer", "--state"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = BufReader::new(issuer.stdout.take().unwrap()).lines();
    let url = address.next().unwrap().unwrap();
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let connect = |_| TcpStream::connect(("127.0.0.1", port)).unwrap();
    let too_many: Vec<_> = (0..64).map(connect).collect();
    let mut log = BufReader::new(issuer.stderr.take().unwrap()).lines();
    let short = log.find(|line| {
        line.as_ref()
            .unwrap()
            .contains("cannot accept a connection")
    });
    assert!(short.is_some());
    drop(too_many);
    let answer = Curl::new(&format!("{url}/jwks")).ok();
    assert_eq!(answer.status, 200, "{answer}");
    drop(issuer.stdin.take());
    assert!(issuer.wait().unwrap().success());
}
