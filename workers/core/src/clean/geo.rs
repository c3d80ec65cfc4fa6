//! Geo records: where and when a pin was posted.

use super::draft::{Draft, raw_fields};
use crate::{Cleaned, Geo, Record, Rejection, number};

raw_fields! {
    IND = "ind",
    INDEX = "index",
    TIMESTAMP = "timestamp",
    LATITUDE = "latitude",
    LONGITUDE = "longitude",
    COUNTRY = "country",
}

pub(super) fn clean(json: &str) -> Result<Cleaned<'_>, Rejection> {
    let mut draft = Draft::read(json, FIELDS, slot)?;
    let ind = draft.shared_number(IND, INDEX)?;
    let latitude = draft.value(LATITUDE, &[], |text| number::decimal_within(text, 90.0));
    let longitude = draft.value(LONGITUDE, &[], |text| number::decimal_within(text, 180.0));
    let geo = Geo {
        ind,
        country: draft.text(COUNTRY, &[]),
        coordinates: latitude.zip(longitude).map(<[f64; 2]>::from),
        timestamp: draft.timestamp(TIMESTAMP),
    };
    Ok(Cleaned {
        record: Record::Geo(geo),
        repairs: draft.repairs,
    })
}

pub(super) fn key(json: &str) -> Result<String, Rejection> {
    Draft::read(json, FIELDS, slot)?
        .shared_number(IND, INDEX)
        .map(|ind| ind.to_string())
}
