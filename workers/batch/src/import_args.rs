//! Options of an import.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use pinpipe_core::Kind;

use crate::{
    failure::Permanent,
    plan::{ImportRequest, SourceRequest},
};

/// What to import. Of a `PinterestRun` the operator sets the variables.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Reads an S3 sink connector's objects, plain or compressed: PREFIX/<topic>/…. A slash is the
    /// whole bucket.
    #[arg(long, env = "PINPIPE_IMPORT", value_name = "PREFIX")]
    import: Option<String>,

    /// The topics of these objects whose records are pins, geo records or users; several are
    /// separated by commas: pin=old.pins,geo=old.geo. Without any for a kind: this pipeline's own.
    #[arg(
        long,
        env = "PINPIPE_IMPORT_TOPICS",
        value_name = "KIND=TOPIC",
        value_delimiter = ',',
        value_parser = of_kind
    )]
    import_topics: Vec<(Kind, String)>,

    /// Reads all objects below PREFIX as records of a kind; several are separated by commas:
    /// pin=events/pin,geo=events/geo.
    #[arg(
        long,
        env = "PINPIPE_IMPORT_EVENTS",
        value_name = "KIND=PREFIX",
        value_delimiter = ',',
        value_parser = of_kind
    )]
    import_events: Vec<(Kind, String)>,

    /// Reads from this bucket instead of the archive's.
    #[arg(long, env = "PINPIPE_IMPORT_BUCKET", value_name = "NAME")]
    import_bucket: Option<String>,

    /// URL of the bucket's store; the archive's unless set.
    #[arg(long, env = "PINPIPE_IMPORT_ENDPOINT", value_name = "URL")]
    import_endpoint: Option<String>,

    /// The bucket's region; the archive's unless set.
    #[arg(long, env = "PINPIPE_IMPORT_REGION", value_name = "REGION")]
    import_region: Option<String>,

    /// Folder with the files `accessKeyId` and `secretAccessKey` for the bucket; the archive's
    /// credentials unless set.
    #[arg(long, env = "PINPIPE_IMPORT_CREDENTIALS", value_name = "PATH")]
    import_credentials: Option<PathBuf>,

    /// File with the certificate of the authority of the bucket's store.
    #[arg(long, env = "PINPIPE_IMPORT_CA", value_name = "PATH")]
    import_ca: Option<PathBuf>,

    /// Makes the bucket part of the host's name although there is an endpoint.
    #[arg(long, env = "PINPIPE_IMPORT_VIRTUAL_HOST")]
    import_virtual_host: bool,
}

fn of_kind(text: &str) -> Result<(Kind, String)> {
    let (kind, name) = text
        .split_once('=')
        .with_context(|| format!("`{text}` isn't KIND=NAME, such as pin=events/pin"))?;
    Ok((kind.parse()?, name.to_owned()))
}

/// The value of an option, unless its variable is empty.
fn given(value: Option<&String>) -> Option<String> {
    value.filter(|value| !value.is_empty()).cloned()
}

impl ImportArgs {
    /// What is to be imported, if anything is.
    pub fn request(&self) -> Result<Option<ImportRequest>> {
        let connector = given(self.import.as_ref());
        let source = given(self.import_bucket.as_ref()).map(|bucket| SourceRequest {
            bucket,
            endpoint: given(self.import_endpoint.as_ref()),
            region: given(self.import_region.as_ref()),
            credentials: self.import_credentials.clone(),
            ca: self.import_ca.clone(),
            virtual_host: self.import_virtual_host,
        });
        let has_place = self.import_endpoint.is_some()
            || self.import_region.is_some()
            || self.import_credentials.is_some()
            || self.import_ca.is_some()
            || self.import_virtual_host;
        if source.is_none() && has_place {
            bail!(Permanent(
                "import.bucket is missing: it is the bucket that import.s3 is for".to_owned()
            ));
        }
        if connector.is_none() && !self.import_topics.is_empty() {
            bail!(Permanent(
                "import.prefix is missing: it is the prefix of the objects whose topics \
                 import.topics names, or / for the whole bucket"
                    .to_owned()
            ));
        }
        if connector.is_none() && self.import_events.is_empty() {
            if source.is_some() {
                bail!(Permanent(
                    "import.prefix is missing: it says what to import from import.bucket"
                        .to_owned()
                ));
            }
            return Ok(None);
        }
        Ok(Some(ImportRequest {
            connector,
            topics: self.import_topics.clone(),
            objects: self.import_events.clone(),
            source,
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        import: ImportArgs,
    }

    fn request(options: &[&str]) -> Result<Option<ImportRequest>> {
        let options = ["batch"].iter().chain(options);
        Options::try_parse_from(options)?.import.request()
    }

    #[test]
    fn options_select_what_is_imported_and_from_where() {
        assert_eq!(request(&[]).unwrap(), None);
        assert_eq!(request(&["--import", ""]).unwrap(), None);
        let options = [
            "--import=old",
            "--import-topics=pin=a.pin,pin=b",
            "--import-events=pin=year=2026/a,geo=c",
            "--import-bucket=theirs",
            "--import-region=eu-west-1",
            "--import-virtual-host",
        ];
        let expected = ImportRequest {
            connector: Some("old".into()),
            topics: vec![(Kind::Pin, "a.pin".into()), (Kind::Pin, "b".into())],
            objects: vec![(Kind::Pin, "year=2026/a".into()), (Kind::Geo, "c".into())],
            source: Some(SourceRequest {
                bucket: "theirs".into(),
                region: Some("eu-west-1".into()),
                virtual_host: true,
                ..SourceRequest::default()
            }),
        };
        assert_eq!(request(&options).unwrap(), Some(expected));
    }

    #[test]
    fn a_mistake_names_the_field_of_the_run() {
        for (options, value) in [
            (&["--import-bucket=b"][..], "import.prefix"),
            (&["--import=a", "--import-region=r"], "import.bucket"),
            (&["--import-topics=pin=a"], "import.prefix is missing"),
            (&["--import-events=pins=a"], "pins"),
            (&["--import-events=a"], "KIND=NAME"),
        ] {
            let message = request(options).unwrap_err().to_string();
            assert!(message.contains(value), "{options:?}: {message}");
        }
    }
}
