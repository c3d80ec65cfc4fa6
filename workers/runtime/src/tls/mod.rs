//! TLS of connections to servers: the certificate authorities that are trusted, and the client's
//! own certificate.
//!
//! OpenSSL checks the certificates of all servers except the object store's.

mod names;

use std::{
    fmt,
    net::{TcpStream, ToSocketAddrs as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use openssl::{
    pkey::PKey,
    ssl::{HandshakeError, SslConnector, SslConnectorBuilder, SslContextBuilder, SslMethod},
    x509::{X509, store::X509StoreBuilder, verify::X509VerifyFlags},
};
use pinpipe_config::TrustedCa;

pub use self::names::RefusedCertificate;

/// The public certificate authorities, in the workers' images and in Debian.
pub const PUBLIC_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long each step of a handshake that looks for a certificate's fault may take.
const HANDSHAKE_STEP: Duration = Duration::from_secs(2);

/// The PEM texts of a TLS client.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Certificates of the authorities that are trusted. None: the public ones, and those of
    /// [`Self::trusted`].
    pub ca: Option<String>,
    /// Certificates of authorities that are trusted besides the public ones.
    pub trusted: Option<String>,
    /// The client's certificate chain and private key.
    pub certificate: Option<(String, String)>,
}

/// Debug output without certificates and the private key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads a configuration's files by `read`. Errors name the file, or the field of the Secret
    /// whose content can't be used.
    pub fn from_files(
        config: &pinpipe_config::Tls,
        read: &dyn Fn(&Path) -> Result<String>,
    ) -> Result<Self> {
        let ca = config.ca_file.as_deref().map(read).transpose()?;
        let trusted = config.trusted_ca.as_ref().filter(|_| ca.is_none());
        let trusted = trusted.map(|trusted| self::trusted(trusted, read));
        let folder = config.certificate_dir.as_ref();
        let certificate = folder.map(|folder| {
            let file = |name: &str| read(&folder.join(name));
            anyhow::Ok((file("tls.crt")?, file("tls.key")?))
        });
        let tls = Self {
            ca,
            trusted: trusted.transpose()?,
            certificate: certificate.transpose()?,
        };
        tls.connector()?;
        Ok(tls)
    }

    /// A connector that checks the server's certificate and name. The error names what can't be
    /// used, and never quotes it.
    pub fn connector(&self) -> Result<SslConnectorBuilder> {
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        if let Some(ca) = &self.ca {
            let mut store = X509StoreBuilder::new()?;
            for certificate in certificates(ca, "caSecretRef")? {
                store.add_cert(certificate)?;
            }
            connector.set_cert_store(store.build());
        } else {
            if Path::new(PUBLIC_CAS).is_file() {
                connector.set_ca_file(PUBLIC_CAS)?;
            }
            if let Some(trusted) = &self.trusted {
                for certificate in certificates(trusted, "trustedCASecretRef")? {
                    connector.cert_store_mut().add_cert(certificate)?;
                }
            }
        }
        if let Some((chain, key)) = &self.certificate {
            set_certificate(&mut connector, chain, key, "clientCertificateSecretRef")?;
        }
        Ok(connector)
    }

    /// What is wrong with the certificate of the server at `host:port`, after a client has refused
    /// it without saying why. Blocks for some seconds at most.
    #[must_use]
    pub fn certificate_fault(&self, address: &str) -> Option<String> {
        let (host, _) = address.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        let found = address.to_socket_addrs().ok()?.next()?;
        let stream = TcpStream::connect_timeout(&found, HANDSHAKE_STEP).ok()?;
        stream.set_read_timeout(Some(HANDSHAKE_STEP)).ok()?;
        stream.set_write_timeout(Some(HANDSHAKE_STEP)).ok()?;
        match self.connector().ok()?.build().connect(host, stream) {
            Err(HandshakeError::Failure(failed)) => {
                fault(failed.ssl().verify_result().error_string())
            }
            _ => None,
        }
    }
}

/// A connector that trusts one server's certificate alone, PEM, whoever issued it. The name in it
/// is left to the caller.
pub fn connector_for_certificate(pem: &str) -> Result<SslConnectorBuilder> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    let mut store = X509StoreBuilder::new()?;
    // The first is the server's own; those of its issuers follow.
    if let Some(own) = certificates(pem, "tls.crt")?.into_iter().next() {
        store.add_cert(own)?;
    }
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    connector.set_cert_store(store.build());
    Ok(connector)
}

/// Sets one's own certificate chain and private key, PEM each, of the Secret that the field `of`
/// names. The error names the key that can't be used, and never quotes it.
pub(crate) fn set_certificate(
    context: &mut SslContextBuilder,
    chain: &str,
    key: &str,
    of: &str,
) -> Result<()> {
    let mut chain = certificates(chain, &format!("tls.crt of {of}"))?.into_iter();
    if let Some(own) = chain.next() {
        context.set_certificate(&own)?;
    }
    for issuer in chain {
        context.add_extra_chain_cert(issuer)?;
    }
    let key = PKey::private_key_from_pem(key.as_bytes())
        .with_context(|| format!("tls.key of {of} is no private key in PEM"))?;
    context
        .set_private_key(&key)
        .with_context(|| format!("tls.key of {of} is not the key of its tls.crt"))
}

/// Reads by `read` certificates of authorities that are trusted besides the public ones. Errors
/// name the Secret and its key.
pub fn trusted(config: &TrustedCa, read: &dyn Fn(&Path) -> Result<String>) -> Result<String> {
    let of = format!("{} (trustedCASecretRef)", config.secret);
    let pem = read(&config.file).with_context(|| of.clone())?;
    certificates(&pem, &of)?;
    Ok(pem)
}

fn certificates(pem: &str, of: &str) -> Result<Vec<X509>> {
    let certificates = X509::stack_from_pem(pem.as_bytes()).unwrap_or_default();
    ensure!(
        !certificates.is_empty(),
        "{of} has no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----"
    );
    Ok(certificates)
}

/// What is wrong with a certificate, and what to do, by OpenSSL's sentence within an error.
/// Completes "the server's certificate …". The sentences are those of
/// `X509_verify_cert_error_string`.
#[must_use]
pub fn fault(error: &str) -> Option<String> {
    let says = |sentences: &[&'static str]| {
        let mut sentences = sentences.iter().copied();
        sentences.find(|sentence| error.contains(sentence))
    };
    let period = ["certificate has expired", "certificate is not yet valid"];
    if let Some(says) = says(&period) {
        return Some(format!(
            "can't be accepted: {says}; renew it, and check the clocks"
        ));
    }
    let authority = [
        "self-signed certificate in certificate chain",
        "self-signed certificate",
        "unable to get local issuer certificate",
        "unable to verify the first certificate",
    ];
    if let Some(says) = says(&authority) {
        return Some(format!(
            "is of an unknown authority: {says}; set caSecretRef to the certificate of the \
             authority that issued it, or add it to what trustedCASecretRef names"
        ));
    }
    let says = says(&["hostname mismatch", "IP address mismatch"])?;
    Some(format!(
        "is not for the host name that is connected to: {says}; connect to a name that the \
         certificate has"
    ))
}
