//! Mutual exclusion by a Kubernetes `Lease`. A batch run holds one while it runs, and the
//! operator's active replica holds one for leader election.
//!
//! Every write carries the `resourceVersion` it is based on, so only one of two concurrent writes
//! succeeds. A dead holder is detected without comparing clocks of two machines: its `Lease` has
//! not changed for the lease duration, measured locally. A holder that can't renew its `Lease`
//! stops before another candidate may acquire it.

mod waiting;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use waiting::{DURATION, Holder, ObservedHolder, Waiting};

/// How often a holder renews.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// A holder that could not renew for this long considers the `Lease` lost. Shorter than
/// [`DURATION`] so that it stops before another candidate may acquire it.
const RENEW_DEADLINE: Duration = Duration::from_secs(11);
/// How long one request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a waiting candidate tries to acquire the `Lease`.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(
    RENEW_DEADLINE.as_secs() + REQUEST_TIMEOUT.as_secs() <= DURATION.as_secs(),
    "a holder must stop before another candidate may acquire the Lease"
);

/// Why the `Lease` could not be acquired or was lost.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server refused the request or can't be reached.
    #[error("the Lease {name} can't be acquired: {source}{}", hint(source))]
    Api {
        /// The `Lease`.
        name: String,
        /// The API server's error.
        source: Box<kube::Error>,
    },
    /// The API server did not respond in time.
    #[error("the Lease {name} can't be acquired: the API server does not respond")]
    Timeout {
        /// The `Lease`.
        name: String,
    },
    /// The `Lease` was lost while it was held.
    #[error("the Lease {name} was lost")]
    Lost {
        /// The `Lease`.
        name: String,
    },
}

fn hint(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            " (the ServiceAccount needs get, create and update on it: check its Role)"
        }
        _ => "",
    }
}

/// An acquired `Lease`. If dropped without [`Held::release`], it expires.
pub struct Held {
    api: Api<Lease>,
    proof: Proof,
    renewal: JoinHandle<()>,
}

/// Proof that a `Lease` is held. Clones refer to the same `Lease`.
#[derive(Clone)]
pub struct Proof {
    name: String,
    state: Arc<Mutex<State>>,
    lost: CancellationToken,
}

impl Proof {
    /// Fails with [`LeaseError::Lost`] if the `Lease` is no longer held. Call it before every
    /// write: a process that was suspended may get here before its renewal task notices.
    pub fn check(&self) -> Result<(), LeaseError> {
        if self.lost.is_cancelled() || lock(&self.state).renewed.elapsed() > RENEW_DEADLINE {
            return Err(LeaseError::Lost {
                name: self.name.clone(),
            });
        }
        Ok(())
    }
}

/// The holder identity: the host name, which is the pod's name, and the process id. A container
/// restarted in its pod has the same identity and need not wait for its predecessor's `Lease`.
pub async fn identity() -> String {
    let host = tokio::fs::read_to_string("/proc/sys/kernel/hostname")
        .await
        .unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// The `Lease` as last written, and when that write began.
struct State {
    lease: Lease,
    renewed: Instant,
}

/// Acquires the `Lease` for `identity`. Waits while another holder renews it, however long. While
/// the API server can't answer, it tries again for `patience`, or without limit if that is `None`.
pub async fn acquire(
    api: Api<Lease>,
    name: &str,
    identity: &str,
    patience: Option<Duration>,
) -> Result<Held, LeaseError> {
    let mut answered = Instant::now();
    let mut observed = ObservedHolder::default();
    let mut waiting = Waiting::default();
    loop {
        let renewed = Instant::now();
        match attempt(&api, name, identity, &mut observed).await {
            Ok(Attempt::Acquired(lease)) => {
                info!(lease = name, "Lease acquired");
                return Ok(Held::new(
                    api,
                    name,
                    State {
                        lease: *lease,
                        renewed,
                    },
                    identity,
                ));
            }
            Ok(Attempt::HeldBy(Holder { identity, since })) => {
                answered = Instant::now();
                if waiting.is_to_log(&identity, answered) {
                    info!(
                        lease = name,
                        holder = identity,
                        since,
                        "another holds the Lease, waiting"
                    );
                }
            }
            Ok(Attempt::Conflict) => continue,
            Err(error @ LeaseError::Api { .. }) if is_refusal(&error) => return Err(error),
            Err(error) => {
                if patience.is_some_and(|patience| answered.elapsed() > patience) {
                    return Err(error);
                }
                warn!(lease = name, %error, "can't acquire the Lease, retrying");
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

fn is_refusal(error: &LeaseError) -> bool {
    matches!(status_code(error), Some(401 | 403 | 404 | 422))
}

/// The HTTP status of the API server's response.
fn status_code(error: &LeaseError) -> Option<u16> {
    match error {
        LeaseError::Api { source, .. } => match &**source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        _ => None,
    }
}

/// The outcome of one attempt to acquire the `Lease`.
enum Attempt {
    Acquired(Box<Lease>),
    HeldBy(Holder),
    /// Another candidate wrote first.
    Conflict,
}

/// Reads the `Lease` and, if it is free, writes it once.
async fn attempt(
    api: &Api<Lease>,
    name: &str,
    identity: &str,
    observed: &mut ObservedHolder,
) -> Result<Attempt, LeaseError> {
    let write = match request(name, api.get_opt(name)).await? {
        None => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(acquired(None, identity)),
            };
            request(name, api.create(&PostParams::default(), &lease)).await
        }
        Some(mut lease) => {
            if let Some(holder) = observed.holder(&lease, identity, Instant::now()) {
                return Ok(Attempt::HeldBy(holder));
            }
            lease.spec = Some(acquired(lease.spec.as_ref(), identity));
            request(name, api.replace(name, &PostParams::default(), &lease)).await
        }
    };
    match write {
        Ok(lease) => Ok(Attempt::Acquired(Box::new(lease))),
        Err(error) if is_conflict(&error) => Ok(Attempt::Conflict),
        Err(error) => Err(error),
    }
}

/// The spec that makes `identity` the holder.
fn acquired(before: Option<&LeaseSpec>, identity: &str) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(
            before
                .and_then(|spec| spec.lease_transitions)
                .map_or(0, |n| n.saturating_add(1)),
        ),
        ..LeaseSpec::default()
    }
}

async fn request<T>(
    name: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, LeaseError> {
    match timeout(REQUEST_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| LeaseError::Api {
            name: name.to_owned(),
            source: Box::new(error),
        }),
        Err(_) => Err(LeaseError::Timeout {
            name: name.to_owned(),
        }),
    }
}

fn is_conflict(error: &LeaseError) -> bool {
    status_code(error) == Some(409)
}

impl Held {
    fn new(api: Api<Lease>, name: &str, state: State, identity: &str) -> Self {
        let state = Arc::new(Mutex::new(state));
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(renew(
            api.clone(),
            name.to_owned(),
            identity.to_owned(),
            Arc::clone(&state),
            lost.clone(),
        ));
        Self {
            api,
            proof: Proof {
                name: name.to_owned(),
                state,
                lost,
            },
            renewal,
        }
    }

    /// A proof that the `Lease` is held, for other tasks of this process.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof.clone()
    }

    /// Completes when the `Lease` is lost.
    pub async fn lost(&self) -> LeaseError {
        self.proof.lost.cancelled().await;
        LeaseError::Lost {
            name: self.proof.name.clone(),
        }
    }

    /// [`Proof::check`].
    pub fn check(&self) -> Result<(), LeaseError> {
        self.proof.check()
    }

    /// Releases the `Lease` so that the next candidate can acquire it at once.
    pub async fn release(self) {
        self.renewal.abort();
        let Proof { name, state, lost } = self.proof;
        // If the aborted renewal has just written, the release below fails with a conflict and the
        // Lease expires.
        let _ = self.renewal.await;
        if lost.is_cancelled() {
            return;
        }
        let mut lease = lock(&state).lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match request(
            &name,
            self.api.replace(&name, &PostParams::default(), &lease),
        )
        .await
        {
            Ok(_) => info!(lease = name, "Lease released"),
            Err(error) => {
                warn!(lease = name, %error, "the Lease could not be released, it will expire");
            }
        }
    }
}

/// Renews the `Lease` until another holder has it or [`RENEW_DEADLINE`] has passed, then cancels
/// `lost`.
async fn renew(
    api: Api<Lease>,
    name: String,
    identity: String,
    state: Arc<Mutex<State>>,
    lost: CancellationToken,
) {
    loop {
        tokio::time::sleep(RENEW_INTERVAL).await;
        let renewed = Instant::now();
        let mut lease = lock(&state).lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match request(&name, api.replace(&name, &PostParams::default(), &lease)).await {
            Ok(lease) => *lock(&state) = State { lease, renewed },
            Err(error) => {
                warn!(lease = name, %error, "the Lease could not be renewed");
                // On a conflict, somebody edited the object, or our write succeeded but its
                // response was lost.
                if let Ok(now) = request(&name, api.get(&name)).await {
                    if now
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.holder_identity.as_deref())
                        != Some(identity.as_str())
                    {
                        break;
                    }
                    lock(&state).lease = now;
                }
            }
        }
        if lock(&state).renewed.elapsed() > RENEW_DEADLINE {
            break;
        }
    }
    warn!(lease = name, "Lease lost");
    lost.cancel();
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_are_counted() {
        let first = acquired(None, "a");
        let second = acquired(Some(&first), "b");
        assert_eq!(
            (first.lease_transitions, second.lease_transitions),
            (Some(0), Some(1))
        );
        assert_eq!(second.holder_identity.as_deref(), Some("b"));
    }
}
