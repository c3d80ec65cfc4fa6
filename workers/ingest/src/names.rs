//! Names of topics and streams in paths.

use std::collections::BTreeMap;

use pinpipe_config::{Alias, RecordKind, Topics};
use pinpipe_core::Kind;

/// The kinds of record by the names that clients use for them: those of the topics, and aliases.
#[derive(Clone, Debug)]
pub struct Names {
    topics: Topics,
    kinds: BTreeMap<String, Kind>,
}

impl Names {
    /// The names of the topics, and these aliases.
    #[must_use]
    pub fn new(topics: Topics, aliases: &[Alias]) -> Self {
        let aliases = aliases.iter().map(|alias| {
            let kind = match alias.kind {
                RecordKind::Pin => Kind::Pin,
                RecordKind::Geo => Kind::Geo,
                RecordKind::User => Kind::User,
            };
            (alias.name.clone(), kind)
        });
        let mut kinds: BTreeMap<_, _> = aliases.collect();
        kinds.extend([
            (topics.pin.name.clone(), Kind::Pin),
            (topics.geo.name.clone(), Kind::Geo),
            (topics.user.name.clone(), Kind::User),
        ]);
        Self { topics, kinds }
    }

    /// The topic of a kind.
    #[must_use]
    pub fn topic(&self, kind: Kind) -> &str {
        match kind {
            Kind::Pin => &self.topics.pin.name,
            Kind::Geo => &self.topics.geo.name,
            Kind::User => &self.topics.user.name,
        }
    }

    /// The kind that a name stands for.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.kinds.get(name).copied()
    }

    /// All names, sorted.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }
}
