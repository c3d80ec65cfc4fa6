//! One runtime for all tests of a binary, and set-ups that several tests look at.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use anyhow::{Result, anyhow};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::Space;

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(Runtime::new);

/// Runs a test on the runtime that all tests of the binary share: clients made by one test go on
/// working in the next.
pub fn run<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    RUNTIME
        .as_ref()
        .map_err(|e| anyhow!("no tokio runtime: {e}"))?
        .block_on(test)
}

/// Runs one test in a space of its own.
pub fn in_space(name: &str, test: impl AsyncFnOnce(&Space) -> Result<()>) -> Result<()> {
    run(Space::with(name, test))
}

/// Something set up once, in a space of its own, for several tests of a binary.
pub trait Scenario: Sized + Send + Sync + 'static {
    /// The name of its space.
    const NAME: &'static str;

    /// Sets it up.
    fn set_up(space: Space) -> impl Future<Output = Result<Self>>;
}

/// A [`Scenario`] and its tests. The space is removed after the last of them has passed; a run of
/// fewer leaves it to the next.
pub struct Shared<S> {
    made: OnceCell<(Space, Result<S, String>)>,
    left: AtomicUsize,
}

impl<S: Scenario> Shared<S> {
    /// A scenario that `tests` tests look at.
    #[must_use]
    pub const fn new(tests: usize) -> Self {
        Self {
            made: OnceCell::const_new(),
            left: AtomicUsize::new(tests),
        }
    }

    /// Runs one of the tests.
    pub fn test(&self, test: impl AsyncFnOnce(&S) -> Result<()>) -> Result<()> {
        run(async {
            let (space, scenario) = self
                .made
                .get_or_try_init(async || {
                    let space = Space::begin(S::NAME).await?;
                    let made = S::set_up(space.clone()).await;
                    if made.is_err() {
                        println!("{}", space.diagnosis().await);
                    }
                    anyhow::Ok((space, made.map_err(|e| format!("{e:#}"))))
                })
                .await?;
            let scenario = scenario
                .as_ref()
                .map_err(|error| anyhow!("setting up: {error}"))?;
            match test(scenario).await {
                Ok(()) if self.left.fetch_sub(1, SeqCst) == 1 => space.end().await,
                Ok(()) => Ok(()),
                Err(error) => {
                    println!("{}", space.diagnosis().await);
                    Err(error)
                }
            }
        })
    }
}
