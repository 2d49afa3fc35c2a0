//! Certificates made for one test run: an authority, a server, a client, and
//! the ones that must not be believed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// A certificate and its key as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The chain.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Everything that a test of TLS needs, in one folder.
#[derive(Debug)]
pub struct Certs {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// For `localhost` and 127.0.0.1.
    pub server: Pair,
    /// Signed by the same authority, for clients.
    pub client: Pair,
    /// For `localhost`, ended in 2021.
    pub expired: Pair,
    /// For `elsewhere.invalid` only.
    pub wrong_name: Pair,
    /// An authority that signed none of these.
    pub other_ca: PathBuf,
}

impl Certs {
    /// Makes them all in `dir`.
    ///
    /// # Panics
    /// When a file cannot be written: a test cannot go on without.
    pub fn make(dir: &Path) -> Self {
        let (ca, issuer) = authority(dir, "ca");
        let (other_ca, _) = authority(dir, "other-ca");
        let local = [
            SanType::DnsName("localhost".try_into().unwrap()),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        let elsewhere = [SanType::DnsName("elsewhere.invalid".try_into().unwrap())];
        let server = leaf("localhost", &local, ExtendedKeyUsagePurpose::ServerAuth);
        let mut expired = server.clone();
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        let client = leaf("gateway", &[], ExtendedKeyUsagePurpose::ClientAuth);
        let wrong = leaf("elsewhere", &elsewhere, ExtendedKeyUsagePurpose::ServerAuth);
        Self {
            ca,
            other_ca,
            server: sign(dir, "server", &server, &issuer),
            client: sign(dir, "client", &client, &issuer),
            expired: sign(dir, "expired", &expired, &issuer),
            wrong_name: sign(dir, "wrong-name", &wrong, &issuer),
        }
    }

    /// What a server shows; `mutual` also demands a client certificate of this authority.
    ///
    /// # Panics
    /// When the files are not what [`Certs::make`] wrote.
    pub fn server_config(&self, pair: &Pair, mutual: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(&self.ca).unwrap())
                .unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = CertificateDer::pem_file_iter(&pair.cert)
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

fn authority(dir: &Path, name: &str) -> (PathBuf, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Sonde test {name}"));
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let path = dir.join(format!("{name}.pem"));
    std::fs::write(&path, cert.pem()).unwrap();
    (path, Issuer::new(params, key))
}

fn leaf(name: &str, names: &[SanType], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn sign(
    dir: &Path,
    name: &str,
    params: &CertificateParams,
    issuer: &Issuer<'static, KeyPair>,
) -> Pair {
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, issuer).unwrap();
    let pair = Pair {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    };
    std::fs::write(&pair.cert, signed.pem()).unwrap();
    std::fs::write(&pair.key, key.serialize_pem()).unwrap();
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::time::Duration;

    /// What a client that trusts `ca` says of a server's certificate for `localhost` in 2030.
    fn check(ca: &Path, pair: &Pair) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(ca).unwrap())
            .unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(rustls::crypto::ring::default_provider()),
        )
        .build()
        .unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
        let name = ServerName::try_from("localhost").unwrap();
        let cert = CertificateDer::from_pem_file(&pair.cert).unwrap();
        verifier
            .verify_server_cert(&cert, &[], &name, &[], now)
            .map(drop)
            .map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn only_the_right_certificate_is_believed_and_each_other_fails_for_its_own_reason() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::make(dir.path());
        check(&certs.ca, &certs.server).unwrap();
        for (ca, pair, why) in [
            (&certs.ca, &certs.expired, "Expired"),
            (&certs.ca, &certs.wrong_name, "NotValidForName"),
            (&certs.other_ca, &certs.server, "UnknownIssuer"),
        ] {
            let error = check(ca, pair).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn servers_can_be_made_of_every_pair() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::make(dir.path());
        for pair in [&certs.server, &certs.expired, &certs.wrong_name] {
            certs.server_config(pair, false);
            certs.server_config(pair, true);
        }
    }
}
