//! Dead letters: counted, or shown with their records.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use pinpipe_config::{
    Topic,
    inspect::{Letter, LetterCount},
};
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::dead_letter::{DeadLetter, Entry, Outcome};
use rdkafka::{Message as _, message::BorrowedMessage};

use super::{
    args::{LetterFilter, TailArgs, kinds},
    components::Components,
    form,
    tail::Take,
};
use crate::{
    dead_letters::{LetterIdSet, Ranges, TopicReader, ranges},
    redrive::Filter,
};

/// A dead-letter topic as it is now.
pub struct Letters<'a> {
    components: &'a Components,
    topic: &'a Topic,
    retained: Ranges,
    /// Those that a re-drive has written back.
    redriven: LetterIdSet,
}

impl<'a> Letters<'a> {
    /// Reads the markers of re-driven dead letters.
    pub async fn open(components: &'a Components, kind: Kind) -> Result<Self> {
        let topic = components.topic(kind);
        let mut letters = Self {
            components,
            topic,
            retained: ranges(components.brokers(), &topic.dead_letter)?,
            redriven: LetterIdSet::default(),
        };
        let mut reader = letters.reader()?;
        while let Some(message) = letters.next(&mut reader).await? {
            if let Some(Ok(Entry::Mark { id, .. })) = message.headers().map(Entry::read) {
                letters.redriven.insert(&id);
            }
        }
        Ok(letters)
    }

    fn reader(&self) -> Result<TopicReader> {
        let brokers = self.components.brokers();
        TopicReader::between(brokers, &self.topic.dead_letter, &self.retained)
    }

    async fn next<'r>(&self, reader: &'r mut TopicReader) -> Result<Option<BorrowedMessage<'r>>> {
        let next = reader.next().await;
        next.with_context(|| format!("reading the topic {}", self.topic.dead_letter))
    }

    /// Gives each dead letter to `take`, with its record, once.
    pub async fn each(
        &self,
        mut take: impl FnMut(&DeadLetter, &BorrowedMessage<'_>) + Send,
    ) -> Result<()> {
        let (mut reader, mut seen) = (self.reader()?, LetterIdSet::default());
        while let Some(message) = self.next(&mut reader).await? {
            if let Some(letter) = letter(&message)
                && seen.insert(&letter.id)
            {
                take(&letter, &message);
            }
        }
        Ok(())
    }

    /// Whether dead letters have expired, so that some may be missing.
    pub fn have_expired(&self) -> bool {
        self.retained.values().any(|range| range.start > 0)
    }

    /// Whether a re-drive has written it back.
    pub fn is_redriven(&self, letter: &DeadLetter) -> bool {
        self.redriven.contains(&letter.id)
    }
}

fn letter(message: &BorrowedMessage<'_>) -> Option<DeadLetter> {
    match message.headers().map(Entry::read) {
        Some(Ok(Entry::DeadLetter(letter))) => Some(letter),
        _ => None,
    }
}

/// Counts dead letters that are alike.
pub async fn list(components: &Components, filter: &LetterFilter) -> Result<Vec<LetterCount>> {
    let (wanted, mut all) = (filter.filter(), Vec::new());
    for kind in kinds(&filter.kind) {
        let letters = Letters::open(components, kind).await?;
        let mut counts = BTreeMap::new();
        let count = |letter: &DeadLetter, _: &BorrowedMessage<'_>| {
            if wanted.matches(letter) {
                add(&mut counts, kind, letter, letters.is_redriven(letter));
            }
        };
        letters.each(count).await?;
        all.extend(
            counts
                .into_values()
                .map(|(count, first, last)| LetterCount {
                    first: form::time(first),
                    last: form::time(last),
                    ..count
                }),
        );
    }
    Ok(all)
}

/// What dead letters that are alike have in common.
type Alike = (&'static str, Option<String>, String, Option<String>);

/// Counts, with the first and the last time of a record.
type Counts = BTreeMap<Alike, (LetterCount, i64, i64)>;

fn add(counts: &mut Counts, kind: Kind, letter: &DeadLetter, redriven: bool) {
    let verdict = &letter.verdict;
    let (outcome, sink) = (verdict.outcome.as_str(), letter.id.sink.clone());
    let reason = verdict.reason.to_string();
    let field = verdict.field.as_deref().map(str::to_owned);
    let alike = (outcome, sink, reason, field);
    let (count, first, last) = counts.entry(alike.clone()).or_insert_with(|| {
        let (outcome, sink, reason, field) = alike;
        let count = LetterCount {
            kind: form::kind(kind),
            outcome: outcome.to_owned(),
            sink,
            reason,
            field,
            letters: 0,
            redriven: 0,
            first: String::new(),
            last: String::new(),
        };
        (count, letter.time, letter.time)
    });
    count.letters += 1;
    count.redriven += u64::from(redriven);
    *first = (*first).min(letter.time);
    *last = (*last).max(letter.time);
}

/// The newest dead letters, the newest first.
pub async fn show(
    components: &Components,
    filter: &LetterFilter,
    limit: usize,
) -> Result<Vec<Letter>> {
    let (wanted, mut newest) = (filter.filter(), BTreeMap::new());
    for kind in kinds(&filter.kind) {
        newest_of(components, kind, &wanted, limit, &mut newest).await?;
    }
    Ok(newest.into_values().rev().collect())
}

/// By the order of the letters themselves.
type Newest = BTreeMap<(Order, Kind), Letter>;

/// Adds the dead letters of a kind, and removes the oldest of more than `limit`.
async fn newest_of(
    components: &Components,
    kind: Kind,
    wanted: &Filter,
    limit: usize,
    newest: &mut Newest,
) -> Result<Ranges> {
    let letters = Letters::open(components, kind).await?;
    let take = |letter: &DeadLetter, message: &BorrowedMessage<'_>| {
        let order = Order {
            time: message.timestamp().to_millis().unwrap_or_default(),
            partition: message.partition(),
            offset: message.offset(),
        };
        let is_too_old = newest.len() >= limit
            && newest
                .first_key_value()
                .is_none_or(|(oldest, _)| (order, kind) < *oldest);
        if is_too_old || !wanted.matches(letter) {
            return;
        }
        let redriven = letters.is_redriven(letter);
        newest.insert((order, kind), shown(kind, letter, message, redriven));
        if newest.len() > limit {
            newest.pop_first();
        }
    };
    letters.each(take).await?;
    Ok(letters.retained)
}

/// Gives the newest dead letters of each topic to `take`, the oldest first, and if it is to follow,
/// those that are written from then on.
pub async fn tail(components: &Components, args: &TailArgs, take: Take<'_, Letter>) -> Result<()> {
    let (all, last) = (
        LetterFilter::default().filter(),
        usize::try_from(args.last)?,
    );
    let mut following = Vec::new();
    for kind in kinds(&args.kind) {
        let mut newest = Newest::new();
        let retained = newest_of(components, kind, &all, last, &mut newest).await?;
        newest.into_values().try_for_each(&mut *take)?;
        if args.follow {
            let ends = retained.into_iter();
            let ends = ends
                .map(|(partition, range)| (partition, range.end))
                .collect();
            let topic = &components.topic(kind).dead_letter;
            following.push((
                kind,
                TopicReader::following(components.brokers(), topic, &ends)?,
            ));
        }
    }
    let take = &tokio::sync::Mutex::new(take);
    let follow = following.into_iter().map(|(kind, mut reader)| async move {
        while let Some(message) = reader.next().await? {
            if let Some(letter) = letter(&message) {
                (*take.lock().await)(shown(kind, &letter, &message, false))?;
            }
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(follow).await.map(drop)
}

fn shown(kind: Kind, letter: &DeadLetter, message: &BorrowedMessage<'_>, redriven: bool) -> Letter {
    let verdict = &letter.verdict;
    Letter {
        kind: form::kind(kind),
        outcome: verdict.outcome.as_str().to_owned(),
        reason: verdict.reason.to_string(),
        field: verdict.field.as_deref().map(str::to_owned),
        sink: letter.id.sink.clone(),
        message: verdict.message.clone(),
        topic: letter.topic.clone(),
        partition: letter.id.partition,
        offset: letter.id.offset,
        time: form::time(letter.time),
        attempt: letter.attempt(),
        redriven,
        letter_topic: message.topic().to_owned(),
        letter_partition: message.partition(),
        letter_offset: message.offset(),
        key: message.key().map(form::text),
        value: message.payload().map(form::text),
    }
}

/// What a dead letter says, as a sentence.
pub fn sentence(letter: &DeadLetter) -> String {
    let verdict = &letter.verdict;
    let by = match (verdict.outcome, &letter.id.sink) {
        (Outcome::Refused, Some(sink)) => format!("refused by the sink {sink}"),
        (outcome, _) => outcome.as_str().to_owned(),
    };
    format!("{by} ({}): {}", verdict.reason, verdict.message)
}
