//! Users.

use super::draft::{Draft, raw_fields};
use crate::{Cleaned, Record, Rejection, User, number};

raw_fields! {
    IND = "ind",
    INDEX = "index",
    FIRST_NAME = "first_name",
    LAST_NAME = "last_name",
    AGE = "age",
    DATE_JOINED = "date_joined",
}

pub(super) fn clean(json: &str) -> Result<Cleaned<'_>, Rejection> {
    let mut draft = Draft::read(json, FIELDS, slot)?;
    let ind = draft.shared_number(IND, INDEX)?;
    let user_name = match (draft.text(FIRST_NAME, &[]), draft.text(LAST_NAME, &[])) {
        (Some(first), Some(last)) => Some([&first, " ", &last].concat().into()),
        (first, last) => first.or(last),
    };
    let user = User {
        ind,
        user_name,
        age: draft.value(AGE, &[], |text| number::integer_within(text, 0..=150)),
        date_joined: draft.timestamp(DATE_JOINED),
    };
    Ok(Cleaned {
        record: Record::User(user),
        repairs: draft.repairs,
    })
}

pub(super) fn key(json: &str) -> Result<String, Rejection> {
    Draft::read(json, FIELDS, slot)?
        .shared_number(IND, INDEX)
        .map(|ind| ind.to_string())
}
