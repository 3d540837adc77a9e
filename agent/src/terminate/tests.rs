//! What callers are shown: given certificates, and leaves made on demand.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_config::terminate::Terminate;
use culvert_proto::connect_name::ConnectName;
use culvert_session::tls::{ServerTrust, TlsMin, client_tls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::call::declared;
use super::issuer::{Issuer, NoLeaf};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Writes a CA that is good for so long; gives its certificate.
fn write_ca(folder: &Path, life: Duration) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example Gr\u{fc}n");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + life).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("ca.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

fn names(names: &[&str]) -> Vec<ConnectName> {
    let parse = |name: &&str| ConnectName::parse(name).unwrap();
    names.iter().map(parse).collect()
}

fn issuer(folder: &Path, declared: &[&str]) -> Issuer {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    Issuer::load(&certificate, &key, &names(declared)).unwrap()
}

/// What a client that trusts this CA, and no other, is shown under a name.
fn shown(
    server: Arc<ServerConfig>,
    ca: &CertificateDer<'static>,
    name: &str,
) -> Result<CertificateDer<'static>, rustls::Error> {
    let config = client_tls(&ServerTrust::Ca(vec![ca.clone()]), TlsMin::V12).unwrap();
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        server.read_tls(&mut flight.as_slice()).unwrap();
        server.process_new_packets()?;
        flight.clear();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut flight = flight.as_slice();
        while !flight.is_empty() {
            client.read_tls(&mut flight).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(client.peer_certificates().unwrap()[0].clone().into_owned())
}

#[test]
fn a_leaf_is_for_one_declared_name_short_lived_and_kept_until_it_is_half_used_up() {
    let folder = tempfile::tempdir().unwrap();
    let ca = write_ca(folder.path(), 365 * 24 * HOUR);
    let issuer = issuer(folder.path(), &["vcenter.sddc.local:443", "10.0.0.7:443"]);
    let now = SystemTime::now();
    let tls = issuer.config_for("vcenter.sddc.local", now).unwrap();
    let der = shown(tls.clone(), &ca, "vcenter.sddc.local").unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        san.value.general_names,
        [GeneralName::DNSName("vcenter.sddc.local")]
    );
    let validity = leaf.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(life, 25 * 3600);
    assert!(validity.is_valid() && !leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);

    let later = issuer
        .config_for("vcenter.sddc.local", now + 11 * HOUR)
        .unwrap();
    assert!(Arc::ptr_eq(&later, &tls));
    let renewed = issuer
        .config_for("vcenter.sddc.local", now + 13 * HOUR)
        .unwrap();
    assert!(!Arc::ptr_eq(&renewed, &tls));

    let address = issuer.config_for("10.0.0.7", now).unwrap();
    shown(address, &ca, "10.0.0.7").unwrap();
    for stranger in ["nsx.sddc.local", "sddc.local", "", "*.sddc.local"] {
        let refused = issuer.config_for(stranger, now);
        assert!(matches!(refused, Err(NoLeaf::Name)), "{stranger}");
    }
}

#[test]
fn a_host_is_spelled_as_it_was_declared() {
    let declared_names = names(&["vc.local:443", "vc.local:8443", "[fd00::1]:443"]);
    let found = |host| declared(&declared_names, host).map(ConnectName::as_str);
    for (host, name) in [
        ("vc.local", "vc.local:443"),
        ("vc.local:443", "vc.local:443"),
        ("vc.local:8443", "vc.local:8443"),
        ("[fd00::1]", "[fd00::1]:443"),
    ] {
        assert_eq!(found(host), Some(name));
    }
    for host in [
        "vc.local.",
        "vc.local.:443",
        "vc.local:0443",
        "vc.local:",
        "vc",
        "[fd00:0::1]",
    ] {
        assert_eq!(found(host), None, "{host}");
    }
}

#[test]
fn no_leaf_outlives_its_ca() {
    let folder = tempfile::tempdir().unwrap();
    let ca = write_ca(folder.path(), 2 * HOUR);
    let issuer = issuer(folder.path(), &["vc.local:443"]);
    let now = SystemTime::now();
    let der = shown(issuer.config_for("vc.local", now).unwrap(), &ca, "vc.local").unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let (_, parent) = X509Certificate::from_der(&ca).unwrap();
    assert_eq!(leaf.validity().not_after, parent.validity().not_after);
    let after = issuer.config_for("vc.local", now + 3 * HOUR);
    assert!(matches!(after, Err(NoLeaf::Expired)));
}

#[test]
fn files_are_read_again_when_they_change_and_bad_ones_keep_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |names: &[&str]| {
        let identity = crate::testing::Identity::new(names);
        // A new file in the old one's place, as certificate tools do it.
        for (name, text) in [("new.pem", &*identity.pem), ("new.key", identity.key_pem())] {
            std::fs::write(at(name), text).unwrap();
        }
        std::fs::rename(at("new.key"), at("vc.key")).unwrap();
        std::fs::rename(at("new.pem"), at("vc.pem")).unwrap();
        CertificateDer::from_pem_slice(identity.pem.as_bytes()).unwrap()
    };
    let old = write(&["vc.local", "alias.local"]);
    let written = Terminate::Certificate {
        certificate: at("vc.pem"),
        private_key: at("vc.key"),
    };
    let declared = names(&["vc.local:443", "alias.local:443"]);
    let identity = Identity::load(&written, &declared).unwrap();
    let current = |trusted: &CertificateDer<'static>| {
        shown(
            identity.config_for("vc.local").unwrap(),
            trusted,
            "vc.local",
        )
    };
    assert_eq!(current(&old).unwrap(), old);
    // It lacks a name.
    write(&["vc.local"]);
    identity.look(false);
    assert_eq!(current(&old).unwrap(), old);
    let new = write(&["vc.local", "alias.local"]);
    identity.look(false);
    assert_eq!(current(&new).unwrap(), new);
    std::fs::write(at("vc.key"), "no key").unwrap();
    identity.look(true);
    assert_eq!(current(&new).unwrap(), new);
}
