//! A record being cleaned: its raw values by slot and the repairs so far.

use std::borrow::Cow;

use crate::{
    Rejection, RepairReason, Repairs,
    json::{Raw, read_object},
    number,
    text::{Value, text},
    time,
};

/// Declares the raw fields of a kind: a constant per slot, the names in `FIELDS`, and the function
/// `slot` that maps a name to its slot.
macro_rules! raw_fields {
    ($($slot:ident = $name:literal,)*) => {
        /// Raw field names by slot.
        pub(super) const FIELDS: &[&str; [$($name),*].len()] = &[$($name),*];

        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Slot { $($slot),* }
        $(const $slot: usize = Slot::$slot as usize;)*

        #[inline]
        fn slot(name: &str) -> Option<usize> {
            match name {
                $($name => Some($slot),)*
                _ => None,
            }
        }
    };
}
pub(super) use raw_fields;

/// The `N` raw field values of a record.
pub(super) struct Draft<'a, const N: usize> {
    fields: &'static [&'static str; N],
    raw: [Raw<'a>; N],
    pub(super) repairs: Repairs,
}

impl<'a, const N: usize> Draft<'a, N> {
    /// Parses the object and keeps the values of the fields that `slot` knows.
    #[inline]
    pub(super) fn read(
        json: &'a str,
        fields: &'static [&'static str; N],
        slot: impl Fn(&str) -> Option<usize>,
    ) -> Result<Self, Rejection> {
        Ok(Self {
            fields,
            raw: read_object(json, slot)?,
            repairs: Repairs::none(fields),
        })
    }

    /// Reads a required key field with `read`.
    #[inline]
    pub(super) fn key<T>(
        &self,
        slot: usize,
        read: impl FnOnce(Cow<'a, str>) -> Result<T, RepairReason>,
    ) -> Result<T, Rejection> {
        let field = self.fields[slot];
        match text(self.raw[slot]) {
            Ok(Some(text)) => read(text).map_err(|_| Rejection::KeyUnreadable { field }),
            Ok(None) => Err(Rejection::KeyMissing { field }),
            Err(_) => Err(Rejection::KeyUnreadable { field }),
        }
    }

    /// Reads the number that joins the kinds, a required key field. It counts under the name of the
    /// slot `own`; only if it is missing there, under the name of the slot `other`.
    #[inline]
    pub(super) fn shared_number(&self, own: usize, other: usize) -> Result<i64, Rejection> {
        let read = |slot| self.key(slot, |text| number::integer(&text));
        match read(own) {
            Err(missing @ Rejection::KeyMissing { .. }) => match read(other) {
                Err(Rejection::KeyMissing { .. }) => Err(missing),
                result => result,
            },
            result => result,
        }
    }

    /// Reads a text field. The texts in `missing` count as missing.
    #[inline]
    pub(super) fn text(&mut self, slot: usize, missing: &[&str]) -> Option<Cow<'a, str>> {
        let text = text(self.raw[slot]);
        self.or_repair(slot, text)
            .filter(|text| !missing.contains(&text.as_ref()))
    }

    /// Reads a field with `read`. The texts in `missing` count as missing.
    #[inline]
    pub(super) fn value<T>(
        &mut self,
        slot: usize,
        missing: &[&str],
        read: impl FnOnce(&str) -> Result<T, RepairReason>,
    ) -> Option<T> {
        let text = self.text(slot, missing)?;
        let value = read(&text).map(Some);
        self.or_repair(slot, value)
    }

    /// Reads a timestamp, microseconds since the epoch.
    #[inline]
    pub(super) fn timestamp(&mut self, slot: usize) -> Option<i64> {
        self.value(slot, &[], |text| {
            time::timestamp(text).ok_or(RepairReason::Unreadable)
        })
    }

    /// The field's value if it is a JSON boolean.
    #[inline]
    pub(super) fn boolean(&self, slot: usize) -> Option<bool> {
        match self.raw[slot] {
            Raw::Bool(boolean) => Some(boolean),
            _ => None,
        }
    }

    /// Adds an error to the repairs.
    #[inline]
    fn or_repair<T>(&mut self, slot: usize, value: Value<T>) -> Option<T> {
        value.unwrap_or_else(|reason| {
            self.repairs.add(slot, reason);
            None
        })
    }
}
