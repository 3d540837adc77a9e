//! The Helm charts under `deploy/helm`: what they make is what Kubernetes takes, and what the programs
//! take. Without a cluster: rendered by Helm itself, and a pod's files laid out as its kubelet does.

use std::collections::HashMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use culvert_tests::issuer::world;
use culvert_tests::process::program;
use serde_json::{Value, json};

fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a chart makes with these values, or what a file has.
fn rendered(chart: &str, values: &Value) -> Result<Vec<Value>, String> {
    let output = Command::new(tests().join("python/.venv/bin/python3"))
        .arg(tests().join("python/charts.py"))
        .arg(tests().join("../deploy/helm").join(chart))
        .arg(values.to_string())
        .output()
        .expect("tests/run.sh makes it");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

fn of_kind<'a>(resources: &'a [Value], kind: &str) -> Vec<&'a Value> {
    resources.iter().filter(|r| r["kind"] == kind).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Files of Secrets, by the Secret's name and their own.
type Secrets = HashMap<&'static str, HashMap<&'static str, String>>;

/// A container of a rendered Deployment, on this machine.
struct Pod {
    spec: Value,
    folder: tempfile::TempDir,
}

impl Pod {
    /// Lays out the volumes of what was rendered, with the modes and links of a kubelet: the files of its
    /// ConfigMaps, and of these Secrets.
    fn new(resources: &[Value], secrets: &Secrets) -> Self {
        let deployment = of_kind(resources, "Deployment")[0];
        let spec = deployment["spec"]["template"]["spec"].clone();
        let folder = tempfile::tempdir().unwrap();
        let maps = of_kind(resources, "ConfigMap");
        for volume in list(&spec["volumes"]) {
            let mounts = &spec["containers"][0]["volumeMounts"];
            let mount = list(mounts).find(|mount| mount["name"] == volume["name"]);
            let path = mount.expect("every volume is mounted")["mountPath"]
                .as_str()
                .unwrap();
            let root = folder.path().join(path.trim_start_matches('/'));
            let mode = volume["secret"]["defaultMode"].as_u64();
            let mode = mode.or(volume["projected"]["defaultMode"].as_u64());
            let mode = u32::try_from(mode.unwrap_or(0o644)).unwrap();
            let write = |file: &str, text: &str| linked(&root, file, text, mode);
            let alone = [volume.clone()];
            let sources = volume["projected"]["sources"].as_array();
            for source in sources.map_or(&alone[..], |sources| sources) {
                if let Some(name) = source["configMap"]["name"].as_str() {
                    let map = maps
                        .iter()
                        .find(|map| map["metadata"]["name"] == name)
                        .expect(name);
                    for (file, text) in map["data"].as_object().unwrap() {
                        write(file, text.as_str().unwrap());
                    }
                }
                for item in list(&source["secret"]["items"]) {
                    let (key, path) = (item["key"].as_str(), item["path"].as_str());
                    let name = source["secret"]["name"].as_str().unwrap();
                    write(path.unwrap(), &secrets[name][key.unwrap()]);
                }
                if let Some(name) = source["secret"]["secretName"].as_str() {
                    secrets[name]
                        .iter()
                        .for_each(|(file, text)| write(file, text));
                }
            }
        }
        Self { spec, folder }
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// A path of the pod's on this machine.
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// Runs the pod's program with its environment.
    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program(name));
        command.args(arguments).env_remove("RUST_LOG");
        for variable in list(&self.container()["env"]) {
            let value = match variable["value"].as_str() {
                Some(path) if path.starts_with('/') => self.path(path).display().to_string(),
                Some(value) => value.replace("$(POD_IP)", "10.1.2.3"),
                None => "10.1.2.3".to_owned(),
            };
            command.env(variable["name"].as_str().unwrap(), value);
        }
        command.output().unwrap()
    }

    /// `PROGRAM check` of the file that its image runs with.
    fn check(&self, name: &str, file: &str) -> String {
        let config = self.path("/etc/culvert").join(file);
        let output = self.run(name, &["check", "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A file as a kubelet writes it: behind two links, so that all change at once.
fn linked(root: &Path, file: &str, text: &str, mode: u32) {
    let data = root.join("..2026_11_29");
    let real = data.join(file);
    std::fs::create_dir_all(real.parent().unwrap()).unwrap();
    if !root.join("..data").exists() {
        symlink("..2026_11_29", root.join("..data")).unwrap();
    }
    std::fs::write(&real, text).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(mode)).unwrap();
    let first = Path::new(file).components().next().unwrap();
    let link = root.join(first);
    if !link.exists() {
        symlink(Path::new("..data").join(first), link).unwrap();
    }
}

/// A Secret with a certificate for these names.
fn tls(names: &[&str]) -> HashMap<&'static str, String> {
    let authority = &world().authority;
    let folder = tempfile::tempdir().unwrap();
    authority
        .issue(names)
        .unwrap()
        .write(folder.path(), "leaf")
        .unwrap();
    let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).unwrap();
    HashMap::from([
        ("tls.crt", read("leaf.pem")),
        ("tls.key", read("leaf.key")),
        ("ca.crt", authority.pem().to_owned()),
    ])
}

/// The Secrets that the relay's chart asks for, under the names of its values.
fn of_the_relay() -> Secrets {
    let files =
        ["valkey-password", "admin-token"].map(|file| (file, "c0ffee00c0ffee00".to_owned()));
    HashMap::from([
        (
            "culvert-relay-tls",
            tls(&["relay.example.com", "*.relay.example.com"]),
        ),
        ("culvert-relay-peer", tls(&["relays.culvert.internal"])),
        ("culvert-relay-secrets", HashMap::from(files)),
    ])
}

/// Nobody but the container's user may do anything, and nothing can be written.
fn assert_confined(pod: &Value) {
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
}

#[test]
fn the_relay_s_chart_runs_relays_that_find_each_other() {
    let resources = rendered("culvert-relay", &json!({})).unwrap();
    let pod = Pod::new(&resources, &of_the_relay());
    let checked = pod.check("culvert-relay", "relay.toml");
    for line in [
        "public = \"[::]:8443\"",
        "peer = \"[::]:9443\"",
        "admin = \"127.0.0.1:9901\"",
        "address = \"10.1.2.3:9443\"",
        "drain = \"30s\"",
    ] {
        assert!(checked.contains(line), "{line}: {checked}");
    }
    assert_confined(&pod.spec);
    let service = of_kind(&resources, "Service")[0];
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
    let ports: Vec<_> = list(&pod.container()["ports"])
        .map(|port| &port["name"])
        .collect();
    assert_eq!(ports, ["public", "peer"]);
    // While a relay drains, nobody kills it.
    let grace = pod.spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= 30 + 5 + 10, "{grace}");
    assert_eq!(of_kind(&resources, "PodDisruptionBudget").len(), 1);
}

/// By an exec probe: nothing else than the pod itself reaches a loopback address.
#[test]
fn the_probes_are_commands_that_there_are() {
    for (chart, name, secrets) in [
        ("culvert-relay", "culvert-relay", of_the_relay()),
        ("culvert-agent", "culvert-agent", of_the_agent()),
    ] {
        let pod = Pod::new(&rendered(chart, &json!({})).unwrap(), &secrets);
        let command = &pod.container()["readinessProbe"]["exec"]["command"];
        let words: Vec<&str> = list(command).map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words[0], format!("/usr/bin/{name}"));
        // Nobody listens: 1, and not 2 for a command line that makes no sense.
        let output = pod.run(
            name,
            &[&words[1..], &["--admin", "http://127.0.0.1:9"]].concat(),
        );
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[test]
fn one_relay_alone_needs_no_registry() {
    let config = "domain = \"relay.example.com\"\n[tls]\ncertificate = \"tls/tls.crt\"\n\
                  private_key = \"tls/tls.key\"\n[[issuer]]\nurl = \"https://issuer.example.com\"\n\
                  audience = \"culvert\"\nalgorithms = [\"ES256\"]\n";
    let values = json!({ "replicas": 1, "config": config, "secrets": { "peer": "", "files": "" } });
    let resources = rendered("culvert-relay", &values).unwrap();
    let pod = Pod::new(&resources, &of_the_relay());
    let checked = pod.check("culvert-relay", "relay.toml");
    assert!(!checked.contains("9443"), "{checked}");
    assert!(of_kind(&resources, "PodDisruptionBudget").is_empty());
}

/// A relay that the autoscaler takes away drains before the next one goes, and there is no number that an
/// upgrade of the chart would set it back to.
#[test]
fn relays_are_as_many_as_the_load_takes_where_that_is_wanted() {
    let values = |more: Value| {
        let mut values = json!({ "autoscaling": { "enabled": true }, "drainSeconds": 90 });
        values
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        values
    };
    let resources = rendered("culvert-relay", &values(json!({}))).unwrap();
    let deployment = of_kind(&resources, "Deployment")[0];
    assert!(deployment["spec"]["replicas"].is_null(), "{deployment}");
    let scaler = &of_kind(&resources, "HorizontalPodAutoscaler")[0]["spec"];
    assert_eq!(
        scaler["scaleTargetRef"]["name"],
        deployment["metadata"]["name"]
    );
    assert_eq!(
        (&scaler["minReplicas"], &scaler["maxReplicas"]),
        (&json!(3), &json!(10))
    );
    let down = &scaler["behavior"]["scaleDown"]["policies"];
    let grace = &deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    assert_eq!(
        down,
        &json!([{ "type": "Pods", "value": 1, "periodSeconds": grace }])
    );
    // As many may be disrupted as without it: one of several, and the only one there is.
    assert_eq!(of_kind(&resources, "PodDisruptionBudget").len(), 1);
    let few = json!({ "autoscaling": { "enabled": true, "minReplicas": 1 } });
    let resources = rendered("culvert-relay", &few).unwrap();
    assert!(of_kind(&resources, "PodDisruptionBudget").is_empty());

    for (lacking, said) in [
        (
            json!({ "secrets": { "peer": "" } }),
            "autoscaling needs secrets.peer",
        ),
        (
            json!({ "resources": { "requests": { "cpu": null } } }),
            "autoscaling needs resources.requests.cpu",
        ),
    ] {
        let refused = rendered("culvert-relay", &values(lacking)).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
    let as_ever = rendered("culvert-relay", &json!({})).unwrap();
    assert!(of_kind(&as_ever, "HorizontalPodAutoscaler").is_empty());
}

#[test]
fn operators_ask_from_other_pods_over_tls_and_for_the_token_alone() {
    let monitoring = json!([{ "podSelector": { "matchLabels": { "app": "prometheus" } } }]);
    let values = json!({
        "admin": { "expose": true, "privateCa": true, "podMonitor": true },
        "networkPolicy": { "adminFrom": monitoring },
    });
    let resources = rendered("culvert-relay", &values).unwrap();
    let pod = Pod::new(&resources, &of_the_relay());
    let checked = pod.check("culvert-relay", "relay.toml");
    assert!(checked.contains("admin = \"[::]:9901\""), "{checked}");
    assert!(checked.contains("token_file"), "{checked}");
    // The probe has the token and the authority: nobody listens, which is 1 and not 2.
    let output = pod.run(
        "culvert-relay",
        &["ready", "--admin", "https://127.0.0.1:9"],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_asked_by_name("culvert-relay", &resources, &pod, "relay.example.com");
    let policy = &of_kind(&resources, "NetworkPolicy")[0]["spec"]["ingress"];
    let admin = list(policy).find(|rule| rule["ports"][0]["port"] == "admin");
    assert_eq!(admin.unwrap()["from"], monitoring);
}

/// The probe and Prometheus ask by the name in the certificate; Prometheus under the job that the alerts have,
/// and not where nothing listens.
fn assert_asked_by_name(chart: &str, resources: &[Value], pod: &Pod, name: &str) {
    let alias = &pod.spec["hostAliases"][0];
    assert_eq!(alias["hostnames"][0], name, "{alias}");
    let monitor = &of_kind(resources, "PodMonitor")[0]["spec"];
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(endpoint["scheme"], "https");
    assert_eq!(endpoint["tlsConfig"]["serverName"], name);
    let labels = &of_kind(resources, "Deployment")[0]["spec"]["template"]["metadata"]["labels"];
    let job = monitor["jobLabel"].as_str().expect("a job of its own");
    let alerts = std::fs::read_to_string(tests().join("../deploy/prometheus/alerts.yaml")).unwrap();
    let job = format!("up{{job={}}}", labels[job]);
    assert!(alerts.contains(&job), "no alert is about {job}");

    let alone = rendered(chart, &json!({ "admin": { "podMonitor": true } })).unwrap_err();
    assert!(
        alone.contains("admin.podMonitor needs admin.expose"),
        "{alone}"
    );
}

/// The Secrets that the agent's chart asks for.
fn of_the_agent() -> Secrets {
    let secret = ["secret", "admin-token"].map(|file| (file, "c0ffee00c0ffee00".to_owned()));
    HashMap::from([
        ("culvert-agent-secret", HashMap::from(secret)),
        ("culvert-agent-admin", tls(&["agent.sddc.local"])),
    ])
}

#[test]
fn the_agent_s_chart_runs_an_agent_that_nobody_connects_to() {
    let values = json!({ "files": { "vmca.pem": world().authority.pem() } });
    let resources = rendered("culvert-agent", &values).unwrap();
    let pod = Pod::new(&resources, &of_the_agent());
    let checked = pod.check("culvert-agent", "agent.toml");
    assert!(checked.contains("drain = \"30s\""), "{checked}");
    assert!(pod.path("/etc/culvert/vmca.pem").exists());
    assert_confined(&pod.spec);
    assert!(of_kind(&resources, "Service").is_empty());
    let policy = &of_kind(&resources, "NetworkPolicy")[0]["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
    assert!(policy["ingress"].is_null(), "{policy}");
}

#[test]
fn an_agent_is_asked_from_other_pods_over_tls_and_for_the_token_alone() {
    let monitoring = json!([{ "podSelector": { "matchLabels": { "app": "prometheus" } } }]);
    let values = json!({
        "admin": { "expose": true, "privateCa": true, "podMonitor": true },
        "networkPolicy": { "adminFrom": monitoring },
    });
    let resources = rendered("culvert-agent", &values).unwrap();
    let pod = Pod::new(&resources, &of_the_agent());
    let checked = pod.check("culvert-agent", "agent.toml");
    assert!(checked.contains("listen = \"[::]:9902\""), "{checked}");
    assert!(checked.contains("token_file"), "{checked}");
    // Every command asks there, with the token and the authority: nobody listens, which is 1 and not 2.
    let output = pod.run("culvert-agent", &["status"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("https://agent.sddc.local:9902"), "{said}");
    assert_asked_by_name("culvert-agent", &resources, &pod, "agent.sddc.local");
    let policy = &of_kind(&resources, "NetworkPolicy")[0]["spec"]["ingress"];
    assert_eq!(
        policy,
        &json!([{ "ports": [{ "port": "admin" }], "from": monitoring }])
    );
}

/// The agent replaces the token: it stays in a volume, which one agent alone has.
#[test]
fn a_refresh_token_outlives_the_pod() {
    let config = "[relay]\nurl = \"wss://relay.example.com\"\n[oauth]\ngrant = \"refresh_token\"\n\
                  issuer = \"https://issuer.example.com\"\nclient_id = \"sddc-fra-1\"\n\
                  refresh_token_file = \"../../var/lib/culvert-agent/refresh-token\"\n\
                  [[endpoint]]\nname = \"vcenter\"\nupstream = \"https://vcenter.sddc.local\"\n\
                  [policy]\nfile = \"policy.toml\"\n";
    let claim = "culvert-agent-state";
    let values = json!({ "state": claim, "secret": "", "config": config });
    let resources = rendered("culvert-agent", &values).unwrap();
    let pod = Pod::new(&resources, &of_the_agent());
    let token = pod.path("/var/lib/culvert-agent/refresh-token");
    std::fs::create_dir_all(token.parent().unwrap()).unwrap();
    culvert_demo::files::write_private(&token, "a-token").unwrap();
    pod.check("culvert-agent", "agent.toml");
    let deployment = of_kind(&resources, "Deployment")[0];
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({ "type": "Recreate" })
    );
    assert_confined(&pod.spec);

    // What puts the first one there is who the agent is, in the same volume.
    let first = rendered("refresh-token.yaml", &json!({})).unwrap();
    assert_eq!(
        of_kind(&first, "PersistentVolumeClaim")[0]["metadata"]["name"],
        claim
    );
    let first = &of_kind(&first, "Pod")[0]["spec"];
    assert_confined(first);
    assert_eq!(first["securityContext"], pod.spec["securityContext"]);
    let of_claim = |spec: &Value| {
        let volume = list(&spec["volumes"]).find(|volume| volume["name"] == "state");
        assert_eq!(volume.unwrap()["persistentVolumeClaim"]["claimName"], claim);
        let mut mounts = list(&spec["containers"][0]["volumeMounts"]);
        mounts.find(|mount| mount["name"] == "state").cloned()
    };
    assert_eq!(of_claim(first), of_claim(&pod.spec));

    let two = json!({ "state": claim, "replicas": 2 });
    let refused = rendered("culvert-agent", &two).unwrap_err();
    assert!(refused.contains("state is for one replica"), "{refused}");
}

/// A policy is changed without a restart, agent.toml is not.
#[test]
fn a_new_policy_starts_no_agent_anew_and_a_new_agent_toml_does() {
    let template = |values: Value| {
        let resources = rendered("culvert-agent", &values).unwrap();
        of_kind(&resources, "Deployment")[0]["spec"]["template"].clone()
    };
    let before = template(json!({}));
    assert_eq!(before, template(json!({ "policy": "version = 1\n" })));
    assert_eq!(before, template(json!({ "files": { "ca.pem": "x" } })));
    assert_ne!(before, template(json!({ "config": "[relay]\n" })));
}

/// Helm itself would pass over it, and the administrator believe that it counts.
#[test]
fn a_value_that_a_chart_does_not_have_is_refused() {
    for (chart, values) in [
        ("culvert-relay", json!({ "admin": { "exposed": true } })),
        ("culvert-relay", json!({ "replicas": "three" })),
        ("culvert-agent", json!({ "polcy": "version = 1" })),
    ] {
        let refused = rendered(chart, &values).unwrap_err();
        assert!(refused.contains("HelmValuesError"), "{refused}");
    }
}
