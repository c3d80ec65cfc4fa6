//! Rights and passwords of a Kafka broker's users. Everybody has all rights to what no rule is
//! about.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking, its helpers too"
)]
#![expect(
    unsafe_code,
    reason = "the crate rdkafka has no binding for these of librdkafka's requests"
)]

use std::{ffi::CString, ptr, time::Duration};

use rdkafka::{
    ClientConfig, admin::AdminClient, bindings as rd, client::DefaultClientContext,
    types::RDKafkaErrorCode,
};

pub use rd::rd_kafka_AclOperation_t as Right;
use rd::{
    rd_kafka_AclPermissionType_t as Permission, rd_kafka_ResourcePatternType_t as Pattern,
    rd_kafka_ResourceType_t as Type,
};

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Clients of the broker's listener without users.
pub const ANONYMOUS: &str = "ANONYMOUS";

/// What a rule is about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    /// A topic, or with `*` all of them.
    Topic(&'a str),
    /// The topics whose names begin so.
    Topics(&'a str),
    /// The cluster.
    Cluster,
}

impl Resource<'_> {
    const fn pattern(&self) -> (Type, &str, Pattern) {
        use Pattern::{
            RD_KAFKA_RESOURCE_PATTERN_LITERAL as LITERAL,
            RD_KAFKA_RESOURCE_PATTERN_PREFIXED as PREFIXED,
        };
        match self {
            Self::Topic(name) => (Type::RD_KAFKA_RESOURCE_TOPIC, name, LITERAL),
            Self::Topics(prefix) => (Type::RD_KAFKA_RESOURCE_TOPIC, prefix, PREFIXED),
            Self::Cluster => (Type::RD_KAFKA_RESOURCE_BROKER, "kafka-cluster", LITERAL),
        }
    }
}

/// Gives a user these rights to what is nobody's but those that rules name from then on.
pub fn permit(broker: u16, resource: Resource<'_>, user: &str, rights: &[Right]) {
    let rules = rights
        .iter()
        .map(|right| (user, *right, Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW));
    add(broker, resource, rules);
}

/// Takes a right from a user, and leaves everybody all others.
pub fn forbid(broker: u16, resource: Resource<'_>, user: &str, right: Right) {
    let everybody = (
        "*",
        Right::RD_KAFKA_ACL_OPERATION_ALL,
        Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
    );
    let denied = (user, right, Permission::RD_KAFKA_ACL_PERMISSION_TYPE_DENY);
    add(broker, resource, [everybody, denied]);
}

fn add<'a>(
    broker: u16,
    resource: Resource<'_>,
    rules: impl IntoIterator<Item = (&'a str, Right, Permission)>,
) {
    let (kind, name, pattern) = resource.pattern();
    let binding = |(user, right, permission)| {
        let user = format!("User:{user}");
        let [name, user, host] = [name, &user, "*"].map(c_string);
        // SAFETY: librdkafka copies the texts, and an error text may be left out.
        unsafe {
            rd::rd_kafka_AclBinding_new(
                kind,
                name.as_ptr(),
                pattern,
                user.as_ptr(),
                host.as_ptr(),
                right,
                permission,
                ptr::null_mut(),
                0,
            )
        }
    };
    let mut bindings: Vec<_> = rules.into_iter().map(binding).collect();
    // SAFETY: librdkafka copies the bindings, which are valid.
    request(broker, |client, queue| unsafe {
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

/// Removes all rules about a resource.
pub fn remove(broker: u16, resource: Resource<'_>) {
    let (kind, name, pattern) = resource.pattern();
    let name = c_string(name);
    // SAFETY: librdkafka copies the name; other texts may be left out.
    let mut filter = unsafe {
        rd::rd_kafka_AclBindingFilter_new(
            kind,
            name.as_ptr(),
            pattern,
            ptr::null(),
            ptr::null(),
            Right::RD_KAFKA_ACL_OPERATION_ANY,
            Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ANY,
            ptr::null_mut(),
            0,
        )
    };
    // SAFETY: librdkafka copies the filter, which is valid, and a filter is a binding.
    request(broker, |client, queue| unsafe {
        rd::rd_kafka_DeleteAcls(client, &raw mut filter, 1, ptr::null(), queue);
    });
    // SAFETY: nothing else frees it.
    unsafe { rd::rd_kafka_AclBinding_destroy(filter) };
}

/// Gives a user another password.
pub fn set_password(broker: u16, user: &str, password: &str) {
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
    request(broker, |client, queue| unsafe {
        rd::rd_kafka_AlterUserScramCredentials(client, &raw mut alteration, 1, ptr::null(), queue);
    });
    // SAFETY: nothing else frees it.
    unsafe { rd::rd_kafka_UserScramCredentialAlteration_destroy(alteration) };
}

/// Sends a request and waits until the broker has carried it out. `broker` is the port of the
/// listener that everybody may use.
fn request(broker: u16, send: impl FnOnce(*mut rd::rd_kafka_t, *mut rd::rd_kafka_queue_t)) {
    let client: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{broker}"))
        .create()
        .unwrap();
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
