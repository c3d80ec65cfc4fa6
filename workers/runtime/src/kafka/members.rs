//! The members of a consumer group.
//!
//! By librdkafka's older call. Its `DescribeConsumerGroups` ends the process (an assertion in
//! `rd_kafka_enq_once_del_source_return`, 2.12.1) if no coordinator answers in time and one does
//! later.

use std::{str, time::Duration};

use rdkafka::{
    ClientContext,
    client::Client,
    error::KafkaError,
    groups::{GroupInfo, GroupMemberInfo},
};

/// A member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its `client.id`.
    pub client_id: String,
    /// The partitions that it has: topic and number. Empty while the group rebalances.
    pub partitions: Vec<(String, i32)>,
}

/// The members of a consumer group, also those that were killed, until their session expires. Empty
/// if there is no such group. Blocks for up to `timeout`: call it where blocking is allowed.
pub fn members<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Vec<Member>, KafkaError> {
    let groups = client.fetch_group_list(Some(group), timeout)?;
    let members = groups.groups().iter().flat_map(GroupInfo::members);
    Ok(members.map(member).collect())
}

fn member(member: &GroupMemberInfo) -> Member {
    let assignment = member.assignment().unwrap_or_default();
    Member {
        client_id: member.client_id().to_owned(),
        partitions: partitions(assignment).unwrap_or_default(),
    }
}

/// The partitions of an assignment in the protocol of consumers: version, topics with their
/// partitions, user data. None if it is cut off.
fn partitions(mut assignment: &[u8]) -> Option<Vec<(String, i32)>> {
    let from = &mut assignment;
    let _version = i16::from_be_bytes(*take(from)?);
    let mut partitions = Vec::new();
    for _ in 0..i32::from_be_bytes(*take(from)?) {
        let length = usize::try_from(i16::from_be_bytes(*take(from)?)).ok()?;
        let (topic, rest) = from.split_at_checked(length)?;
        *from = rest;
        let topic = str::from_utf8(topic).ok()?;
        for _ in 0..i32::from_be_bytes(*take(from)?) {
            partitions.push((topic.to_owned(), i32::from_be_bytes(*take(from)?)));
        }
    }
    Some(partitions)
}

fn take<'a, const N: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_one_that_is_cut_off_is_not() {
        let assignment = b"\0\x01\0\0\0\x02\
            \0\x03pin\0\0\0\x02\0\0\0\0\0\0\0\x05\
            \0\x03geo\0\0\0\0\
            \0\0\0\0";
        let expected = vec![("pin".to_owned(), 0), ("pin".to_owned(), 5)];
        assert_eq!(partitions(assignment), Some(expected));
        for cut_off in [&b""[..], b"\0\x01\0\0\0\x02", &assignment[..12]] {
            assert_eq!(partitions(cut_off), None, "{cut_off:?}");
        }
    }
}
