//! Ingest, and the emulator that posts to it.

use std::num::NonZeroU32;

use pinpipe_crds::{self as crds, Template};

use super::{
    mounts::{CERTIFICATE_KEYS, same_names},
    pods, template, trust, unsigned,
};
use crate::{
    model::{Emulator, Ingest, Mount, Secrets},
    mounts::{INGEST_CERTIFICATE, INGEST_TOKENS},
};

pub(super) fn ingest(
    ingest: &crds::Ingest,
    general: Option<&Template>,
    mut mounts: Vec<Mount>,
    secrets: impl FnOnce(Vec<Mount>) -> Secrets,
) -> Ingest {
    let template = template::lay_over(general, ingest.template.as_ref());
    mounts.extend(self::mounts(ingest));
    mounts.extend(trust::mount(&template));
    let service = ingest.service.clone().unwrap_or_default();
    let limits = ingest.limits.clone().unwrap_or_default();
    Ingest {
        replicas: pods::ingest_replicas(ingest),
        aliases: ingest.aliases.clone(),
        tokens: ingest.authentication.is_some(),
        tls: ingest.tls.is_some(),
        service_type: service.type_,
        service_annotations: service.annotations.unwrap_or_default(),
        requests_per_second: non_zero(limits.requests_per_second_per_client),
        max_connections: non_zero(limits.max_connections),
        pods: pods::several(&template, ["50m", "64Mi", "256Mi"]),
        secrets: (!mounts.is_empty()).then(|| secrets(mounts)),
    }
}

/// A number that the schema bounds from below.
fn non_zero(number: Option<i32>) -> Option<NonZeroU32> {
    NonZeroU32::new(unsigned(number, 0))
}

/// The emulator of a pipeline with this ingest. It has all of ingest's tokens, and the certificate
/// without its key: it trusts that one alone, whoever issued it for whichever name.
pub(super) fn emulator(
    emulator: &crds::Emulator,
    ingest: &crds::Ingest,
    general: Option<&Template>,
    secrets: impl FnOnce(Vec<Mount>) -> Secrets,
) -> Emulator {
    let template = template::lay_over(general, emulator.template.as_ref());
    let mut mounts = self::mounts(ingest);
    for mount in &mut mounts {
        mount.files.retain(|(key, _)| key != "tls.key");
    }
    let source = emulator.source.as_ref();
    Emulator {
        records_per_second: unsigned(emulator.records_per_second, 100),
        seed: unsigned(source.and_then(|source| source.synthetic.seed), 1),
        pods: pods::one(&template, ["20m", "32Mi", "128Mi"]),
        secrets: (!mounts.is_empty()).then(|| secrets(mounts)),
    }
}

/// The Secrets that ingest itself needs.
pub(super) fn mounts(ingest: &crds::Ingest) -> Vec<Mount> {
    let tokens = ingest.authentication.as_ref().map(|set| Mount {
        purpose: INGEST_TOKENS.to_owned(),
        secret: set.bearer_tokens_secret_ref.name.clone(),
        ..Mount::default()
    });
    let certificate = ingest.tls.as_ref().map(|set| Mount {
        purpose: INGEST_CERTIFICATE.to_owned(),
        secret: set.certificate_secret_ref.name.clone(),
        files: same_names(CERTIFICATE_KEYS),
        ..Mount::default()
    });
    tokens.into_iter().chain(certificate).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        component::Component,
        samples::{all_there, images, pipeline, validated},
        validate::{SecretKey, validate},
    };

    const TOKENS: (&str, &str) = ("tokens", "");

    #[test]
    fn what_ingest_is_given_stands() {
        let pipeline = validated(json!({"ingest": {
            "authentication": {"bearerTokensSecretRef": {"name": "tokens"}},
            "tls": {"certificateSecretRef": {"name": "tls"}},
            "service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}},
            "limits": {"requestsPerSecondPerClient": 1000, "maxConnections": 10},
        }}));
        let ingest = pipeline.ingest.as_ref().unwrap();
        assert!(ingest.tokens && ingest.tls);
        assert_eq!(ingest.requests_per_second.unwrap().get(), 1000);
        assert_eq!(ingest.max_connections.unwrap().get(), 10);
        assert_eq!(ingest.service_annotations["a/b"], "c");
        assert_eq!(
            pipeline.ingest_url().as_deref(),
            Some("https://pinterest-ingest.data.svc:8080")
        );
        assert!(pipeline.secrets(&Component::Emulator).is_none());
    }

    #[test]
    fn secrets_of_ingest_are_named_where_they_are_missing_and_the_emulator_gets_no_key() {
        let spec = json!({"emulator": {}, "ingest": {
            "authentication": {"bearerTokensSecretRef": {"name": "tokens"}},
            "tls": {"certificateSecretRef": {"name": "tls"}},
        }});
        let pipeline = pipeline(spec);
        let mut inputs = all_there(&pipeline);
        for (tokens, key, missing) in [
            (SecretKey::Present, SecretKey::Present, &[][..]),
            (
                SecretKey::NoKey,
                SecretKey::NoKey,
                &[
                    "Secret tokens has no key: add one",
                    "Secret tls has no key tls.key: add it",
                ],
            ),
            (
                SecretKey::NoSecret,
                SecretKey::Present,
                &["Secret tokens is missing: create it"],
            ),
        ] {
            let set = |(secret, key): (&str, &str)| (secret.to_owned(), key.to_owned());
            inputs.secrets.insert(set(TOKENS), tokens);
            inputs.secrets.insert(set(("tls", "tls.key")), key);
            let found = validate(&pipeline, &inputs, &images()).unwrap();
            let secrets = found
                .ingest
                .as_ref()
                .and_then(|ingest| ingest.secrets.as_ref());
            assert_eq!(secrets.unwrap().missing, missing);
            let emulator = found.secrets(&Component::Emulator).unwrap();
            let of_tokens = missing.iter().filter(|text| text.contains("tokens"));
            assert!(emulator.missing.iter().eq(of_tokens));
            let mut keys = emulator.mounts.iter().flat_map(|mount| &mount.files);
            assert!(keys.all(|(key, _)| key == "tls.crt"));
        }
    }
}
