//! What TLS trusts and shows, as a rustls client configuration.
//!
//! Files are looked at for each connection attempt and read again if they have
//! changed, so rotating a certificate needs no restart and no reload. Meanwhile
//! the configuration is kept: the system's roots alone take hundreds of files to
//! read, and with it TLS sessions are resumed, which spares a metered link the
//! certificates. Nothing here can switch verification off.
//!
//! Certificates are judged by a time that is never before the day this program
//! was built: a gateway without a clock battery wakes in 1970, where every
//! certificate is "not yet valid", and could never get out to learn the time.
//!
//! Every failure says what to do. [`TlsError`] has one variant per thing that a
//! person can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::clock::{Clock, ClockTrust};
use crate::config::Tls;

/// The start of the day this program was built, seconds since 1970; 0 if the build did not say.
pub const BUILD_UNIX_S: u64 = parse_decimal(env!("SONDE_BUILD_UNIX_S"));

/// A PEM file longer than this is not one: the system's whole root bundle has 0.3 MB.
const MAX_PEM: u64 = 4 << 20;

/// Why there is no TLS connection.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read.
    Unreadable {
        /// `CA file`, `client certificate` or `client key`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file was read, but it holds not what it should.
    BadPem {
        /// `CA file`, `client certificate` or `client key`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system has no root certificates.
    NoRoots(String),
    /// Certificate and key are both readable but do not belong together, or only one is set.
    KeyMismatch(String),
    /// The host in the configuration can be in no certificate.
    BadName(String),
    /// The server's certificate is for somebody else.
    NameMismatch {
        /// Whom we wanted.
        host: String,
        /// Whom it names, as far as known.
        presented: String,
    },
    /// The server's certificate has run out.
    Expired {
        /// Whose.
        host: String,
        /// For how many seconds, as far as known.
        for_s: Option<u64>,
    },
    /// The server's certificate is from the future: most likely our clock is behind.
    NotYetValid {
        /// Whose.
        host: String,
    },
    /// Nobody we trust signed it.
    UnknownIssuer {
        /// Whose.
        host: String,
        /// The roots that were used; `None`: the system's.
        ca_file: Option<PathBuf>,
    },
    /// The server wants a client certificate and we have shown none.
    ClientCertificateWanted {
        /// Who.
        host: String,
    },
    /// The server did not like the client certificate that we showed.
    ClientCertificateRefused {
        /// Who.
        host: String,
        /// Its alert.
        alert: String,
    },
    /// The other side does not speak TLS.
    NotTls {
        /// Who.
        host: String,
    },
    /// The rest of what can go wrong in a handshake.
    Handshake {
        /// With whom.
        host: String,
        /// What rustls said.
        error: String,
    },
}

/// Configurations that were made last, one for each uplink at most.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// As many as there are uplinks.
const MAX_KEPT: usize = 2;

/// Read again after this long in any case: not every store of roots has a stamp that tells.
const MAX_AGE_NS: u64 = 86_400 * 1_000_000_000;

/// Sessions remembered per configuration; an uplink has one server.
const SESSIONS: usize = 2;

/// Where distributions keep their roots.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// When each file was changed, and its length.
type FileStamps = Vec<Option<(SystemTime, u64)>>;

struct Kept {
    tls: Tls,
    stamps: FileStamps,
    /// By the clock that counts suspend, too.
    made_ns: u64,
    config: Arc<ClientConfig>,
}

/// The configuration for the files that `tls` names, as they are now.
///
/// Blocks for as long as the files take to read: local flash, milliseconds.
pub fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    // Before reading: a change in between is seen the next time.
    let stamps = stamps(tls);
    let now_ns = Clock::new(ClockTrust::Always).boot_ns();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = |kept: &&Kept| {
        kept.tls == *tls
            && kept.stamps == stamps
            && now_ns.saturating_sub(kept.made_ns) < MAX_AGE_NS
    };
    if let Some(found) = kept.iter().find(fresh) {
        return Ok(Arc::clone(&found.config));
    }
    kept.retain(|kept| kept.tls != *tls);
    let config = read_config(tls)?;
    if kept.len() >= MAX_KEPT {
        kept.remove(0);
    }
    kept.push(Kept {
        tls: tls.clone(),
        stamps,
        made_ns: now_ns,
        config: Arc::clone(&config),
    });
    Ok(config)
}

fn stamps(tls: &Tls) -> FileStamps {
    let stamp = |path: &Path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    let own = [&tls.ca_file, &tls.cert_file, &tls.key_file];
    let mut stamps: FileStamps = own.into_iter().flatten().map(|path| stamp(path)).collect();
    if tls.ca_file.is_none() {
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
        let named = named.into_iter().filter_map(std::env::var_os);
        stamps.extend(named.map(|path| stamp(Path::new(&path))));
        stamps.extend(SYSTEM_ROOTS.map(|path| stamp(Path::new(path))));
    }
    stamps
}

/// Reads the files and makes a configuration of them.
fn read_config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(FlooredTime))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Handshake {
            host: "any server".into(),
            error: error.to_string(),
        })?
        .with_root_certificates(roots(tls)?);
    let mut config = match (&tls.cert_file, &tls.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("client certificate", cert)?, private_key(key)?)
            .map_err(|error| {
                TlsError::KeyMismatch(format!(
                    "{} and {} do not belong together ({error})",
                    cert.display(),
                    key.display()
                ))
            })?,
        (Some(only), None) => return Err(half(only, "key_file")),
        (None, Some(only)) => return Err(half(only, "cert_file")),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// What a failed handshake, read or write on a TLS connection means, if TLS is to blame.
///
/// In TLS 1.3 a server that wants a client certificate says so after the
/// handshake, as an error of the first read; so callers ask here then, too.
pub fn explain(error: &io::Error, host: &str, tls: &Tls) -> Option<TlsError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let host = host.to_owned();
    Some(match error {
        rustls::Error::InvalidCertificate(bad) => explain_certificate(bad, host, tls),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert, host, tls),
        rustls::Error::InvalidMessage(_) => TlsError::NotTls { host },
        other => TlsError::Handshake {
            host,
            error: other.to_string(),
        },
    })
}

fn explain_certificate(bad: &CertificateError, host: String, tls: &Tls) -> TlsError {
    match bad {
        CertificateError::NotValidForName => TlsError::NameMismatch {
            host,
            presented: String::new(),
        },
        CertificateError::NotValidForNameContext { presented, .. } => TlsError::NameMismatch {
            host,
            presented: presented.join(", "),
        },
        CertificateError::Expired => TlsError::Expired { host, for_s: None },
        CertificateError::ExpiredContext { time, not_after } => TlsError::Expired {
            host,
            for_s: time.as_secs().checked_sub(not_after.as_secs()),
        },
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsError::NotYetValid { host }
        }
        // The latter two: a root of the right name but with another key.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            TlsError::UnknownIssuer {
                host,
                ca_file: tls.ca_file.clone(),
            }
        }
        // What `openssl req -x509` makes by default, so the first thing people try.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => TlsError::Handshake {
            host,
            error: "it shows a CA's certificate as its own; give it a server certificate signed by that CA (`basicConstraints = CA:FALSE`)".into(),
        },
        other => TlsError::Handshake {
            host,
            error: format!("its certificate was not accepted: {other}"),
        },
    }
}

fn explain_alert(alert: AlertDescription, host: String, tls: &Tls) -> TlsError {
    use AlertDescription as A;
    let about_certificates = matches!(
        alert,
        A::CertificateRequired
            | A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::HandshakeFailure
    );
    match (about_certificates, &tls.cert_file) {
        // With TLS 1.2, OpenSSL answers a missing client certificate with a bare handshake_failure.
        (true, None) => TlsError::ClientCertificateWanted { host },
        (true, Some(_)) => TlsError::ClientCertificateRefused {
            host,
            alert: format!("{alert:?}"),
        },
        (false, _) => TlsError::Handshake {
            host,
            error: format!("the server ended it with the alert {alert:?}"),
        },
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &tls.ca_file {
        let found = certificates("CA file", path)?;
        let (added, bad) = store.add_parsable_certificates(found);
        return if added == 0 {
            Err(TlsError::BadPem {
                what: "CA file",
                path: path.clone(),
                why: format!("none of its {bad} certificates can serve as a root"),
            })
        } else {
            Ok(store)
        };
    }
    let found = rustls_native_certs::load_native_certs();
    let (added, bad) = store.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(store);
    }
    let mut why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    if bad > 0 {
        why.push(format!("{bad} certificates could not be understood"));
    }
    Err(TlsError::NoRoots(why.join("; ")))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let bad = |why: String| TlsError::BadPem {
        what,
        path: path.to_owned(),
        why,
    };
    match found {
        Ok(list) if list.is_empty() => Err(bad("it has no `-----BEGIN CERTIFICATE-----`".into())),
        Ok(list) => Ok(list),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "client key";
    let text = read(what, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| TlsError::BadPem {
        what,
        path: path.to_owned(),
        // The error's own words could quote the file; a key must not end up in a log.
        why: match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "it has no unencrypted `PRIVATE KEY` section".into()
            }
            _ => "it is not well-formed PEM".into(),
        },
    })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        what,
        path: path.to_owned(),
        error,
    };
    let about = std::fs::metadata(path).map_err(unreadable)?;
    // A fifo would block for good, and a device file has no end.
    if !about.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    if about.len() > MAX_PEM {
        return Err(TlsError::BadPem {
            what,
            path: path.to_owned(),
            why: format!("with {} bytes it is too long to be a PEM file", about.len()),
        });
    }
    std::fs::read(path).map_err(unreadable)
}

fn half(given: &Path, missing: &str) -> TlsError {
    TlsError::KeyMismatch(format!(
        "{} is set but `{missing}` is not; a client certificate needs both",
        given.display()
    ))
}

/// The wall clock, but never before the day this program was built.
#[derive(Debug)]
struct FlooredTime;

impl TimeProvider for FlooredTime {
    fn current_time(&self) -> Option<UnixTime> {
        let wall_s = Clock::new(ClockTrust::Always).now().unix_ns / 1_000_000_000;
        Some(floored(wall_s))
    }
}

fn floored(wall_s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(wall_s.max(BUILD_UNIX_S)))
}

const fn parse_decimal(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(value) => value,
        Err(_) => 0,
    }
}

impl std::error::Error for TlsError {}

impl TlsError {
    /// Whether the other side wants another client certificate than it was shown.
    pub fn is_about_our_certificate(&self) -> bool {
        matches!(
            self,
            Self::ClientCertificateWanted { .. } | Self::ClientCertificateRefused { .. }
        )
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { what, path, error } => write!(
                f,
                "cannot read the {what} {}: {error}; check the path in `tls` and that sonde's user may read it",
                path.display()
            ),
            Self::BadPem { what, path, why } => write!(
                f,
                "the {what} {} is not usable PEM: {why}; replace it",
                path.display()
            ),
            Self::NoRoots(why) if why.is_empty() => f.write_str(
                "this system has no root certificates; install its `ca-certificates` package or set `ca_file`",
            ),
            Self::NoRoots(why) => write!(
                f,
                "this system's root certificates cannot be used ({why}); install its `ca-certificates` package or set `ca_file`"
            ),
            Self::KeyMismatch(why) => write!(f, "client certificate: {why}; check `cert_file` and `key_file`"),
            Self::BadName(host) => write!(
                f,
                "`{host}` is neither a DNS name nor an address, so no certificate can be for it; check `endpoint`"
            ),
            Self::NameMismatch { host, presented } if presented.is_empty() => write!(
                f,
                "the server's certificate is not for `{host}`; use the name it was issued for in `endpoint`, or have it reissued"
            ),
            Self::NameMismatch { host, presented } => write!(
                f,
                "the server's certificate is for {presented}, not for `{host}`; use such a name in `endpoint`, or have it reissued"
            ),
            Self::Expired { host, for_s: None } => write!(
                f,
                "the certificate of `{host}` has expired; renew it there, or check this machine's clock"
            ),
            Self::Expired { host, for_s: Some(for_s) } => write!(
                f,
                "the certificate of `{host}` expired {} ago; renew it there, or check this machine's clock",
                Age(*for_s)
            ),
            Self::NotYetValid { host } => write!(
                f,
                "the certificate of `{host}` is not valid yet; this machine's clock is probably behind"
            ),
            Self::UnknownIssuer { host, ca_file: None } => write!(
                f,
                "the certificate of `{host}` was signed by nobody this system trusts; if that is a CA of your own, set `ca_file` to its certificate"
            ),
            Self::UnknownIssuer { host, ca_file: Some(path) } => write!(
                f,
                "the certificate of `{host}` was not signed by a root in {}; put the right CA certificate there",
                path.display()
            ),
            Self::ClientCertificateWanted { host } => write!(
                f,
                "`{host}` demands a client certificate; set `cert_file` and `key_file`"
            ),
            Self::ClientCertificateRefused { host, alert } => write!(
                f,
                "`{host}` refused our client certificate ({alert}); check that it has not expired and that the server trusts its CA"
            ),
            Self::NotTls { host } => write!(
                f,
                "what answers at `{host}` does not speak TLS; check the port, or the scheme in `endpoint`"
            ),
            Self::Handshake { host, error } => write!(f, "TLS with `{host}` failed: {error}"),
        }
    }
}

/// Seconds in the largest unit that says enough.
struct Age(u64);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s @ 0..120 => write!(f, "{s} s"),
            s @ 120..7_200 => write!(f, "{} min", s / 60),
            s @ 7_200..172_800 => write!(f, "{} h", s / 3_600),
            s => write!(f, "{} days", s / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_is_lifted_to_the_build_and_a_right_one_is_believed() {
        const { assert!(BUILD_UNIX_S > 1_700_000_000) };
        assert_eq!(floored(12).as_secs(), BUILD_UNIX_S);
        let later = BUILD_UNIX_S + 1_000_000;
        assert_eq!(floored(later).as_secs(), later);
    }

    #[test]
    fn half_a_client_certificate_is_refused_and_the_missing_half_named() {
        let dir = tempfile::tempdir().unwrap();
        let ca = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, ca.cert.pem()).unwrap();
        let tls = Tls {
            ca_file: Some(ca_file.clone()),
            cert_file: Some(ca_file),
            key_file: None,
        };
        let error = client_config(&tls).unwrap_err();
        assert!(error.to_string().contains("`key_file` is not"), "{error}");
    }

    #[test]
    fn a_key_is_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        std::fs::write(
            &key,
            "-----BEGIN PRIVATE KEY-----\nsekret!\n-----END PRIVATE KEY-----\n",
        )
        .unwrap();
        let error = private_key(&key).unwrap_err();
        assert!(matches!(error, TlsError::BadPem { .. }));
        assert!(!format!("{error} {error:?}").contains("sekret"), "{error}");
    }

    #[test]
    fn a_folder_and_a_huge_file_are_no_pem() {
        let dir = tempfile::tempdir().unwrap();
        let error = read("CA file", dir.path()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let huge = dir.path().join("huge");
        std::fs::File::create(&huge)
            .unwrap()
            .set_len(MAX_PEM + 1)
            .unwrap();
        assert!(matches!(
            read("CA file", &huge),
            Err(TlsError::BadPem { .. })
        ));
    }

    #[test]
    fn a_configuration_is_kept_until_one_of_its_files_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let write = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            std::fs::write(&path, made.cert.pem()).unwrap();
        };
        write("short");
        let tls = Tls {
            ca_file: Some(path.clone()),
            ..Tls::default()
        };
        // Other tests use the places, too, and may push ours out in between.
        let again = || Arc::ptr_eq(&client_config(&tls).unwrap(), &client_config(&tls).unwrap());
        assert!((0..100).any(|_| again()), "kept");
        let stamped = stamps(&tls);
        let first = client_config(&tls).unwrap();
        write("a-longer-name.example.org");
        assert_ne!(stamps(&tls), stamped);
        assert!(!Arc::ptr_eq(&first, &client_config(&tls).unwrap()));
        std::fs::remove_file(&path).unwrap();
        client_config(&tls).unwrap_err();
    }
}
