//! The forms in which requests come in, and what tells them apart: their paths.

/// The REST proxy's own `Content-Type` of answers.
pub const REST_PROXY_TYPE: &str = "application/vnd.kafka.v2+json";

/// A form of requests and of their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Records as they are: `POST /pin`, `/geo` and `/user`.
    Records,
    /// Version 2 of the Kafka REST proxy.
    RestProxy,
    /// Kinesis's calls as an API gateway forwards them.
    Streams,
}

impl Form {
    /// The form's name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::RestProxy => "rest-proxy",
            Self::Streams => "streams",
        }
    }

    /// The form in which a client that uses this path expects its answer.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        match path.split('/').find(|segment| !segment.is_empty()) {
            Some("topics" | "brokers") => Self::RestProxy,
            Some("streams") => Self::Streams,
            _ => Self::Records,
        }
    }

    /// The types a client is advised to send.
    #[must_use]
    pub const fn content_types(self) -> &'static str {
        match self {
            Self::Records => "application/json or application/x-ndjson",
            Self::RestProxy => "application/vnd.kafka.json.v2+json or application/json",
            Self::Streams => "application/x-amz-json-1.1 or application/json",
        }
    }

    /// Whether a body with this `Content-Type` is read. All are read as JSON. A form's type is what
    /// some clients send by default.
    #[must_use]
    pub fn takes(self, content_type: &str) -> bool {
        const COMMON: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];
        let own: &[&str] = match self {
            Self::Records => &[
                "application/x-ndjson",
                "application/ndjson",
                "application/jsonl",
                "application/x-jsonlines",
            ],
            Self::RestProxy => &["application/vnd.kafka.json.v2+json", REST_PROXY_TYPE],
            Self::Streams => &["application/x-amz-json-1.1"],
        };
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let mut all = COMMON.iter().chain(own);
        all.any(|one| media_type.eq_ignore_ascii_case(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        use Form::{Records, RestProxy, Streams};
        let all = [Records, RestProxy, Streams];
        for (text, forms) in [
            ("application/json", &all[..]),
            ("Application/JSON; charset=utf-8", &all),
            ("application/x-www-form-urlencoded", &all),
            ("application/x-ndjson", &[Records]),
            ("application/ndjson", &[Records]),
            ("application/jsonl", &[Records]),
            ("application/vnd.kafka.json.v2+json", &[RestProxy]),
            ("application/vnd.kafka.v2+json; q=1", &[RestProxy]),
            ("application/vnd.kafka.avro.v2+json", &[]),
            ("application/vnd.kafka.binary.v2+json", &[]),
            ("application/x-amz-json-1.1", &[Streams]),
            ("text/plain", &[]),
            ("application/jsonp", &[]),
            ("", &[]),
        ] {
            for form in all {
                assert_eq!(form.takes(text), forms.contains(&form), "{text} {form:?}");
            }
        }
        for form in all {
            let mut advised = form.content_types().split(" or ");
            let all_taken = advised.all(|text| form.takes(text));
            assert!(all_taken, "{form:?}");
        }
    }

    #[test]
    fn the_path_tells_the_form() {
        for (path, form) in [
            ("/pin", Form::Records),
            ("//topics/a", Form::RestProxy),
            ("/brokers", Form::RestProxy),
            ("/streams/a/record/", Form::Streams),
            ("/", Form::Records),
        ] {
            assert_eq!(Form::of_path(path), form, "{path}");
        }
    }
}
