//! Tokens of SASL/OAUTHBEARER, requested again in time.

use std::{
    fmt,
    hash::{Hash, Hasher},
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, anyhow};

/// How long after a failed request the next is made, while the latest token is valid.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// A token.
#[derive(Clone)]
pub struct Token {
    /// What the broker gets.
    pub value: String,
    /// When it expires.
    pub expires: SystemTime,
}

type Source = dyn Fn() -> Result<Token> + Send + Sync;

/// A source of tokens and the latest of them. Clones share it.
///
/// Clients ask for tokens on threads that must not block for long, such as those of the runtime
/// that polls them, so each token is requested on a thread of its own.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    source: Box<Source>,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// The latest token, and when the next is requested.
    latest: Option<(Token, SystemTime)>,
    is_requesting: bool,
    /// Why the last request failed.
    error: Option<String>,
}

impl Tokens {
    /// Tokens of this source, which may block.
    pub fn new(source: impl Fn() -> Result<Token> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            source: Box::new(source),
            state: Mutex::default(),
            answered: Condvar::new(),
        }))
    }

    /// A token that hasn't expired. Requests a new one when two thirds of the lifetime of the
    /// latest are over, and waits for it, up to `wait`, only once the latest has expired.
    pub(super) fn get(&self, wait: Duration) -> Result<Token> {
        let deadline = Instant::now() + wait;
        let mut state = self.state();
        let now = SystemTime::now();
        let is_due = state.latest.as_ref().is_none_or(|(_, next)| *next <= now);
        if is_due && !state.is_requesting {
            state.is_requesting = true;
            let tokens = self.clone();
            thread::spawn(move || tokens.request());
        }
        loop {
            let latest = state.latest.as_ref().map(|(token, _)| token);
            if let Some(token) = latest.filter(|token| token.expires > SystemTime::now()) {
                return Ok(token.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !state.is_requesting {
                break;
            }
            let waited = self.0.answered.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let error = state.error.as_deref();
        Err(anyhow!(
            error
                .unwrap_or("no answer yet to the request for a token")
                .to_owned()
        ))
    }

    fn request(&self) {
        let asked = SystemTime::now();
        // After a panic, too, the next may be requested.
        let answer = panic::catch_unwind(AssertUnwindSafe(|| (self.0.source)()));
        let answer = answer
            .unwrap_or_else(|_| Err(anyhow!("the request for a token panicked; see the log")));
        let mut state = self.state();
        state.is_requesting = false;
        match answer {
            Ok(token) => {
                let lifetime = token.expires.duration_since(asked).unwrap_or_default();
                state.latest = Some((token, asked + lifetime * 2 / 3));
                state.error = None;
            }
            Err(error) => {
                state.error = Some(format!("{error:#}"));
                if let Some((token, next)) = &mut state.latest {
                    *next = token.expires.min(SystemTime::now() + RETRY_DELAY);
                }
            }
        }
        drop(state);
        self.0.answered.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Debug output without the token.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tokens {}

impl Hash for Tokens {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn token(number: u32, lifetime: Duration) -> Token {
        Token {
            value: number.to_string(),
            expires: SystemTime::now() + lifetime,
        }
    }

    /// Tokens whose values count the requests.
    fn counted(lifetime: Duration) -> Tokens {
        let requests = AtomicU32::new(0);
        Tokens::new(move || Ok(token(requests.fetch_add(1, Ordering::SeqCst), lifetime)))
    }

    #[test]
    fn a_token_is_used_until_it_is_due() {
        for (lifetime, expected) in [(LONG, ["0", "0"]), (Duration::from_nanos(1), ["", ""])] {
            let tokens = counted(lifetime);
            let values = [0, 1].map(|_| tokens.get(LONG).map(|token| token.value));
            assert_eq!(values.map(Result::unwrap_or_default), expected);
        }
    }

    #[test]
    fn a_valid_token_is_used_while_the_next_is_late_and_the_next_once_it_is_there() {
        let (allow, allowed) = mpsc::channel();
        let (allowed, requests) = (Mutex::new(allowed), AtomicU32::new(0));
        let tokens = Tokens::new(move || {
            allowed.lock().unwrap().recv()?;
            Ok(token(requests.fetch_add(1, Ordering::SeqCst), LONG))
        });
        let get = |wait| tokens.get(wait).map(|token| token.value);
        let error = get(Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("no answer yet"), "{error}");
        allow.send(()).unwrap();
        assert_eq!(get(LONG).unwrap(), "0");
        // Make it due: the next is requested, and nobody waits for it.
        if let Some((_, next)) = &mut tokens.state().latest {
            *next = SystemTime::now();
        }
        let asked = Instant::now();
        assert_eq!(get(LONG).unwrap(), "0");
        assert!(asked.elapsed() < LONG);
        assert!(tokens.state().is_requesting);
        // Once the latest has expired, it is waited for.
        if let Some((token, _)) = &mut tokens.state().latest {
            token.expires = SystemTime::now();
        }
        allow.send(()).unwrap();
        assert_eq!(get(LONG).unwrap(), "1");
    }

    #[test]
    fn a_panic_of_the_source_is_an_error_and_the_next_token_is_requested() {
        let requests = AtomicU32::new(0);
        let tokens = Tokens::new(move || {
            let number = requests.fetch_add(1, Ordering::SeqCst);
            assert_ne!(number, 0, "the first request");
            Ok(token(number, LONG))
        });
        let get = || tokens.get(LONG).map(|token| token.value);
        let error = get().unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
        assert_eq!(get().unwrap(), "1");
    }

    #[test]
    fn a_source_that_fails_is_not_asked_again_at_once_while_a_token_is_valid() {
        let requests = Arc::new(AtomicU32::new(0));
        let counted = requests.clone();
        let tokens = Tokens::new(move || match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(token(0, LONG)),
            _ => Err(anyhow!("the role is gone")),
        });
        tokens.get(LONG).unwrap();
        if let Some((_, next)) = &mut tokens.state().latest {
            *next = SystemTime::now();
        }
        tokens.request();
        assert_eq!(tokens.get(LONG).unwrap().value, "0");
        assert!(!tokens.state().is_requesting);
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_error_of_the_source_is_passed_on() {
        let tokens = Tokens::new(|| Err(anyhow!("the role is gone")));
        let error = tokens.get(LONG).map(|token| token.value).unwrap_err();
        assert_eq!(error.to_string(), "the role is gone");
    }
}
