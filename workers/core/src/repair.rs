//! Repairs: raw fields that cleaning set to null although they had a value.

/// Why cleaning set a field to null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepairReason {
    /// The value can't be read as the field's type, such as the date `yesterday`.
    Unreadable,
    /// The value is readable but outside the field's bounds, such as an age of 200.
    OutOfRange,
}

impl RepairReason {
    /// The reason's name in metrics and reports: `unreadable` or `out-of-range`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::OutOfRange => "out-of-range",
        }
    }
}

/// One field set to null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repair {
    /// The field's raw name, such as `first_name`.
    pub field: &'static str,
    /// Why its value was dropped.
    pub reason: RepairReason,
}

/// The repairs of one record: a set with at most one repair per field, stored as bit masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repairs {
    fields: &'static [&'static str],
    /// Bit `n` stands for `fields[n]`; one mask per reason.
    unreadable: u16,
    out_of_range: u16,
}

impl Repairs {
    /// An empty set for a record whose raw fields are `fields` (at most 16).
    pub(crate) const fn none(fields: &'static [&'static str]) -> Self {
        Self {
            fields,
            unreadable: 0,
            out_of_range: 0,
        }
    }

    /// Records that the field at `slot` was set to null.
    pub(crate) const fn add(&mut self, slot: usize, reason: RepairReason) {
        match reason {
            RepairReason::Unreadable => self.unreadable |= 1 << slot,
            RepairReason::OutOfRange => self.out_of_range |= 1 << slot,
        }
    }

    /// Whether every field was readable or missing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.unreadable | self.out_of_range == 0
    }

    /// How many fields were set to null.
    #[must_use]
    pub const fn len(&self) -> usize {
        (self.unreadable.count_ones() + self.out_of_range.count_ones()) as usize
    }

    /// The repairs in raw-field order.
    pub fn iter(&self) -> impl Iterator<Item = Repair> + use<> {
        let Self {
            fields,
            unreadable,
            out_of_range,
        } = *self;
        fields.iter().enumerate().filter_map(move |(slot, field)| {
            let reason = if unreadable >> slot & 1 == 1 {
                RepairReason::Unreadable
            } else if out_of_range >> slot & 1 == 1 {
                RepairReason::OutOfRange
            } else {
                return None;
            };
            Some(Repair { field, reason })
        })
    }
}
