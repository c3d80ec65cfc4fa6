//! The components of a pipeline: what runs as a workload of its own.

use std::{fmt, str::FromStr};

/// A component. Its text (`ingest`, `stream-live`) is the value of the component label and the end
/// of its objects' names. The order is that of the texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// Stores raw records as objects.
    Archive,
    /// Runs on a schedule.
    Batch,
    /// Posts made-up records.
    Emulator,
    /// The REST service.
    Ingest,
    /// The stream worker of the sink with this name.
    Stream(String),
}

impl Component {
    /// Stream worker of a sink.
    #[must_use]
    pub fn stream(sink: &str) -> Self {
        Self::Stream(sink.to_owned())
    }

    /// Name of the sink that consumes the topics: the sink's own, or `archive`.
    #[must_use]
    pub fn sink(&self) -> Option<&str> {
        match self {
            Self::Archive => Some("archive"),
            Self::Stream(sink) => Some(sink),
            Self::Batch | Self::Emulator | Self::Ingest => None,
        }
    }

    /// Whether it always runs and reaches Kafka.
    #[must_use]
    pub fn runs_on_kafka(&self) -> bool {
        self.sink().is_some() || *self == Self::Ingest
    }

    /// Whether it brings records into the topics.
    #[must_use]
    pub fn is_source(&self) -> bool {
        matches!(self, Self::Emulator | Self::Ingest)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive => f.write_str("archive"),
            Self::Batch => f.write_str("batch"),
            Self::Emulator => f.write_str("emulator"),
            Self::Ingest => f.write_str("ingest"),
            Self::Stream(sink) => write!(f, "stream-{sink}"),
        }
    }
}

/// The text names no component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownComponent;

impl FromStr for Component {
    type Err = UnknownComponent;

    fn from_str(text: &str) -> Result<Self, UnknownComponent> {
        match text {
            "archive" => Ok(Self::Archive),
            "batch" => Ok(Self::Batch),
            "emulator" => Ok(Self::Emulator),
            "ingest" => Ok(Self::Ingest),
            _ => text
                .strip_prefix("stream-")
                .map(Self::stream)
                .ok_or(UnknownComponent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_is_read_back_from_its_text_and_sorted_by_it() {
        let all = [
            Component::Archive,
            Component::Batch,
            Component::Emulator,
            Component::Ingest,
            Component::stream("archive"),
            Component::stream("b-1"),
        ];
        for component in &all {
            assert_eq!(component.to_string().parse().as_ref(), Ok(component));
        }
        assert!(all.is_sorted() && all.map(|component| component.to_string()).is_sorted());
        assert_eq!("stream".parse::<Component>(), Err(UnknownComponent));
    }
}
