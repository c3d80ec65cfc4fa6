//! What clients of AWS's services share: credentials, connections, errors.

use std::{error::Error, iter, path::Path};

use anyhow::Result;
use aws_config::{
    default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig,
};
use aws_sdk_s3::config::{BehaviorVersion, Region, SharedHttpClient};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};

use pinpipe_config::TrustedCa;

use crate::{
    config::secret_file,
    tls::{self, Tls},
};

/// The credentials of the environment, as AWS's clients find them: variables, the web identity of
/// the pod's `ServiceAccount`, EKS Pod Identity, the node's role.
pub async fn default_chain(region: Region, http: SharedHttpClient) -> DefaultCredentialsChain {
    let provider = ProviderConfig::without_region()
        .with_behavior_version(Some(BehaviorVersion::latest()))
        .with_http_client(http);
    DefaultCredentialsChain::builder()
        .configure(provider)
        // Otherwise the region is looked for in the environment, at last by requests.
        .region(region)
        .build()
        .await
}

/// An HTTP client that trusts the authorities of a file alone, or else the public ones and those
/// that are `trusted`.
pub fn http_client(
    ca_file: Option<&Path>,
    trusted: Option<&TrustedCa>,
) -> Result<SharedHttpClient> {
    let builder = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let store = if let Some(file) = ca_file {
        let ca = secret_file(file, None)?;
        let store = TrustStore::empty().with_pem_certificate(ca.as_bytes());
        // What can't be used is an error here and would be a panic there.
        let tls = Tls {
            ca: Some(ca),
            ..Tls::default()
        };
        tls.connector()?;
        store
    } else if let Some(trusted) = trusted {
        let pem = tls::trusted(trusted, &|path| secret_file(path, None))?;
        TrustStore::default().with_pem_certificate(pem)
    } else {
        return Ok(builder.build_https());
    };
    let context = TlsContext::builder().with_trust_store(store).build()?;
    Ok(builder.tls_context(context).build_https())
}

/// An error's sentence and those of its causes in one line, of which none is repeated. Not their
/// `Debug` forms, which have whole responses.
pub fn sentences(error: &(dyn Error + 'static)) -> String {
    let mut sentences: Vec<String> = Vec::new();
    for error in iter::successors(Some(error), |&error| error.source()) {
        let sentence = error.to_string();
        let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
        if !sentences.iter().any(|known| known.contains(&sentence)) {
            sentences.push(sentence);
        }
    }
    sentences.join(": ")
}
