//! Verifies that nothing is missing: raw objects by their chain, rows of live tables by counting.

mod lookup;
mod raw;
mod rows;
#[cfg(test)]
mod server_tests;

use anyhow::Result;
use pinpipe_config::inspect::{Check, Finding, Outcome};
use pinpipe_core::Kind;

use super::{components::Components, tail::Take};
use crate::{
    dead_letters::{Ranges, ranges},
    store::Store,
};

/// Gives what is found to `take`, and returns how many problems there are.
pub async fn verify(components: &Components, take: Take<'_, Finding>) -> Result<u64> {
    let mut problems = 0;
    let mut found = |finding: Finding| {
        problems += u64::from(finding.outcome == Outcome::Problem);
        take(finding)
    };
    let store = match &components.zone {
        Some(zone) => Some(Store::open_to_read(zone).await?),
        None => None,
    };
    for kind in Kind::ALL {
        let topic = Topic {
            kind,
            name: components.topic(kind).name.clone(),
            retained: ranges(components.brokers(), &components.topic(kind).name)?,
        };
        if let Some(store) = &store {
            raw::check(components, store, &topic, &mut found).await?;
        }
        for live in &components.live {
            rows::check(components, store.as_ref(), live, &topic, &mut found).await?;
        }
    }
    Ok(problems)
}

/// A topic as it is now.
struct Topic {
    kind: Kind,
    name: String,
    retained: Ranges,
}

impl Topic {
    /// A finding in a partition, of which nothing is said yet.
    fn finding(&self, check: Check, place: &str, partition: i32) -> Finding {
        Finding {
            check,
            outcome: Outcome::Ok,
            place: place.to_owned(),
            topic: self.name.clone(),
            partition: Some(partition),
            from: None,
            to: None,
            count: None,
            message: String::new(),
        }
    }
}
