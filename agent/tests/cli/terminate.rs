//! Endpoints whose TLS ends at the agent.

use super::*;

/// An agent that ends callers' TLS with the certificate `vc.pem`.
fn terminating(certificate: &rcgen::CertificateParams) -> Files {
    let files = Files::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let made = certificate.self_signed(&key).unwrap();
    files.write("vc.pem", &made.pem());
    let path = files.write("vc.key", &key.serialize_pem());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    files.write(
        "agent.toml",
        &AGENT.replace(
            "pin_sha256",
            "mode = [\"terminate\"]\n\
             connect = [\"vcenter.sddc.local:443\", \"vc.sddc.local:443\", \"10.0.0.7:443\"]\n\
             terminate = { certificate = \"vc.pem\", private_key = \"vc.key\" }\n\
             pin_sha256",
        ),
    );
    files
}

#[test]
fn a_certificate_for_callers_must_be_for_every_declared_name_and_good_now() {
    let params = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::CertificateParams::new(names).unwrap()
    };
    let good = terminating(&params(&["*.sddc.local", "10.0.0.7"]));
    let output = check(&good.config());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("mode = [\"terminate\"]"), "{shown}");
    assert!(
        shown.contains("vc.pem") && shown.contains("[endpoint.terminate]"),
        "{shown}"
    );

    let mut expired = params(&["*.sddc.local", "10.0.0.7"]);
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    for (bad, words) in [
        (
            params(&["vcenter.sddc.local", "10.0.0.7"]),
            "is not for vc.sddc.local",
        ),
        (params(&["*.sddc.local"]), "is not for 10.0.0.7"),
        (
            params(&["*.local", "10.0.0.7"]),
            "is not for vcenter.sddc.local",
        ),
        (expired, "is not valid now"),
    ] {
        let files = terminating(&bad);
        let output = check(&files.config());
        assert_eq!(output.status.code(), Some(78));
        let found = stderr(&output);
        assert!(found.contains(words), "{found}");
        assert!(
            found.contains("endpoint[1].terminate.certificate"),
            "{found}"
        );
        assert!(found.contains("agent.toml"), "{found}");
    }
    // Not the key of the certificate.
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    good.write("vc.key", &key);
    let output = check(&good.config());
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("does not serve the certificate"));
    // Not a CA's.
    let files = terminating(&params(&["*.sddc.local"]));
    let text = std::fs::read_to_string(files.config()).unwrap();
    let text = text.replace("private_key =", "ca_private_key =");
    files.write(
        "agent.toml",
        &text.replace("{ certificate =", "{ ca_certificate ="),
    );
    let output = check(&files.config());
    assert!(
        stderr(&output).contains("is not the certificate of a CA"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn explain_and_presets_know_calls_whose_tls_ends_at_the_agent() {
    let files = terminating(
        &rcgen::CertificateParams::new(vec!["*.sddc.local".to_owned(), "10.0.0.7".to_owned()])
            .unwrap(),
    );
    files.write(
        "policy.toml",
        "version = 1\npresets = [\"vsphere-readonly\"]\n[[rule]]\nid = \"one\"\naction = \"allow\"\n\
         mode = [\"terminate\"]\nhost = [\"vcenter.sddc.local\"]\npath = [\"/one\"]\n",
    );
    let explain = |arguments: &[&str]| {
        let config = files.config();
        let start = ["policy", "explain", "--config", config.to_str().unwrap()];
        let call = ["--endpoint", "vcenter", "--mode", "terminate"];
        let output = agent(&[&start[..], &call, arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let one = [
        "--path",
        "/one",
        "--host",
        "vcenter.sddc.local",
        "--port",
        "443",
    ];
    assert!(explain(&one).starts_with("allow, by rule \"one\""));
    assert!(explain(&["--path", "/one", "--host", "vc.sddc.local"]).starts_with("deny"));
    let soap = ["--path", "/sdk", "--soap-op", "RetrievePropertiesEx"];
    assert!(explain(&soap).starts_with("allow, by rule \"vsphere-readonly"));
    assert!(explain(&["--path", "/sdk", "--soap-op", "Destroy_Task"]).starts_with("deny"));
    let config = files.config();
    let lint = ["policy", "lint", "--config", config.to_str().unwrap()];
    let output = agent(&lint);
    assert!(!stdout(&output).contains("\"one\""), "{}", stdout(&output));
}
