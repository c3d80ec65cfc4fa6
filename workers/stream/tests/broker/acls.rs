//! Rights on topics, and passwords.
#![expect(
    unsafe_code,
    reason = "the crate rdkafka has no binding for these of librdkafka's requests"
)]

use std::{ffi::CString, ptr, time::Duration};

use rdkafka::{bindings as rd, types::RDKafkaErrorCode};

use crate::pipeline::admin;

pub use rd::rd_kafka_AclOperation_t as Right;

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Takes a right on a topic from every client, and leaves them all others.
pub fn forbid(topic: &str, right: Right) {
    use rd::rd_kafka_AclPermissionType_t as Permission;
    let binding = |right, permission| {
        let [topic, principal, host] = [topic, "User:ANONYMOUS", "*"].map(c_string);
        // SAFETY: librdkafka copies the texts, and an error text may be left out.
        unsafe {
            rd::rd_kafka_AclBinding_new(
                rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                topic.as_ptr(),
                rd::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                principal.as_ptr(),
                host.as_ptr(),
                right,
                permission,
                ptr::null_mut(),
                0,
            )
        }
    };
    let mut bindings = [
        binding(
            Right::RD_KAFKA_ACL_OPERATION_ALL,
            Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
        ),
        binding(right, Permission::RD_KAFKA_ACL_PERMISSION_TYPE_DENY),
    ];
    // SAFETY: librdkafka copies the bindings, which are valid.
    request(|client, queue| unsafe {
        rd::rd_kafka_CreateAcls(
            client,
            bindings.as_mut_ptr(),
            bindings.len(),
            ptr::null(),
            queue,
        );
    });
    for binding in bindings {
        // SAFETY: nothing else frees it.
        unsafe { rd::rd_kafka_AclBinding_destroy(binding) };
    }
}

/// Gives every client all rights on a topic back.
pub fn permit(topic: &str) {
    let topic = c_string(topic);
    // SAFETY: librdkafka copies the topic's name; other texts may be left out.
    let mut filter = unsafe {
        rd::rd_kafka_AclBindingFilter_new(
            rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            topic.as_ptr(),
            rd::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            ptr::null(),
            ptr::null(),
            Right::RD_KAFKA_ACL_OPERATION_ANY,
            rd::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ANY,
            ptr::null_mut(),
            0,
        )
    };
    // SAFETY: librdkafka copies the filter, which is valid, and a filter is a binding.
    request(|client, queue| unsafe {
        rd::rd_kafka_DeleteAcls(client, &raw mut filter, 1, ptr::null(), queue);
    });
    // SAFETY: nothing else frees it.
    unsafe { rd::rd_kafka_AclBinding_destroy(filter) };
}

/// Gives a user another password.
pub fn set_password(user: &str, password: &str) {
    let user = c_string(user);
    // SAFETY: librdkafka copies name and password, and makes a salt itself.
    let mut alteration = unsafe {
        rd::rd_kafka_UserScramCredentialUpsertion_new(
            user.as_ptr(),
            rd::rd_kafka_ScramMechanism_t::RD_KAFKA_SCRAM_MECHANISM_SHA_512,
            4096,
            password.as_ptr(),
            password.len(),
            ptr::null(),
            0,
        )
    };
    // SAFETY: librdkafka copies the alteration, which is valid.
    request(|client, queue| unsafe {
        rd::rd_kafka_AlterUserScramCredentials(client, &raw mut alteration, 1, ptr::null(), queue);
    });
    // SAFETY: nothing else frees it.
    unsafe { rd::rd_kafka_UserScramCredentialAlteration_destroy(alteration) };
}

/// Sends a request and waits until the broker has carried it out.
fn request(send: impl FnOnce(*mut rd::rd_kafka_t, *mut rd::rd_kafka_queue_t)) {
    let client = admin();
    let client = client.inner().native_ptr();
    // SAFETY: the client outlives the queue, and the event is destroyed before the queue.
    unsafe {
        let queue = rd::rd_kafka_queue_new(client);
        send(client, queue);
        let event = rd::rd_kafka_queue_poll(queue, TIMEOUT.as_millis().try_into().unwrap());
        assert!(!event.is_null(), "no answer");
        let error = RDKafkaErrorCode::from(rd::rd_kafka_event_error(event));
        assert_eq!(error, RDKafkaErrorCode::NoError);
        let created = rd::rd_kafka_event_CreateAcls_result(event);
        if !created.is_null() {
            let mut count = 0;
            let results = rd::rd_kafka_CreateAcls_result_acls(created, &raw mut count);
            for at in 0..count {
                let error = rd::rd_kafka_acl_result_error(*results.add(at));
                let error = RDKafkaErrorCode::from(rd::rd_kafka_error_code(error));
                assert_eq!(error, RDKafkaErrorCode::NoError);
            }
        }
        rd::rd_kafka_event_destroy(event);
        rd::rd_kafka_queue_destroy(queue);
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}
