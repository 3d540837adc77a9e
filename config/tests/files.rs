//! Every shipped example loads; every file of the `invalid` folders is refused with the message
//! that its first line promises.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use culvert_config::{AgentConfig, ConfigError, RelayConfig};

/// A folder with `file` under `name` and, beside it, everything that the examples point to.
fn folder_with(file: &Path, name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let beside = [
        "relay.pem",
        "relay.key",
        "vmca.pem",
        "secret",
        "policy.toml",
        "keys.json",
    ];
    for beside in beside {
        let path = folder.path().join(beside);
        fs::write(&path, "not empty").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let open = folder.path().join("open-to-all");
    fs::write(&open, "secret").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::set_permissions(
        folder.path().join("empty"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let copy = folder.path().join(name);
    fs::copy(file, &copy).unwrap();
    (folder, copy)
}

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn load_relay(file: &Path) -> Result<RelayConfig, ConfigError> {
    RelayConfig::load_with(file, std::iter::empty())
}

fn load_agent(file: &Path) -> Result<AgentConfig, ConfigError> {
    AgentConfig::load_with(file, std::iter::empty())
}

#[test]
fn the_shipped_relay_example_loads() {
    let (_folder, file) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
    let config = load_relay(&file).unwrap();
    assert_eq!(config.domain, "relay.example.com");
    assert_eq!(config.issuers[0].audience, "culvert");
}

fn client_secret(config: &AgentConfig) -> &str {
    use culvert_config::oauth::{ClientAuth, OAuth};
    use secrecy::ExposeSecret;
    match &config.oauth {
        OAuth::ClientCredentials(client) => match &client.auth {
            ClientAuth::Basic { client_secret } => client_secret.expose_secret(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_grant_and_every_proof_of_a_client_is_read_and_shown_without_secrets() {
    let example = fs::read_to_string(manifest("examples/agent.toml")).unwrap();
    let (start, rest) = example.split_once("[oauth]").unwrap();
    let (_, rest) = rest.split_once("[[endpoint]]").unwrap();
    let load = |oauth: &str| {
        let (folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
        fs::write(folder.path().join("secret"), "hunter2").unwrap();
        let text = format!("{start}[oauth]\nclient_id = \"sddc\"\n{oauth}\n[[endpoint]]{rest}");
        fs::write(&file, text).unwrap();
        let config = load_agent(&file).unwrap_or_else(|error| panic!("{oauth}: {error}"));
        let shown = config.render();
        assert!(!shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
        assert_eq!(config.oauth.client_id(), "sddc");
        toml::from_str::<toml::Table>(&shown).unwrap()["oauth"].clone()
    };
    let server = "token_url = \"https://issuer.example.com/token\"";
    let oauth = load(&format!(
        "grant = \"client_credentials\"\n{server}\nclient_auth = \"post\"\n\
         client_secret_file = \"secret\""
    ));
    assert_eq!(oauth["client_auth"].as_str(), Some("post"));
    assert_eq!(oauth["client_secret"].as_str(), Some("***"));

    let oauth = load(&format!(
        "grant = \"client_credentials\"\n{server}\n\
         private_key_jwt = {{ key_file = \"secret\", key_id = \"k1\" }}"
    ));
    let key = &oauth["private_key_jwt"];
    assert_eq!(key["algorithm"].as_str(), Some("ES256"));
    assert!(key.get("private_key").is_none() && oauth.get("client_auth").is_none());

    let oauth = load(&format!(
        "grant = \"refresh_token\"\n{server}\nrefresh_token_file = \"secret\""
    ));
    assert!(
        oauth.get("client_auth").is_none(),
        "it has nothing to prove"
    );
    assert!(oauth["refresh_token_file"].as_str().is_some());

    let oauth = load("grant = \"token_file\"\ntoken_file = \"open-to-all\"");
    assert!(oauth["token_file"].as_str().is_some());
}

/// Whoever writes a file from what is shown puts the place of a secret where `***` is.
#[test]
fn what_is_shown_is_a_configuration_that_says_the_same() {
    let again = |file: &Path, shown: &str| fs::write(file, shown).unwrap();
    let issuer = "algorithms = [\"ES256\", \"RS256\"]";
    for jwks in [
        "",
        "jwks = \"https://issuer.example.com/keys\"",
        "jwks = \"file:keys.json\"",
    ] {
        let (_folder, file) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
        let text = fs::read_to_string(&file).unwrap();
        again(
            &file,
            &text.replacen(issuer, &format!("{issuer}\n{jwks}"), 1),
        );
        let shown = load_relay(&file).unwrap().render();
        again(&file, &shown);
        let loaded = load_relay(&file).unwrap_or_else(|error| panic!("{error}:\n{shown}"));
        assert_eq!(loaded.render(), shown);
    }
    let says_the_same = |file: &Path| {
        let shown = load_agent(file).unwrap().render();
        let secret = shown.replace("client_secret = \"***\"", "client_secret_file = \"secret\"");
        again(file, &secret);
        let loaded = load_agent(file).unwrap_or_else(|error| panic!("{error}:\n{shown}"));
        assert_eq!(loaded.render(), shown);
    };
    for more in [
        "",
        "ca = \"vmca.pem\"",
        "pin_sha256 = [\"0707070707070707070707070707070707070707070707070707070707070707\"]",
        "client_certificate = \"relay.pem\"\nclient_private_key = \"relay.key\"",
    ] {
        let (_folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
        let text = fs::read_to_string(&file).unwrap();
        let endpoint = "[[endpoint]]\nname = \"more\"\nupstream = \"https://more.sddc.local\"";
        again(
            &file,
            &text.replacen(
                "[[endpoint]]",
                &format!("{endpoint}\n{more}\n[[endpoint]]"),
                1,
            ),
        );
        says_the_same(&file);
    }
    let (grant, secret) = ("client_credentials", "client_secret_file = \"secret\"");
    for (new_grant, proof) in [
        (
            grant,
            "client_auth = \"post\"\nclient_secret_file = \"secret\"",
        ),
        (
            grant,
            "private_key_jwt = { key_file = \"secret\", audience = \"x\" }",
        ),
        ("refresh_token", "refresh_token_file = \"secret\""),
    ] {
        let (_folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
        let text = fs::read_to_string(&file).unwrap();
        let text = text.replacen(grant, new_grant, 1);
        again(&file, &text.replacen(secret, proof, 1));
        says_the_same(&file);
    }
}

#[test]
fn the_shipped_agent_example_loads_and_never_shows_its_secret() {
    let (folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
    let secret = folder.path().join("secret");
    fs::write(&secret, "hunter2\n").unwrap();
    let config = load_agent(&file).unwrap();
    assert_eq!(config.endpoints.len(), 3);
    assert_eq!(client_secret(&config), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!config.render().contains("hunter2"));
    assert!(
        config.render().contains("client_secret = \"***\""),
        "{}",
        config.render()
    );
}

#[test]
fn the_audit_log_and_the_admin_listener_have_the_documented_defaults() {
    use culvert_config::admin::{AdminAddress, AgentAdmin};
    use culvert_config::audit::{AuditConfig, AuditSink, OnFull, SyslogServer};
    let example = fs::read_to_string(manifest("examples/agent.toml")).unwrap();
    let start = example.split("[audit]").next().unwrap();
    let load = |more: &str| {
        let folder = folder_with(&manifest("examples/agent.toml"), "agent.toml");
        fs::write(&folder.1, format!("{start}{more}")).unwrap();
        let config = load_agent(&folder.1).unwrap();
        toml::from_str::<toml::Table>(&config.render()).expect("what is shown is TOML");
        (folder, config)
    };
    let (_folder, silent) = load("");
    let (_keep, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
    let written = load_agent(&file).unwrap();
    assert_eq!(silent.audit, written.audit);
    assert_eq!(silent.audit, AuditConfig::default());
    assert_eq!(silent.admin, written.admin);
    let default = AdminAddress::Listen("127.0.0.1:9902".parse().unwrap());
    assert_eq!(silent.admin, AgentAdmin::open_at(default));

    let (folder, file) = load("[audit]\nfile = \"audit.log\"\non_full = \"stop\"\n");
    assert_eq!(file.audit.on_full, OnFull::Stop);
    let AuditSink::File {
        file,
        max_size,
        keep,
    } = file.audit.sink
    else {
        panic!("{:?}", file.audit)
    };
    assert_eq!(file, folder.0.path().join("audit.log"));
    assert_eq!((max_size.0, keep), (100 << 20, 10));

    for (text, server) in [
        ("unix:/dev/log", SyslogServer::Unix("/dev/log".into())),
        ("udp://logs:514", SyslogServer::Udp("logs:514".into())),
        ("tcp://[::1]:601", SyslogServer::Tcp("[::1]:601".into())),
    ] {
        let (_folder, config) = load(&format!("[audit]\nsyslog = \"{text}\"\n"));
        assert_eq!(config.audit.sink, AuditSink::Syslog { syslog: server });
    }
    let (folder, config) = load("[admin]\nsocket = \"admin.sock\"\n");
    let socket = folder.0.path().join("admin.sock");
    let socket = AdminAddress::Socket(socket);
    assert_eq!(config.admin, AgentAdmin::open_at(socket));
}

#[test]
fn callers_are_verified_by_one_issuer_or_by_several() {
    let example = fs::read_to_string(manifest("examples/agent.toml")).unwrap();
    let load = |more: &str| {
        let (_folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
        fs::write(&file, format!("{example}\n{more}")).unwrap();
        let config = load_agent(&file).unwrap_or_else(|error| panic!("{more}: {error}"));
        toml::from_str::<toml::Table>(&config.render()).expect("what is shown is TOML");
        config.verify_callers
    };
    assert!(load("").is_none());
    let one = load(
        "[verify_callers]\nissuer = \"https://a.example\"\naudience = \"culvert\"\n\
         jwks = \"file:keys.json\"\ntenant = \"acme\"\ncall_scope = \"call\"\n",
    );
    let one = one.unwrap();
    assert_eq!(one.tenant.unwrap().as_str(), "acme");
    let issuer = &one.issuers[0];
    assert_eq!(
        (issuer.url.as_str(), issuer.call_scope.as_str()),
        ("https://a.example", "call")
    );
    assert_eq!(issuer.tenant_claim, "tenant");
    assert_eq!(issuer.algorithms.len(), 2);
    // Nothing said: whoever issues the agent's own tokens.
    let own = load("[verify_callers]\ncall_scope = \"call\"\n").unwrap();
    let issuer = &own.issuers[0];
    assert_eq!(
        (issuer.url.as_str(), issuer.audience.as_str()),
        ("https://issuer.example.com", "culvert")
    );
    assert_eq!(issuer.call_scope, "call");
    assert_eq!(load("[verify_callers]\n").unwrap().issuers.len(), 1);
    let issuer = |name: &str| {
        format!(
            "[[verify_callers.issuer]]\nurl = \"https://{name}.example\"\naudience = \"culvert\"\n\
             algorithms = [\"EdDSA\"]\n"
        )
    };
    let several = load(&format!("{}{}", issuer("a"), issuer("b"))).unwrap();
    assert!(several.tenant.is_none());
    assert_eq!(several.issuers[1].url, "https://b.example");
}

#[test]
fn defaults_in_the_relay_example_are_the_real_ones() {
    let text = fs::read_to_string(manifest("examples/relay.toml")).unwrap();
    let limits = text.split("[limits]").nth(1).unwrap();
    let uncommented = limits.replace("# ", "").replace("the defaults", "");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("limits.toml");
    let start = text.split("[limits]").next().unwrap();
    fs::write(&file, format!("{start}[limits]\n{uncommented}")).unwrap();
    for beside in ["relay.pem", "relay.key"] {
        let path = folder.path().join(beside);
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let written = load_relay(&file).unwrap();
    let (_keep, plain) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
    assert_eq!(
        format!("{:?}", written.limits),
        format!("{:?}", load_relay(&plain).unwrap().limits)
    );
}

#[test]
fn a_variable_overrides_a_key_of_the_file() {
    let (_folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
    let environment = [
        (
            "CULVERT_RELAY__URL".to_owned(),
            "wss://other.example.com:8443".to_owned(),
        ),
        ("CULVERT_RELAY__SESSIONS".to_owned(), "3".to_owned()),
        (
            "CULVERT_OAUTH__CLIENT_SECRET".to_owned(),
            "from-environment".to_owned(),
        ),
        ("CULVERT_SOMETHING_ELSE".to_owned(), "ignored".to_owned()),
    ];
    let config = AgentConfig::load_with(&file, environment.into_iter()).unwrap();
    assert_eq!(config.relay.url.as_str(), "wss://other.example.com:8443/");
    assert_eq!(config.relay.sessions, 3);
    assert_eq!(client_secret(&config), "from-environment");
}

/// An empty one would take the place of a good file, and every token be refused.
#[test]
fn a_secret_in_a_variable_is_one_line_as_in_a_file_and_not_an_empty_one() {
    let (_folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
    let load = |secret: &str| {
        let variable = ("CULVERT_OAUTH__CLIENT_SECRET".to_owned(), secret.to_owned());
        AgentConfig::load_with(&file, std::iter::once(variable))
    };
    for line in ["hunter2", "hunter2\n", "hunter2\r\n"] {
        assert_eq!(client_secret(&load(line).unwrap()), "hunter2");
    }
    for empty in ["", "\n", "\r\n"] {
        let error = load(empty).unwrap_err().to_string();
        assert!(error.contains("CULVERT_OAUTH__CLIENT_SECRET"), "{error}");
    }
}

#[test]
fn a_proxy_has_its_password_from_a_file_or_from_a_variable_and_never_shows_it() {
    use secrecy::ExposeSecret;
    let (folder, file) = folder_with(&manifest("examples/agent.toml"), "agent.toml");
    fs::write(folder.path().join("secret"), "hunter2\n").unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let lines = "[relay]\nproxy = \"http://me@proxy.corp:3128\"\nproxy_password_file = \"secret\"";
    fs::write(&file, text.replacen("[relay]", lines, 1)).unwrap();
    let from_file = load_agent(&file).unwrap();
    fs::write(&file, text).unwrap();
    let variable = |name: &str, value: &str| {
        let environment = std::iter::once((name.to_owned(), value.to_owned()));
        AgentConfig::load_with(&file, environment).unwrap()
    };
    let url = "http://me:hunter2@proxy.corp:3128";
    for config in [
        from_file,
        variable("CULVERT_RELAY__PROXY", url),
        variable("https_proxy", url),
    ] {
        let proxy = config
            .relay
            .proxy
            .for_host("relay.example.com", 443)
            .unwrap();
        let (user, password) = proxy.credential.as_ref().unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("me", "hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
        let shown = config.render();
        assert!(
            shown.contains("proxy = \"http://me:***@proxy.corp:3128\""),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let direct = variable("CULVERT_RELAY__PROXY", "");
    assert!(direct.relay.proxy.is_empty());
}

#[test]
fn a_variable_for_an_unknown_key_is_refused_like_the_key() {
    let (_folder, file) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
    let environment = [("CULVERT_LISTEN__ADDR".to_owned(), "[::]:1".to_owned())];
    let error = RelayConfig::load_with(&file, environment.into_iter()).unwrap_err();
    assert!(
        error.to_string().contains("there is no key addr here"),
        "{error}"
    );
}

#[test]
fn an_error_in_a_variable_names_the_variable_and_no_line_of_the_file() {
    let (_folder, file) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
    let error = |name: &str, value: &str| {
        let environment = std::iter::once((name.to_owned(), value.to_owned()));
        let error = RelayConfig::load_with(&file, environment).unwrap_err();
        assert_eq!(error.position, None, "{error}");
        error.to_string()
    };
    let public = error("CULVERT_LISTEN__PUBLIC", "x");
    assert!(public.contains("relay.toml: listen.public: "), "{public}");
    assert!(public.contains("(CULVERT_LISTEN__PUBLIC)"), "{public}");
    let unknown = error("CULVERT_LISTEN__PUBIC", "[::]:1");
    assert!(unknown.contains("(CULVERT_LISTEN__PUBIC)"), "{unknown}");
    let checked = error("CULVERT_LISTEN__ADMIN", "192.0.2.1:1");
    assert!(checked.contains("(CULVERT_LISTEN__ADMIN)"), "{checked}");
    let table = error("CULVERT_LISTN__PUBLIC", "[::]:1");
    assert!(
        table.contains("CULVERT_LISTN__PUBLIC") && table.contains("listen, "),
        "{table}"
    );
}

#[test]
fn a_variable_that_looks_like_a_number_may_be_a_name() {
    let (_folder, file) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
    let environment = [("CULVERT_NODE".to_owned(), "7".to_owned())];
    let config = RelayConfig::load_with(&file, environment.into_iter()).unwrap();
    assert_eq!(config.node, "7");
    // What is another program's is left alone.
    let environment = [("CULVERT_RELAY__URL".to_owned(), "wss://x".to_owned())];
    RelayConfig::load_with(&file, environment.into_iter()).unwrap();
}

/// `# expect: TEXT` lines at the top of an invalid file: every TEXT must be in the message.
fn check_folder(folder: &str, name: &str, load: impl Fn(&Path) -> Option<ConfigError>) {
    let mut files: Vec<_> = fs::read_dir(manifest(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{folder} has only {} files", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let expected: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .collect();
        assert!(
            !expected.is_empty(),
            "{} promises no message",
            file.display()
        );
        let (_keep, copy) = folder_with(&file, name);
        let message = match load(&copy) {
            Some(error) => error.to_string(),
            None => panic!("{} was accepted", file.display()),
        };
        for expected in expected {
            assert!(
                message.contains(expected),
                "{}: {message:?} lacks {expected:?}",
                file.display()
            );
        }
    }
}

#[test]
fn every_invalid_relay_file_is_refused_with_its_message() {
    check_folder("invalid/relay", "relay.toml", |file| load_relay(file).err());
}

#[test]
fn every_invalid_agent_file_is_refused_with_its_message() {
    check_folder("invalid/agent", "agent.toml", |file| load_agent(file).err());
}

#[test]
fn an_error_found_later_still_names_the_line_of_its_key() {
    let (_folder, file) = folder_with(&manifest("examples/relay.toml"), "relay.toml");
    let line = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .position(|line| line.starts_with("private_key"))
        .unwrap();
    let error = ConfigError::at_key(&file, "tls.private_key", "does not fit the certificate");
    assert_eq!(error.position, Some((line + 1, 15)));
    assert!(
        error.to_string().contains("tls.private_key: does not fit"),
        "{error}"
    );
    assert_eq!(
        ConfigError::at_key(&file, "tls.nothing", "x").position,
        None
    );
}
