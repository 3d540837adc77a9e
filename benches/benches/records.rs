//! What TLS records cost, sealed and opened, by each implementation that `tls::provider` chooses
//! from.
//!
//! `cargo bench -p culvert-bench --bench records`

use std::io::{Read, Write};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::PrivateKeyDer;

/// Two ends of one connection, after the handshake.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
    bytes: Vec<u8>,
}

impl Pair {
    fn new(provider: CryptoProvider) -> Self {
        let provider = Arc::new(provider);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["relay.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let name = "relay.test".try_into().unwrap();
        let mut pair = Self {
            client: ClientConnection::new(Arc::new(client), name).unwrap(),
            server: ServerConnection::new(Arc::new(server)).unwrap(),
            bytes: Vec::new(),
        };
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            pair.carry();
            while pair.server.wants_write() {
                pair.bytes.clear();
                pair.server.write_tls(&mut pair.bytes).unwrap();
                pair.client.read_tls(&mut pair.bytes.as_slice()).unwrap();
                pair.client.process_new_packets().unwrap();
            }
        }
        pair
    }

    /// What the client has to send, to the server.
    fn carry(&mut self) {
        while self.client.wants_write() {
            self.bytes.clear();
            self.client.write_tls(&mut self.bytes).unwrap();
            let mut bytes = self.bytes.as_slice();
            while !bytes.is_empty() {
                self.server.read_tls(&mut bytes).unwrap();
                self.server.process_new_packets().unwrap();
            }
        }
    }
}

fn records(c: &mut Criterion) {
    let implementations = [
        (
            "aws-lc",
            rustls::crypto::aws_lc_rs::default_provider as fn() -> CryptoProvider,
        ),
        ("ring", rustls::crypto::ring::default_provider),
    ];
    let mut group = c.benchmark_group("records");
    for size in [256, 1024, 16 * 1024] {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, provider) in implementations {
            let mut pair = Pair::new(provider());
            let plain = vec![7; size];
            let mut read = vec![0; size];
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    pair.client.writer().write_all(&plain).unwrap();
                    pair.carry();
                    pair.server.reader().read_exact(&mut read).unwrap();
                });
            });
            assert_eq!(read, plain);
        }
    }
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
