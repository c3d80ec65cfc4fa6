//! Pins.

use std::borrow::Cow;

use super::draft::{Draft, raw_fields};
use crate::{Cleaned, Pin, Record, Rejection, number};

raw_fields! {
    UNIQUE_ID = "unique_id",
    INDEX = "index",
    IND = "ind",
    TITLE = "title",
    CATEGORY = "category",
    DESCRIPTION = "description",
    POSTER_NAME = "poster_name",
    FOLLOWER_COUNT = "follower_count",
    TAG_LIST = "tag_list",
    IS_IMAGE_OR_VIDEO = "is_image_or_video",
    IMAGE_SRC = "image_src",
    DOWNLOADED = "downloaded",
    SAVE_LOCATION = "save_location",
}

/// Prefix removed from `save_location`, together with the white space after it.
const SAVED_IN: &str = "Local save in";

pub(super) fn clean(json: &str) -> Result<Cleaned<'_>, Rejection> {
    let mut draft = Draft::read(json, FIELDS, slot)?;
    let (unique_id, index_id) = keys(&draft)?;
    let pin = Pin {
        unique_id,
        index_id,
        title: draft.text(TITLE, &["No Title Data Available"]),
        category: draft.text(CATEGORY, &[]),
        description: draft.text(
            DESCRIPTION,
            &[
                "No description available",
                "No description available Story format",
            ],
        ),
        poster_name: draft.text(POSTER_NAME, &["User Info Error"]),
        follower_count: draft.value(FOLLOWER_COUNT, &["User Info Error"], number::follower_count),
        tag_list: draft.text(TAG_LIST, &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"]),
        is_image_or_video: draft.text(IS_IMAGE_OR_VIDEO, &[]),
        image_src: draft.text(IMAGE_SRC, &["Image src error."]),
        downloaded: match draft.boolean(DOWNLOADED) {
            Some(downloaded) => Some(downloaded.into()),
            None => draft.value(DOWNLOADED, &[], |text| number::integer_within(text, 0..=1)),
        },
        save_location: draft.text(SAVE_LOCATION, &[]).and_then(location),
    };
    Ok(Cleaned {
        record: Record::Pin(pin),
        repairs: draft.repairs,
    })
}

pub(super) fn key(json: &str) -> Result<String, Rejection> {
    keys(&Draft::read(json, FIELDS, slot)?).map(|(unique_id, _)| unique_id.into_owned())
}

/// Reads `unique_id`, the key, and `index`, the join key. Both are required.
fn keys<'a>(draft: &Draft<'a, 13>) -> Result<(Cow<'a, str>, i64), Rejection> {
    Ok((draft.key(UNIQUE_ID, Ok)?, draft.shared_number(INDEX, IND)?))
}

/// Strips [`SAVED_IN`] from a save location. An empty rest counts as missing.
fn location(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let path = match text {
        Cow::Borrowed(text) => {
            Cow::Borrowed(text.strip_prefix(SAVED_IN).map_or(text, str::trim_start))
        }
        Cow::Owned(text) => match text.strip_prefix(SAVED_IN) {
            Some(path) => Cow::Owned(path.trim_start().to_owned()),
            None => Cow::Owned(text),
        },
    };
    (!path.is_empty()).then_some(path)
}
