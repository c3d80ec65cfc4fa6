//! Dead letters, and the records that are re-driven out of them, as Kafka headers.
//!
//! The stream worker writes letters and reads re-driven records, the re-drive reads letters and
//! puts their records back: this module is the one place where both learn the headers. A
//! dead-letter topic holds
//! - letters: a record's key and value as they were, and headers that say where it stood and what
//!   was wrong;
//! - marks: no value, [`LetterId`] as the key, `pinpipe.redriven`: the letter of that id is back in
//!   the pipeline.

use std::{borrow::Cow, fmt};

use pinpipe_core::{Order, Rejection, Repairs};
use rdkafka::message::{Header, Headers, OwnedHeaders};

const TOPIC: &str = "pinpipe.topic";
const TOPIC_ID: &str = "pinpipe.topic-id";
const CLUSTER_ID: &str = "pinpipe.cluster-id";
const PARTITION: &str = "pinpipe.partition";
const OFFSET: &str = "pinpipe.offset";
const TIMESTAMP: &str = "pinpipe.timestamp";
const KEY: &str = "pinpipe.key";
const OUTCOME: &str = "pinpipe.outcome";
const REASON: &str = "pinpipe.reason";
const FIELD: &str = "pinpipe.field";
const MESSAGE: &str = "pinpipe.message";
const ATTEMPT: &str = "pinpipe.attempt";
const WORKER_VERSION: &str = "pinpipe.worker-version";
const REDRIVEN: &str = "pinpipe.redriven";
const ORDER_TIME: &str = "pinpipe.order-time";
const ORDER_PARTITION: &str = "pinpipe.order-partition";
const ORDER_OFFSET: &str = "pinpipe.order-offset";

/// A longer key stands in the letter's own key alone, bytes: a letter without its value must not be
/// too large for any topic.
const KEY_BYTES: usize = 4096;

/// Names a letter, once and for all: what a crash repeats has the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LetterId {
    /// The id of the topic its record stood in.
    pub topic_id: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.topic_id, self.partition, self.offset)
    }
}

/// What became of a letter's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It went nowhere else.
    Rejected,
    /// It went on, with fields made null: the letter is a copy.
    Repaired,
}

impl Outcome {
    /// The outcome in headers and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Repaired => "repaired",
        }
    }
}

/// One thing that was wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reason's name, such as `key-missing` or `out-of-range`.
    pub reason: Cow<'static, str>,
    /// The field at fault, by its raw name.
    pub field: Option<Cow<'static, str>>,
}

/// What was wrong with a record, and so what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What became of it.
    pub outcome: Outcome,
    /// One for a rejected record, one per field for a repaired one.
    pub faults: Vec<Fault>,
    /// The same for people.
    pub message: String,
}

impl From<&Rejection> for Verdict {
    fn from(rejection: &Rejection) -> Self {
        let fault = Fault {
            reason: rejection.reason().into(),
            field: rejection.field().map(Into::into),
        };
        Self {
            outcome: Outcome::Rejected,
            faults: vec![fault],
            message: rejection.to_string(),
        }
    }
}

impl From<&Repairs> for Verdict {
    fn from(repairs: &Repairs) -> Self {
        let fault = |(field, reason): (&'static str, &'static str)| Fault {
            reason: reason.into(),
            field: Some(field.into()),
        };
        let repairs: Vec<_> = repairs
            .iter()
            .map(|repair| (repair.field, repair.reason.as_str()))
            .collect();
        let listed: Vec<String> = repairs
            .iter()
            .map(|(field, reason)| format!("`{field}` ({reason})"))
            .collect();
        let message = format!("made null in the clean record: {}", listed.join(", "));
        Self {
            outcome: Outcome::Repaired,
            faults: repairs.into_iter().map(fault).collect(),
            message,
        }
    }
}

/// A dead letter, but for its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its name.
    pub id: LetterId,
    /// The cluster its record stood in.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// Kafka's time of the record, milliseconds since the epoch.
    pub time: i64,
    /// What was wrong.
    pub verdict: Verdict,
    /// The first order of a record that was re-driven before and rejected or repaired again.
    pub redriven: Option<Redriven>,
}

/// What stands in a dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A letter.
    Letter(Letter),
    /// The mark that the letter of this name is back in the pipeline.
    Mark(LetterId),
}

/// A header of a letter that isn't there or can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its header {0} is missing or can't be read: no stream worker wrote it")]
pub struct NotALetter(&'static str);

impl Letter {
    /// Which try to get the record through this was: 1, and one more for every time it was
    /// re-driven.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.redriven
            .map_or(1, |redriven| redriven.attempt.saturating_add(1))
    }

    /// What decides whether another record of the same key is later.
    #[must_use]
    pub fn order(&self) -> Order {
        let place = Order {
            time: self.time,
            partition: self.id.partition,
            offset: self.id.offset,
        };
        self.redriven.map_or(place, |redriven| redriven.order)
    }

    /// The headers of the record that goes back into the pipeline.
    #[must_use]
    pub fn redrive_headers(&self) -> OwnedHeaders {
        put_redriven(
            OwnedHeaders::new_with_capacity(4),
            Redriven {
                order: self.order(),
                attempt: self.attempt(),
            },
        )
    }

    /// The headers of the mark that says the letter is done.
    #[must_use]
    pub fn mark_headers(&self) -> OwnedHeaders {
        let headers = OwnedHeaders::new_with_capacity(4);
        put(
            put_id(headers, &self.id),
            REDRIVEN,
            &self.attempt().to_string(),
        )
    }

    /// The headers of the letter; `key` is the record's.
    #[must_use]
    pub fn headers(&self, key: Option<&[u8]>) -> OwnedHeaders {
        let Verdict {
            outcome,
            faults,
            message,
        } = &self.verdict;
        let reasons: Vec<&str> = faults.iter().map(|fault| fault.reason.as_ref()).collect();
        let fields: Vec<&str> = faults
            .iter()
            .filter_map(|fault| fault.field.as_deref())
            .collect();
        let mut headers = put_id(OwnedHeaders::new_with_capacity(16), &self.id);
        for (name, value) in [
            (TOPIC, self.topic.as_str()),
            (CLUSTER_ID, &self.cluster_id),
            (TIMESTAMP, &self.time.to_string()),
            (OUTCOME, outcome.as_str()),
            (REASON, &reasons.join(",")),
            (MESSAGE, message),
            (ATTEMPT, &self.attempt().to_string()),
            (WORKER_VERSION, env!("CARGO_PKG_VERSION")),
        ] {
            headers = put(headers, name, value);
        }
        if !fields.is_empty() {
            headers = put(headers, FIELD, &fields.join(","));
        }
        if let Some(key) = key.filter(|key| key.len() <= KEY_BYTES) {
            headers = headers.insert(Header {
                key: KEY,
                value: Some(key),
            });
        }
        match self.redriven {
            Some(Redriven { order, .. }) => put_order(headers, order),
            None => headers,
        }
    }
}

impl Entry {
    /// What a record of a dead-letter topic is, by its headers. Letters written before there were
    /// attempts are first ones.
    pub fn read(headers: &impl Headers) -> Result<Self, NotALetter> {
        let text_of = |name| text(headers, name).ok_or(NotALetter(name));
        let number_of = |name| number(headers, name).ok_or(NotALetter(name));
        let id = LetterId {
            topic_id: text_of(TOPIC_ID)?.to_owned(),
            partition: number(headers, PARTITION).ok_or(NotALetter(PARTITION))?,
            offset: number_of(OFFSET)?,
        };
        if text(headers, REDRIVEN).is_some() {
            return Ok(Self::Mark(id));
        }
        let outcome = match text(headers, OUTCOME) {
            None | Some("rejected") => Outcome::Rejected,
            Some("repaired") => Outcome::Repaired,
            Some(_) => return Err(NotALetter(OUTCOME)),
        };
        let mut fields = text(headers, FIELD)
            .into_iter()
            .flat_map(|fields| fields.split(','));
        let faults = text_of(REASON)?.split(',').map(|reason| Fault {
            reason: reason.to_owned().into(),
            field: fields.next().map(|field| field.to_owned().into()),
        });
        let faults = faults.collect();
        let attempt: u32 = number(headers, ATTEMPT).unwrap_or(1);
        let order = order(headers).map_err(|_| NotALetter(ORDER_TIME))?;
        Ok(Self::Letter(Letter {
            id,
            cluster_id: text(headers, CLUSTER_ID).unwrap_or_default().to_owned(),
            topic: text(headers, TOPIC).unwrap_or_default().to_owned(),
            time: number_of(TIMESTAMP)?,
            verdict: Verdict {
                outcome,
                faults,
                message: text(headers, MESSAGE).unwrap_or_default().to_owned(),
            },
            redriven: order.map(|order| Redriven {
                order,
                attempt: attempt.saturating_sub(1).max(1),
            }),
        }))
    }
}

/// What a re-driven record brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// Where it first stood in the log.
    pub order: Order,
    /// The attempt of the letter it comes from, 1 and more.
    pub attempt: u32,
}

/// Why the order in a record's headers can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableOrder {
    /// One of the three is missing or no number.
    #[error("{ORDER_TIME}, {ORDER_PARTITION} and {ORDER_OFFSET} are not all there as numbers")]
    Unreadable,
    /// It is later than the record itself, which can't be: nothing could ever replace its row.
    #[error("{ORDER_TIME}, {ORDER_PARTITION} and {ORDER_OFFSET} are later than the record itself")]
    Later,
}

impl Redriven {
    /// Out of the headers of a record that stands at `place`; `None`: it was never re-driven.
    pub fn read(headers: &impl Headers, place: Order) -> Result<Option<Self>, UnusableOrder> {
        let Some(order) = order(headers)? else {
            return Ok(None);
        };
        if order > place {
            return Err(UnusableOrder::Later);
        }
        Ok(Some(Self {
            order,
            attempt: number(headers, ATTEMPT).unwrap_or(1),
        }))
    }
}

fn order(headers: &impl Headers) -> Result<Option<Order>, UnusableOrder> {
    if ![ORDER_TIME, ORDER_PARTITION, ORDER_OFFSET]
        .iter()
        .any(|name| find(headers, name).is_some())
    {
        return Ok(None);
    }
    let not_negative = |name| number(headers, name).filter(|number: &i64| *number >= 0);
    let order = || {
        Some(Order {
            time: not_negative(ORDER_TIME)?,
            partition: i32::try_from(not_negative(ORDER_PARTITION)?).ok()?,
            offset: not_negative(ORDER_OFFSET)?,
        })
    };
    order().map(Some).ok_or(UnusableOrder::Unreadable)
}

/// The value of a header; the last of that name counts.
fn find<'a>(headers: &'a impl Headers, name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .filter(|header| header.key == name)
        .last()
        .map(|header| header.value.unwrap_or_default())
}

fn text<'a>(headers: &'a impl Headers, name: &str) -> Option<&'a str> {
    str::from_utf8(find(headers, name)?).ok()
}

fn number<T: std::str::FromStr>(headers: &impl Headers, name: &str) -> Option<T> {
    text(headers, name)?.parse().ok()
}

fn put(headers: OwnedHeaders, name: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header {
        key: name,
        value: Some(value),
    })
}

fn put_id(headers: OwnedHeaders, id: &LetterId) -> OwnedHeaders {
    let headers = put(headers, TOPIC_ID, &id.topic_id);
    let headers = put(headers, PARTITION, &id.partition.to_string());
    put(headers, OFFSET, &id.offset.to_string())
}

fn put_order(headers: OwnedHeaders, order: Order) -> OwnedHeaders {
    let headers = put(headers, ORDER_TIME, &order.time.to_string());
    let headers = put(headers, ORDER_PARTITION, &order.partition.to_string());
    put(headers, ORDER_OFFSET, &order.offset.to_string())
}

fn put_redriven(headers: OwnedHeaders, Redriven { order, attempt }: Redriven) -> OwnedHeaders {
    put(put_order(headers, order), ATTEMPT, &attempt.to_string())
}

#[cfg(test)]
mod tests {
    use pinpipe_core::{Kind, clean};

    use super::*;

    const PLACE: Order = Order {
        time: 1000,
        partition: 2,
        offset: 40,
    };

    fn letter(kind: Kind, raw: &str, redriven: Option<Redriven>) -> Letter {
        let verdict = match clean(kind, raw.as_bytes(), 1000) {
            Ok(cleaned) => Verdict::from(&cleaned.repairs),
            Err(rejection) => Verdict::from(&rejection),
        };
        let id = LetterId {
            topic_id: "AbC".into(),
            partition: PLACE.partition,
            offset: PLACE.offset,
        };
        Letter {
            id,
            cluster_id: "c".into(),
            topic: "n.p.geo".into(),
            time: PLACE.time,
            verdict,
            redriven,
        }
    }

    fn plain(entries: &[(&str, &str)]) -> OwnedHeaders {
        entries
            .iter()
            .fold(OwnedHeaders::new(), |headers, (name, value)| {
                put(headers, name, value)
            })
    }

    #[test]
    fn a_letter_comes_back_as_it_was_written() {
        let again = Redriven {
            order: Order {
                time: 7,
                partition: 0,
                offset: 3,
            },
            attempt: 2,
        };
        for (kind, raw, redriven, reasons, fields) in [
            (Kind::Geo, "no json", None, "not-json", None),
            (Kind::Geo, "{}", Some(again), "key-missing", Some("ind")),
            (
                Kind::User,
                r#"{"ind":1,"age":200,"date_joined":"x"}"#,
                None,
                "out-of-range,unreadable",
                Some("age,date_joined"),
            ),
        ] {
            let letter = letter(kind, raw, redriven);
            let headers = letter.headers(Some(b"k\xff"));
            assert_eq!(
                (text(&headers, REASON), text(&headers, FIELD)),
                (Some(reasons), fields)
            );
            assert_eq!(find(&headers, KEY), Some(&b"k\xff"[..]));
            assert_eq!(Entry::read(&headers), Ok(Entry::Letter(letter)));
        }
    }

    #[test]
    fn a_record_keeps_its_first_order_however_often_it_is_re_driven() {
        let first = letter(Kind::Geo, "{}", None);
        assert_eq!((first.attempt(), first.order()), (1, PLACE));
        let later = Order {
            time: 5000,
            partition: 0,
            offset: 90,
        };
        let redriven = Redriven::read(&first.redrive_headers(), later).unwrap();
        assert_eq!(
            redriven,
            Some(Redriven {
                order: PLACE,
                attempt: 1
            })
        );
        let second = letter(Kind::Geo, "{}", redriven);
        assert_eq!((second.attempt(), second.order()), (2, PLACE));
        let redriven = Redriven::read(&second.redrive_headers(), later).unwrap();
        assert_eq!(
            redriven,
            Some(Redriven {
                order: PLACE,
                attempt: 2
            })
        );
    }

    #[test]
    fn a_mark_names_the_letter_that_is_done() {
        let letter = letter(Kind::Geo, "{}", None);
        assert_eq!(
            Entry::read(&letter.mark_headers()),
            Ok(Entry::Mark(letter.id))
        );
    }

    #[test]
    fn letters_of_earlier_workers_are_first_attempts() {
        let headers = plain(&[
            ("pinpipe.topic-id", "AbC"),
            ("pinpipe.partition", "2"),
            ("pinpipe.offset", "40"),
            ("pinpipe.timestamp", "1000"),
            ("pinpipe.reason", "not-json"),
        ]);
        let Ok(Entry::Letter(letter)) = Entry::read(&headers) else {
            panic!()
        };
        assert_eq!(
            (letter.attempt(), letter.order(), letter.verdict.outcome),
            (1, PLACE, Outcome::Rejected)
        );
        assert_eq!(
            letter.verdict.faults,
            [Fault {
                reason: "not-json".into(),
                field: None
            }]
        );
        assert_eq!(
            Entry::read(&plain(&[("pinpipe.topic-id", "AbC")])),
            Err(NotALetter(PARTITION))
        );
    }

    #[test]
    fn an_order_is_used_whole_or_not_at_all() {
        let whole = [
            (ORDER_TIME, "900"),
            (ORDER_PARTITION, "1"),
            (ORDER_OFFSET, "5"),
        ];
        let with = |at: usize, value| {
            let mut headers = whole;
            headers[at].1 = value;
            Redriven::read(&plain(&headers), PLACE)
        };
        let order = Order {
            time: 900,
            partition: 1,
            offset: 5,
        };
        assert_eq!(with(0, "900"), Ok(Some(Redriven { order, attempt: 1 })));
        assert_eq!(Redriven::read(&plain(&[("other", "1")]), PLACE), Ok(None));
        for (at, value) in [(0, ""), (0, "1e3"), (1, "-1"), (1, "3000000000"), (2, "x")] {
            assert_eq!(with(at, value), Err(UnusableOrder::Unreadable), "{value}");
        }
        assert_eq!(
            Redriven::read(&plain(&whole[..2]), PLACE),
            Err(UnusableOrder::Unreadable)
        );
        assert_eq!(
            with(0, "1001"),
            Err(UnusableOrder::Later),
            "it could win for ever"
        );
    }
}
