//! Headers of redriven records: the order of the original record.

use pinpipe_core::Order;
use rdkafka::message::{Headers, OwnedHeaders};

use super::headers::{ATTEMPT, ORDER_OFFSET, ORDER_PARTITION, ORDER_TIME, find, number, put};

/// Order and attempt of a redriven record, from its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The position of the original record.
    pub order: Order,
    /// The attempt number of the dead letter it comes from, at least 1.
    pub attempt: u32,
}

/// Why the order in a redriven record's headers can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableOrder {
    /// One of the three headers is missing or not a number.
    #[error("{ORDER_TIME}, {ORDER_PARTITION} and {ORDER_OFFSET} must all be set to numbers")]
    Unreadable,
    /// The order is later than the record itself, so no later record could ever replace it.
    #[error("{ORDER_TIME}, {ORDER_PARTITION} and {ORDER_OFFSET} are later than the record itself")]
    Later,
}

impl Redriven {
    /// Parses the headers of the record at `position`. `None` if it has not been redriven.
    pub fn read(headers: &impl Headers, position: Order) -> Result<Option<Self>, UnusableOrder> {
        let Some(order) = order(headers)? else {
            return Ok(None);
        };
        if order > position {
            return Err(UnusableOrder::Later);
        }
        Ok(Some(Self {
            order,
            attempt: number(headers, ATTEMPT).unwrap_or(1),
        }))
    }
}

/// Parses the order. `None` if none of its headers is set.
pub(super) fn order(headers: &impl Headers) -> Result<Option<Order>, UnusableOrder> {
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

pub(super) fn put_order(headers: OwnedHeaders, order: Order) -> OwnedHeaders {
    let headers = put(headers, ORDER_TIME, &order.time.to_string());
    let headers = put(headers, ORDER_PARTITION, &order.partition.to_string());
    put(headers, ORDER_OFFSET, &order.offset.to_string())
}

pub(super) fn put_redriven(
    headers: OwnedHeaders,
    Redriven { order, attempt }: Redriven,
) -> OwnedHeaders {
    put(put_order(headers, order), ATTEMPT, &attempt.to_string())
}
