//! TLS for TCP connections: the server's certificate, and the authority that signs the certificates of
//! clients.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::docker::args::Tls;

/// Reads all certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || format!("cannot read certificates from {}", path.display());
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.with_context(read)?;
    anyhow::ensure!(!all.is_empty(), "no certificate found in {}", path.display());
    Ok(all)
}

/// Makes an acceptor that accepts only clients whose certificate is signed by `ca`.
pub fn acceptor(Tls { cert, key, ca, .. }: &Tls) -> Result<TlsAcceptor> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots
            .add(certificate)
            .with_context(|| format!("{} is not a certificate authority", ca.display()))?;
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let read = || format!("cannot read a private key from {}", key.display());
    let secret = PrivateKeyDer::from_pem_file(key).with_context(read)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert)?, secret)
        .context("the certificate and the private key do not match")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
