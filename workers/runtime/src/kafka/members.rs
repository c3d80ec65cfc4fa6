//! Calls librdkafka's `DescribeConsumerGroups`, for which the crate rdkafka has no binding.
#![expect(
    unsafe_code,
    reason = "librdkafka's C interface is the only way to what a group's members have"
)]

use std::time::Duration;

use rdkafka::{ClientContext, bindings as rd, client::Client, types::RDKafkaErrorCode};

use super::{
    IdentityError,
    request::{c_string, no_handle, request, text},
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
/// if there is no such group. Blocks for up to `timeout` and a second: call it where blocking is
/// allowed.
pub fn members<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Vec<Member>, IdentityError> {
    let name = c_string(group)?;
    let mut names = [name.as_ptr()];
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    // SAFETY: the name is alive, and librdkafka copies it.
    let event = request(client, operation, timeout, |options, queue| unsafe {
        let (names, count) = (names.as_mut_ptr(), names.len());
        rd::rd_kafka_DescribeConsumerGroups(client.native_ptr(), names, count, options, queue);
    })?;
    // SAFETY: the event is alive and owns the result and its descriptions. `groups` points to
    // `count` valid descriptions.
    unsafe {
        let result = rd::rd_kafka_event_DescribeConsumerGroups_result(event.as_ptr());
        if result.is_null() {
            return Err(no_handle());
        }
        let mut count = 0;
        let groups = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        match count {
            0 => Err(no_handle()),
            _ => members_of(*groups),
        }
    }
}

/// Copies the members of a group.
///
/// # Safety
/// `group` must be a valid description.
unsafe fn members_of(
    group: *const rd::rd_kafka_ConsumerGroupDescription_t,
) -> Result<Vec<Member>, IdentityError> {
    // SAFETY: by this function's contract. Returned pointers belong to the description and are
    // copied, and the index is below the number of members.
    unsafe {
        let error = rd::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            return match RDKafkaErrorCode::from(rd::rd_kafka_error_code(error)) {
                RDKafkaErrorCode::NoError | RDKafkaErrorCode::GroupIdNotFound => Ok(Vec::new()),
                _ => Err(IdentityError::Refused(text(rd::rd_kafka_error_string(
                    error,
                )))),
            };
        }
        let members = 0..rd::rd_kafka_ConsumerGroupDescription_member_count(group);
        Ok(members
            .map(|at| member(rd::rd_kafka_ConsumerGroupDescription_member(group, at)))
            .collect())
    }
}

/// Copies a member.
///
/// # Safety
/// `member` must be a valid description.
unsafe fn member(member: *const rd::rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: by this function's contract. Returned pointers belong to the description and are
    // copied. A list has as many elements as it says.
    unsafe {
        let mut partitions = Vec::new();
        let assignment = rd::rd_kafka_MemberDescription_assignment(member);
        if !assignment.is_null() {
            let list = rd::rd_kafka_MemberAssignment_partitions(assignment);
            if !list.is_null() {
                for at in 0..usize::try_from((*list).cnt).unwrap_or_default() {
                    let element = (*list).elems.add(at);
                    partitions.push((text((*element).topic), (*element).partition));
                }
            }
        }
        Member {
            client_id: text(rd::rd_kafka_MemberDescription_client_id(member)),
            partitions,
        }
    }
}
