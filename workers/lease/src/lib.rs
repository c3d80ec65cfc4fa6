//! One at a time: a Kubernetes `Lease`, held by a batch run while it lasts, and by the operator
//! that works while others stand by.
//!
//! Every write carries the `resourceVersion` it was based on, so of two that try at once one loses.
//! A holder that died is recognised without comparing clocks of two machines: the `Lease` has not
//! changed for its own duration, measured here. A holder that can't renew stops before anyone else
//! may begin.

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

/// How long a `Lease` is valid after its last renewal. A crashed holder delays the next by this
/// much.
const DURATION: Duration = Duration::from_secs(15);
/// How often a holder renews.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A holder that could not renew for this long gives up: before anyone else may take over.
const GIVE_UP_AFTER: Duration = Duration::from_secs(11);
/// How long one request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How often one who waits looks again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait at least so as to outlive a crashed holder, not a living one.
pub const OUTLIVES_A_CRASH: Duration = Duration::from_secs(25);

/// Why the `Lease` was not got, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another is at work.
    #[error(
        "another ({holder}) holds the Lease {name}: wait until that has ended, then start this one again"
    )]
    Busy {
        /// The `Lease`.
        name: String,
        /// The identity of its holder.
        holder: String,
    },
    /// The API server refused or can't be reached.
    #[error("the Lease {name} can't be taken: {source}{}", hint(source))]
    Api {
        /// The `Lease`.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("the Lease {name} can't be taken: the API server does not answer")]
    Silent {
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
            " (the ServiceAccount needs get, create and update on it: was its Role changed by hand?)"
        }
        _ => "",
    }
}

/// The `Lease` while we hold it. Dropped without [`Held::release`] it simply runs out.
pub struct Held {
    api: Api<Lease>,
    proof: Proof,
    renewal: JoinHandle<()>,
}

/// Tells whether a `Lease` is still held. Clones tell of the same one.
#[derive(Clone)]
pub struct Proof {
    name: String,
    state: Arc<Mutex<State>>,
    lost: CancellationToken,
}

impl Proof {
    /// Whether the `Lease` is still ours at this moment: asked before anything is written, since a
    /// process that was stopped and went on may come here before its renewal notices.
    pub fn check(&self) -> Result<(), LeaseError> {
        if self.lost.is_cancelled() || lock(&self.state).renewed.elapsed() > GIVE_UP_AFTER {
            return Err(LeaseError::Lost {
                name: self.name.clone(),
            });
        }
        Ok(())
    }
}

/// The name one holds a `Lease` by: the host's, which is the pod's, and the process' number. A
/// container restarted in its pod has the same: its predecessor is gone, and it need not wait.
pub async fn identity() -> String {
    let host = tokio::fs::read_to_string("/proc/sys/kernel/hostname")
        .await
        .unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// The `Lease` as we last wrote it, and when we began to write it.
struct State {
    lease: Lease,
    renewed: Instant,
}

/// Takes the `Lease` for `identity`. While another has it waits for so long, or (`None`) until it
/// is free.
pub async fn acquire(
    api: Api<Lease>,
    name: &str,
    identity: &str,
    patience: Option<Duration>,
) -> Result<Held, LeaseError> {
    let begun = Instant::now();
    let mut watched = Watched::default();
    let mut told = false;
    loop {
        let renewed = Instant::now();
        let problem = match attempt(&api, name, identity, &mut watched).await {
            Ok(Attempt::Got(lease)) => {
                info!(lease = name, "the Lease is ours");
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
            Ok(Attempt::HeldBy(holder)) => {
                if !told {
                    info!(lease = name, %holder, "another holds the Lease, waiting");
                    told = true;
                }
                LeaseError::Busy {
                    name: name.to_owned(),
                    holder,
                }
            }
            Ok(Attempt::Raced) => continue,
            Err(error @ LeaseError::Api { .. }) if is_refusal(&error) => return Err(error),
            Err(error) => {
                warn!(lease = name, %error, "trying again");
                error
            }
        };
        if patience.is_some_and(|patience| begun.elapsed() > patience) {
            return Err(problem);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_refusal(error: &LeaseError) -> bool {
    matches!(error, LeaseError::Api { source, .. }
        if matches!(&**source, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 422)))
}

enum Attempt {
    Got(Box<Lease>),
    HeldBy(String),
    Raced,
}

/// One look, and one write if the `Lease` is free.
async fn attempt(
    api: &Api<Lease>,
    name: &str,
    identity: &str,
    watched: &mut Watched,
) -> Result<Attempt, LeaseError> {
    let write = match request(name, api.get_opt(name)).await? {
        None => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(taken(None, identity)),
            };
            request(name, api.create(&PostParams::default(), &lease)).await
        }
        Some(mut lease) => {
            if let Some(holder) = watched.holder(&lease, identity, Instant::now()) {
                return Ok(Attempt::HeldBy(holder));
            }
            lease.spec = Some(taken(lease.spec.as_ref(), identity));
            request(name, api.replace(name, &PostParams::default(), &lease)).await
        }
    };
    match write {
        Ok(lease) => Ok(Attempt::Got(Box::new(lease))),
        Err(error) if is_conflict(&error) => Ok(Attempt::Raced),
        Err(error) => Err(error),
    }
}

/// What one who waits has seen of the holder: its last write and since when that has stood.
#[derive(Default)]
struct Watched(Option<(String, Instant)>);

impl Watched {
    /// Who holds `lease` and is, as far as can be told at `now`, alive. Our own identity is that of
    /// a container which ran in this pod before us and is gone, so it doesn't count.
    fn holder(&mut self, lease: &Lease, identity: &str, now: Instant) -> Option<String> {
        let spec = lease.spec.as_ref()?;
        let holder = spec
            .holder_identity
            .as_deref()
            .filter(|holder| !holder.is_empty() && *holder != identity)?;
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.0 {
            Some((seen, since)) if *seen == version => {
                let valid = spec
                    .lease_duration_seconds
                    .and_then(|s| u64::try_from(s).ok())
                    .map_or(DURATION, Duration::from_secs);
                (now.duration_since(*since) < valid).then(|| holder.to_owned())
            }
            _ => {
                self.0 = Some((version, now));
                Some(holder.to_owned())
            }
        }
    }
}

/// The spec with which `identity` becomes the holder.
fn taken(before: Option<&LeaseSpec>, identity: &str) -> LeaseSpec {
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
        Err(_) => Err(LeaseError::Silent {
            name: name.to_owned(),
        }),
    }
}

fn is_conflict(error: &LeaseError) -> bool {
    matches!(error, LeaseError::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
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

    /// What tells others in this process whether the `Lease` is still held.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof.clone()
    }

    /// Ends when the `Lease` is lost, never before.
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

    /// Lets the next in at once.
    pub async fn release(self) {
        self.renewal.abort();
        let Proof { name, state, lost } = self.proof;
        // An aborted renewal may have written a moment ago: then this write meets another version
        // and the Lease runs out.
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
                warn!(lease = name, %error, "the Lease was not released, it runs out by itself")
            }
        }
    }
}

/// Renews until the `Lease` is someone else's or could not be renewed in time; then cancels `lost`.
async fn renew(
    api: Api<Lease>,
    name: String,
    identity: String,
    state: Arc<Mutex<State>>,
    lost: CancellationToken,
) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let renewed = Instant::now();
        let mut lease = lock(&state).lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match request(&name, api.replace(&name, &PostParams::default(), &lease)).await {
            Ok(lease) => *lock(&state) = State { lease, renewed },
            Err(error) => {
                warn!(lease = name, %error, "the Lease could not be renewed");
                // A conflict: someone edited the object, or our own write came through though its
                // answer did not.
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
        if lock(&state).renewed.elapsed() > GIVE_UP_AFTER {
            break;
        }
    }
    warn!(lease = name, "the Lease is lost");
    lost.cancel();
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(taken(None, holder)),
        }
    }

    #[test]
    fn a_holder_is_alive_until_its_lease_has_stood_still_for_its_duration() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        let held = Some("other".to_owned());
        assert_eq!(watched.holder(&lease("other", "1"), "me", start), held);
        let almost = DURATION.saturating_sub(Duration::from_millis(1));
        assert_eq!(
            watched.holder(&lease("other", "1"), "me", start + almost),
            held
        );
        assert_eq!(
            watched.holder(&lease("other", "2"), "me", start + almost),
            held,
            "renewed: it counts from anew"
        );
        assert_eq!(
            watched.holder(&lease("other", "2"), "me", start + almost + almost),
            held
        );
        assert_eq!(
            watched.holder(&lease("other", "2"), "me", start + almost + DURATION),
            None
        );
    }

    #[test]
    fn released_or_our_own_is_free() {
        for holder in ["", "me"] {
            assert_eq!(
                Watched::default().holder(&lease(holder, "1"), "me", Instant::now()),
                None
            );
        }
    }

    #[test]
    fn a_holder_gives_up_before_another_may_take_over() {
        assert!(GIVE_UP_AFTER + REQUEST_TIMEOUT <= DURATION);
        assert!(DURATION < OUTLIVES_A_CRASH);
    }

    #[test]
    fn transitions_are_counted() {
        let first = taken(None, "a");
        let second = taken(Some(&first), "b");
        assert_eq!(
            (first.lease_transitions, second.lease_transitions),
            (Some(0), Some(1))
        );
        assert_eq!(second.holder_identity.as_deref(), Some("b"));
    }
}
