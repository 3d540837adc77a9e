//! The one cryptography provider of the product.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::{CipherSuite, SupportedCipherSuite};

/// The cryptography provider of all connections but those to issuers, which use aws-lc-rs as it is
/// (`identity` knows no sessions). Passed explicitly, never the process default, which any dependency
/// could set.
///
/// It is aws-lc-rs. Where the processor encrypts two blocks by one instruction, the cipher suites
/// with AES-GCM are ring's: aws-lc knows how to use such instructions for one block, and for four
/// (ADR 8).
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(compose(two_blocks_at_once())));
    PROVIDER.clone()
}

/// Makes [`provider`] the process default as well, unless there is one: for a library that makes
/// TLS of its own and cannot be told whose cryptography to use.
pub fn install_provider() {
    // An error says that the default is set: by an earlier call.
    let _ = CryptoProvider::clone(&provider()).install_default();
}

fn compose(two_blocks_at_once: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if two_blocks_at_once {
        for suite in &mut provider.cipher_suites {
            if let Some(quicker) = gcm_of_ring(suite.suite()) {
                *suite = quicker;
            }
        }
    }
    provider
}

/// The implementation by ring, of a suite with AES-GCM.
fn gcm_of_ring(suite: CipherSuite) -> Option<SupportedCipherSuite> {
    let gcm = suite.as_str().is_some_and(|name| name.contains("_GCM_"));
    let mut suites = ring::ALL_CIPHER_SUITES.iter();
    suites.find(|other| gcm && other.suite() == suite).copied()
}

/// VAES in the registers of AVX2, and not of AVX-512: AMD Zen 3, Intel's processors for desktops.
#[cfg(target_arch = "x86_64")]
fn two_blocks_at_once() -> bool {
    let two = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    let four = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    two && !four
}

#[cfg(not(target_arch = "x86_64"))]
fn two_blocks_at_once() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rcgen::{CertificateParams, KeyPair, RsaKeySize};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::tls::{PinVerifier, pin_of};

    fn names(provider: &CryptoProvider) -> Vec<CipherSuite> {
        let suites = provider.cipher_suites.iter();
        suites.map(SupportedCipherSuite::suite).collect()
    }

    /// Who implements a suite: two implementations of one suite are equal, but not the same.
    fn address(suite: SupportedCipherSuite) -> *const () {
        match suite {
            SupportedCipherSuite::Tls12(suite) => std::ptr::from_ref(suite).cast(),
            SupportedCipherSuite::Tls13(suite) => std::ptr::from_ref(suite).cast(),
        }
    }

    /// The processor changes who encrypts, and neither what is offered nor in which order.
    #[test]
    fn what_is_offered_does_not_depend_on_the_processor() {
        let (plain, composed) = (compose(false), compose(true));
        assert_eq!(names(&plain), names(&composed));
        assert_eq!(
            format!("{:?}", plain.kx_groups),
            format!("{:?}", composed.kx_groups)
        );
        let mut of_ring = 0;
        for (plain, composed) in plain.cipher_suites.iter().zip(&composed.cipher_suites) {
            let gcm = plain.suite().as_str().unwrap().contains("GCM");
            assert_eq!(gcm, address(*plain) != address(*composed), "{plain:?}");
            of_ring += usize::from(gcm);
        }
        assert_eq!(of_ring, 6, "two of TLS 1.3, four of TLS 1.2");
    }

    /// Each suite of either implementation is understood by the other, in both versions of TLS.
    #[test]
    fn both_implementations_speak_to_each_other() {
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let (rsa, ec) = (identity(&rsa), identity(&KeyPair::generate().unwrap()));
        for suite in names(&compose(true)) {
            let with_rsa = suite.as_str().unwrap().contains("RSA");
            let identity = if with_rsa { &rsa } else { &ec };
            for (client, server) in [(false, true), (true, false), (true, true)] {
                exchange(suite, client, server, identity);
            }
        }
    }

    fn identity(key: &KeyPair) -> CertifiedKey {
        let params = CertificateParams::new(["relay.test".to_owned()]).unwrap();
        let certificate = params.self_signed(key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        CertifiedKey::from_der(vec![certificate.der().clone()], key, &compose(false)).unwrap()
    }

    /// A handshake with this suite alone, and 40 KB each way.
    fn exchange(suite: CipherSuite, client: bool, server: bool, identity: &CertifiedKey) {
        let provider = |by_ring| {
            let mut provider = compose(by_ring);
            let suites = &mut provider.cipher_suites;
            suites.retain(|other| other.suite() == suite);
            Arc::new(provider)
        };
        let versions = match provider(false).cipher_suites[0] {
            SupportedCipherSuite::Tls12(_) => [&TLS12],
            SupportedCipherSuite::Tls13(_) => [&TLS13],
        };
        let pinned = PinVerifier {
            pins: vec![pin_of(&identity.cert[0])],
            provider: provider(client),
        };
        let client = ClientConfig::builder_with_provider(provider(client))
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider(server))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.clone())));
        let name = "relay.test".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();

        let sent: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        client.writer().write_all(&sent).unwrap();
        server.writer().write_all(&sent).unwrap();
        let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
        while client.wants_write() || server.wants_write() {
            carry(&mut client, &mut server, &mut at_server);
            carry(&mut server, &mut client, &mut at_client);
        }
        assert_eq!(client.negotiated_cipher_suite().unwrap().suite(), suite);
        assert!(at_client == sent && at_server == sent, "{suite:?}");
    }

    /// What one end has to send, to the other.
    fn carry<A, B>(
        from: &mut rustls::ConnectionCommon<A>,
        to: &mut rustls::ConnectionCommon<B>,
        plain: &mut Vec<u8>,
    ) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets().unwrap();
            let mut piece = [0; 16 * 1024];
            while let Ok(len @ 1..) = to.reader().read(&mut piece) {
                plain.extend_from_slice(&piece[..len]);
            }
        }
    }
}
