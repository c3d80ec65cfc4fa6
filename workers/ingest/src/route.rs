//! What a request asks for, according to its method and path. Doubled slashes and one at the end
//! don't matter, and names may be percent-encoded.

use std::borrow::Cow;

use axum::http::Method;
use percent_encoding::percent_decode_str;
use pinpipe_core::Kind;

use crate::{form::Form, names::Names, problem::Problem};

/// The longest path that is told apart, in segments.
const SEGMENTS: usize = 5;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To accept records.
    Send(Kind, Call),
    /// To describe what there is.
    Describe(Describe),
    /// The description of this interface.
    OpenApi,
}

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// As they are.
    Records,
    /// To a topic of the REST proxy.
    Topic,
    /// One record to a stream.
    PutRecord,
    /// Records to a stream.
    PutRecords,
}

impl Call {
    /// The call's form.
    #[must_use]
    pub const fn form(self) -> Form {
        match self {
            Self::Records => Form::Records,
            Self::Topic => Form::RestProxy,
            Self::PutRecord | Self::PutRecords => Form::Streams,
        }
    }
}

/// What is to be described. Names are as the client wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Describe {
    /// The ids of the brokers.
    Brokers,
    /// The names of the topics.
    Topics,
    /// A topic.
    Topic(Kind, String),
    /// A topic's partitions.
    Partitions(Kind),
    /// One partition of a topic.
    Partition(Kind, i32),
    /// The names of the streams.
    Streams,
    /// A stream.
    Stream(Kind, String),
}

/// Finds what is asked for.
pub fn find(method: &Method, path: &str, names: &Names) -> Result<Route, Problem> {
    // The server leaves out the body of the answer.
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let segments: Vec<Cow<'_, str>> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .take(SEGMENTS)
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let kind = |name: &str| {
        let unknown = || Problem::UnknownName(name.chars().take(249).collect());
        names.kind(name).ok_or_else(unknown)
    };
    let allow = |methods: &'static str| {
        let mut all = methods.split(", ");
        if all.any(|one| method.as_str() == one) {
            Ok(())
        } else {
            Err(Problem::MethodNotAllowed { allow: methods })
        }
    };
    let is_get = method == Method::GET;
    let describe = match segments.as_slice() {
        ["openapi.json"] => {
            allow("GET")?;
            return Ok(Route::OpenApi);
        }
        ["brokers"] => Describe::Brokers,
        ["topics"] => Describe::Topics,
        ["streams"] => Describe::Streams,
        ["topics", name] => {
            allow("GET, POST")?;
            match (kind(name)?, is_get) {
                (kind, true) => Describe::Topic(kind, (*name).to_owned()),
                (kind, false) => return Ok(Route::Send(kind, Call::Topic)),
            }
        }
        ["topics", name, "partitions"] => {
            allow("GET")?;
            Describe::Partitions(kind(name)?)
        }
        ["topics", name, "partitions", partition] => {
            allow("GET, POST")?;
            let kind = kind(name)?;
            let number = partition.parse().ok().filter(|number| *number >= 0);
            let number = number.ok_or(Problem::UnknownPartition)?;
            if !is_get {
                return Ok(Route::Send(kind, Call::Topic));
            }
            Describe::Partition(kind, number)
        }
        ["streams", name] => {
            allow("GET")?;
            Describe::Stream(kind(name)?, (*name).to_owned())
        }
        ["streams", name, call @ ("record" | "records")] => {
            allow("PUT, POST")?;
            let call = match *call {
                "record" => Call::PutRecord,
                _ => Call::PutRecords,
            };
            return Ok(Route::Send(kind(name)?, call));
        }
        [one] => {
            let kind = one.parse().map_err(|_| Problem::NotFound)?;
            allow("POST")?;
            return Ok(Route::Send(kind, Call::Records));
        }
        _ => return Err(Problem::NotFound),
    };
    allow("GET")?;
    Ok(Route::Describe(describe))
}

#[cfg(test)]
mod tests {
    use pinpipe_config::{Alias, RecordKind, Topic, Topics};

    use super::*;
    use crate::openapi;

    fn names() -> Names {
        let topic = |kind: &str| Topic {
            name: format!("t.{kind}"),
            dead_letter: format!("t.{kind}.dlq"),
        };
        let topics = Topics {
            pin: topic("pin"),
            geo: topic("geo"),
            user: topic("user"),
        };
        let alias = Alias {
            name: "old-user".to_owned(),
            kind: RecordKind::User,
        };
        Names::new(topics, &[alias])
    }

    #[test]
    fn method_and_path_tell_what_is_asked_for() {
        let describe = |describe| Ok(Route::Describe(describe));
        let other = |allow| Err(Problem::MethodNotAllowed { allow });
        let unknown = |name: &str| Err(Problem::UnknownName(name.to_owned()));
        for (method, path, route) in [
            ("POST", "/pin", Ok(Route::Send(Kind::Pin, Call::Records))),
            ("POST", "//geo/", Ok(Route::Send(Kind::Geo, Call::Records))),
            ("GET", "/pin", other("POST")),
            ("POST", "/pins", Err(Problem::NotFound)),
            ("POST", "/pin/1", Err(Problem::NotFound)),
            ("GET", "/", Err(Problem::NotFound)),
            ("POST", "/t.pin", Err(Problem::NotFound)),
            ("GET", "/openapi.json", Ok(Route::OpenApi)),
            ("HEAD", "/topics", describe(Describe::Topics)),
            ("GET", "/brokers/", describe(Describe::Brokers)),
            ("GET", "/topics", describe(Describe::Topics)),
            ("POST", "/topics", other("GET")),
            (
                "POST",
                "/topics/t.geo",
                Ok(Route::Send(Kind::Geo, Call::Topic)),
            ),
            (
                "POST",
                "/topics/t%2Egeo/",
                Ok(Route::Send(Kind::Geo, Call::Topic)),
            ),
            (
                "POST",
                "/topics/old-user",
                Ok(Route::Send(Kind::User, Call::Topic)),
            ),
            ("POST", "/topics/geo", unknown("geo")),
            ("POST", "/topics/a%2Fb", unknown("a/b")),
            ("PUT", "/topics/t.geo", other("GET, POST")),
            (
                "GET",
                "/topics/t.pin",
                describe(Describe::Topic(Kind::Pin, "t.pin".to_owned())),
            ),
            (
                "GET",
                "/topics/t.pin/partitions",
                describe(Describe::Partitions(Kind::Pin)),
            ),
            (
                "GET",
                "/topics/t.pin/partitions/2",
                describe(Describe::Partition(Kind::Pin, 2)),
            ),
            (
                "POST",
                "/topics/t.pin/partitions/2",
                Ok(Route::Send(Kind::Pin, Call::Topic)),
            ),
            (
                "POST",
                "/topics/t.pin/partitions/-1",
                Err(Problem::UnknownPartition),
            ),
            (
                "POST",
                "/topics/t.pin/partitions/a",
                Err(Problem::UnknownPartition),
            ),
            (
                "POST",
                "/topics/t.pin/partitions/1/x",
                Err(Problem::NotFound),
            ),
            ("GET", "/streams", describe(Describe::Streams)),
            (
                "GET",
                "/streams/t.pin",
                describe(Describe::Stream(Kind::Pin, "t.pin".to_owned())),
            ),
            (
                "PUT",
                "/streams/t.pin/record",
                Ok(Route::Send(Kind::Pin, Call::PutRecord)),
            ),
            (
                "POST",
                "/streams/t.pin/records",
                Ok(Route::Send(Kind::Pin, Call::PutRecords)),
            ),
            ("DELETE", "/streams/t.pin/record", other("PUT, POST")),
            ("PUT", "/streams/x/record", unknown("x")),
            ("PUT", "/streams/t.pin/shards", Err(Problem::NotFound)),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(find(&method, path, &names()), route, "{method} {path}");
        }
    }

    #[test]
    fn names_are_those_of_topics_and_aliases() {
        let names = names();
        let all: Vec<_> = names.all().collect();
        assert_eq!(all, ["old-user", "t.geo", "t.pin", "t.user"]);
        assert_eq!(names.topic(Kind::User), "t.user");
    }

    #[test]
    fn the_description_has_the_paths_there_are() {
        let description = openapi::description(&names());
        let description: serde_json::Value = serde_json::from_str(&description).unwrap();
        let get = &description["paths"]["/topics/{topic}"]["get"];
        assert_eq!(get["parameters"][0]["schema"]["enum"][0], "old-user");
        let paths = description["paths"].as_object().unwrap();
        for (path, methods) in paths {
            let path = path
                .replace("{topic}", "t.pin")
                .replace("{stream}", "t.pin")
                .replace("{partition}", "0");
            for method in ["GET", "PUT", "POST", "DELETE"] {
                let is_described = methods.get(method.to_lowercase()).is_some();
                let found = find(&method.parse().unwrap(), &path, &names());
                assert_eq!(found.is_ok(), is_described, "{method} {path}: {found:?}");
            }
        }
        // Three kinds, the description, five of the REST proxy, four of streams.
        assert_eq!(paths.len(), 13);
    }
}
