//! Verification of certificates by the names that people know the servers by, for clients that know
//! them by address.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use openssl::{
    error::ErrorStack,
    ssl::{SslConnectorBuilder, SslVerifyMode},
    stack::Stack,
    x509::{
        X509Ref, X509StoreContext, X509StoreContextRef, X509VerifyResult,
        store::X509StoreBuilder,
        verify::{X509CheckFlags, X509VerifyFlags, X509VerifyParam},
    },
};

use super::{Tls, fault};

/// OpenSSL's code of a certificate without the address that is connected to,
/// `X509_V_ERR_IP_ADDRESS_MISMATCH`.
const IP_ADDRESS_MISMATCH: i32 = 64;

impl Tls {
    /// A connector for a client that compares certificates with the addresses of servers, though
    /// people know the servers by name: it accepts a certificate for one of `names`, too. Returns
    /// what it refuses besides.
    pub fn connector_for_names(
        &self,
        names: Vec<String>,
    ) -> Result<(SslConnectorBuilder, RefusedCertificate)> {
        let mut connector = self.connector()?;
        let refused = RefusedCertificate::default();
        let kept = refused.clone();
        connector.set_verify_callback(SslVerifyMode::PEER, move |accepted, context| {
            let accepted = accepted || is_for_name(context, &names);
            if !accepted {
                kept.set(context.error());
            }
            accepted
        });
        Ok((connector, refused))
    }
}

/// The certificate that a connector has refused last, if any.
#[derive(Clone, Debug, Default)]
pub struct RefusedCertificate(Arc<Mutex<Option<X509VerifyResult>>>);

impl RefusedCertificate {
    /// What is wrong with the certificate. Completes "the server's certificate …".
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let result = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let says = result?.error_string();
        Some(fault(says).unwrap_or_else(|| format!("can't be accepted: {says}")))
    }

    fn set(&self, result: X509VerifyResult) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }
}

/// Whether the certificate being verified is for one of the names, where it has been refused only
/// because it lacks the server's address. OpenSSL goes on to verify the rest of it then. Otherwise
/// the context's error says what is wrong.
fn is_for_name(context: &mut X509StoreContextRef, names: &[String]) -> bool {
    if context.error().as_raw() != IP_ADDRESS_MISMATCH {
        return false;
    }
    for name in names {
        let compared = context.current_cert().map(|own| compare_names(own, name));
        if let Some(Ok(result)) = compared {
            context.set_error(result);
        }
        if context.error() == X509VerifyResult::OK {
            return true;
        }
    }
    false
}

/// Whether a certificate is for this host name. Trusts the certificate itself, so that nothing else
/// is verified.
fn compare_names(certificate: &X509Ref, name: &str) -> Result<X509VerifyResult, ErrorStack> {
    let mut parameters = X509VerifyParam::new()?;
    parameters.set_host(name)?;
    parameters.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
    parameters.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::NO_CHECK_TIME)?;
    let mut store = X509StoreBuilder::new()?;
    store.set_param(&parameters)?;
    store.add_cert(certificate.to_owned())?;
    let (store, chain) = (store.build(), Stack::new()?);
    X509StoreContext::new()?.init(&store, certificate, &chain, |context| {
        context.verify_cert()?;
        Ok(context.error())
    })
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, os::unix::net::UnixStream, thread};

    use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod};
    use pinpipe_servers::{
        certificates::{Authority, Files},
        stores::folder,
    };

    use super::*;

    /// The fault that a client of 127.0.0.1 finds in the certificate.
    fn found(files: &Files, trusted: &Authority, names: &[&str]) -> Option<String> {
        let mut server = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        let (certificate, key) = (&files.certificate, &files.key);
        server
            .set_certificate_file(certificate, SslFiletype::PEM)
            .unwrap();
        server.set_private_key_file(key, SslFiletype::PEM).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || server.build().accept(far).is_ok());
        let tls = Tls {
            ca: Some(std::fs::read_to_string(trusted.certificate()).unwrap()),
            trusted: None,
            certificate: None,
        };
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let (connector, refused) = tls.connector_for_names(names).unwrap();
        let mut client = Ssl::new(&connector.build().into_context()).unwrap();
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        client.param_mut().set_ip(address).unwrap();
        let connected = client.connect(near);
        assert_eq!(connected.is_ok(), refused.fault().is_none());
        drop(connected);
        server.join().unwrap();
        refused.fault()
    }

    #[test]
    fn a_certificate_is_for_the_address_or_one_of_the_names_and_good_besides() {
        let own = Authority::new(folder().join("names")).unwrap();
        let stranger = Authority::new(folder().join("names-stranger")).unwrap();
        let issue = |name: &str, days| {
            let at = folder().join(format!("names-{days}-{}", name.replace('*', "any")));
            own.issue(name, days, &at).unwrap()
        };
        let named = issue("one.example", 10);
        let wildcard = issue("*.one.example", 10);
        let addressed = issue("127.0.0.1", 10);
        let expired = issue("one.example", -1);
        for (files, trusted, names, says) in [
            (&named, &own, &["one.example"][..], None),
            (&named, &own, &["other.example", "ONE.example"], None),
            (&wildcard, &own, &["x.one.example"], None),
            (&addressed, &own, &["one.example"], None),
            (&addressed, &own, &[], None),
            (&named, &own, &[], Some("IP address mismatch")),
            (
                &named,
                &own,
                &["e.example", "x.one.example"],
                Some("hostname mismatch"),
            ),
            (
                &wildcard,
                &own,
                &["y.x.one.example"],
                Some("hostname mismatch"),
            ),
            (
                &expired,
                &own,
                &["one.example"],
                Some("certificate has expired"),
            ),
            (
                &expired,
                &own,
                &["other.example"],
                Some("hostname mismatch"),
            ),
            (
                &named,
                &stranger,
                &["one.example"],
                Some("of an unknown authority"),
            ),
        ] {
            let found = found(files, trusted, names);
            let is_as_said = match (&found, says) {
                (Some(found), Some(says)) => found.contains(says),
                (found, says) => found.is_none() && says.is_none(),
            };
            assert!(is_as_said, "{names:?}: {found:?}, expected {says:?}");
        }
    }
}
