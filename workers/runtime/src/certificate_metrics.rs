//! When the certificates in mounted Secrets end, as a metric.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use openssl::{asn1::Asn1Time, error::ErrorStack, x509::X509};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::renewal::Mounted;

/// The key of a TLS Secret with the certificate and those of its issuers.
const CERTIFICATE: &str = "tls.crt";
/// Seconds of a day.
const DAY: i64 = 86_400;

/// The files with a program's own certificates, by the field that names their Secret. They are read
/// at each scrape, so that a renewed one counts at once.
#[derive(Debug)]
struct Certificates(Vec<(String, PathBuf)>);

/// Registers the ends of the certificates among mounted Secrets: those of servers and clients, not
/// of authorities, of which a bundle may have some that ended.
pub fn register(registry: &mut Registry, mounted: impl IntoIterator<Item = Mounted>) {
    let files = mounted.into_iter().flat_map(|Mounted { field, files }| {
        files.into_iter().map(move |file| {
            // Other files are folders, with this key or without.
            let certificate = if file.ends_with(CERTIFICATE) {
                file
            } else {
                file.join(CERTIFICATE)
            };
            (field.clone(), certificate)
        })
    });
    registry.register_collector(Box::new(Certificates(files.collect())));
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ends: Vec<_> = self
            .0
            .iter()
            .filter_map(|(field, file)| Some((field, end(file)?)))
            .collect();
        if ends.is_empty() {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(
            "certificate_expiry_timestamp",
            "when the certificate that the field's Secret has ends, or the first of its issuers",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (field, end) in ends {
            ConstGauge::new(end).encode(metric.encode_family(&[("field", field.as_str())])?)?;
        }
        Ok(())
    }
}

/// When the first of a file's certificates ends, seconds since 1970. None: it has none that can be
/// read.
fn end(file: &Path) -> Option<i64> {
    let certificates = X509::stack_from_pem(&fs::read(file).ok()?).ok()?;
    let ends = certificates.iter().map(end_of);
    ends.collect::<Result<Vec<_>, _>>().ok()?.into_iter().min()
}

fn end_of(certificate: &X509) -> Result<i64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(certificate.not_after())?;
    Ok(i64::from(since.days) * DAY + i64::from(since.secs))
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use pinpipe_servers::{certificates::Authority, documented_metrics, stores::folder};
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::admin::Admin;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn the_metrics_of_every_process_are_documented_and_follow_a_renewed_certificate() {
        let authority = Authority::new(folder().join("certificate-metrics")).unwrap();
        let mounted = folder().join("certificate-metrics-mounted");
        let issue = |days| {
            let at = folder().join(format!("certificate-metrics-{days}"));
            let issued = authority.issue("localhost", days, &at).unwrap();
            fs::create_dir_all(&mounted).unwrap();
            fs::copy(issued.certificate, mounted.join(CERTIFICATE)).unwrap();
        };
        issue(10);
        let mut admin = Admin::new();
        let field = "spec.ingest.tls.certificateSecretRef";
        let of = |field: &str, file: PathBuf| Mounted {
            field: field.to_owned(),
            files: vec![file],
        };
        let no_certificate = of("tokens", folder().join("certificate-metrics-none"));
        register(
            admin.registry(),
            [of(field, mounted.clone()), no_certificate],
        );

        documented_metrics::check("Every process", &text(admin.registry())).unwrap();
        let days_left = |registry: &Registry| {
            let text = text(registry);
            let lines = text.lines();
            let start = "pinpipe_certificate_expiry_timestamp_seconds{";
            let samples: Vec<_> = lines.filter(|line| line.starts_with(start)).collect();
            let [sample] = samples[..] else {
                panic!("{text}")
            };
            assert!(sample.contains(field), "{sample}");
            let end: u64 = sample.rsplit(' ').next().unwrap().parse().unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (end - now.as_secs()).div_ceil(86_400)
        };
        assert_eq!(days_left(admin.registry()), 10);
        issue(20);
        assert_eq!(days_left(admin.registry()), 20);
        fs::remove_file(mounted.join(CERTIFICATE)).unwrap();
        assert!(!text(admin.registry()).contains("certificate_expiry"));
    }
}
