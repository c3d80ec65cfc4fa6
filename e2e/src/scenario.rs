//! Running tests: one runtime per test program, and set-ups shared by several tests.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use anyhow::{Result, anyhow};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::{Sandbox, eventually::name_restarted_servers, finally};

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(Runtime::new);

/// Runs a future on the runtime shared by all tests of the program, so that clients created by one
/// test keep working in the next. An error also names the development servers that restarted.
pub fn run<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    RUNTIME
        .as_ref()
        .map_err(|e| anyhow!("no tokio runtime: {e}"))?
        .block_on(async {
            match test.await {
                Err(error) => Err(name_restarted_servers(error).await),
                passed => passed,
            }
        })
}

/// Runs one test in a sandbox of its own.
pub fn in_sandbox(name: &str, test: impl AsyncFnOnce(&Sandbox) -> Result<()>) -> Result<()> {
    run(Sandbox::with(name, test))
}

/// A set-up shared by several tests of a program, in a sandbox of its own.
pub trait Scenario: Sized + Send + Sync + 'static {
    /// The test name of the sandbox.
    const NAME: &'static str;

    /// Sets it up.
    fn set_up(sandbox: Sandbox) -> impl Future<Output = Result<Self>>;
}

/// A [`Scenario`] and the number of its tests that have yet to run. The last of them removes the
/// sandbox. When a filter skips some of the tests, the next run removes it.
pub struct SharedScenario<S> {
    state: OnceCell<(Sandbox, Result<S, String>)>,
    left: AtomicUsize,
}

impl<S: Scenario> SharedScenario<S> {
    /// A scenario used by `tests` tests.
    #[must_use]
    pub const fn new(tests: usize) -> Self {
        Self {
            state: OnceCell::const_new(),
            left: AtomicUsize::new(tests),
        }
    }

    /// Runs one of the tests.
    pub fn test(&self, test: impl AsyncFnOnce(&S) -> Result<()>) -> Result<()> {
        run(async {
            let (sandbox, scenario) = self
                .state
                .get_or_try_init(async || {
                    let sandbox = Sandbox::begin(S::NAME).await?;
                    let set_up = S::set_up(sandbox.clone()).await;
                    anyhow::Ok((sandbox, set_up.map_err(|e| format!("{e:#}"))))
                })
                .await?;
            let test = async {
                let scenario = scenario.as_ref();
                test(scenario.map_err(|error| anyhow!("setting up: {error}"))?).await
            };
            finally(test, async |passed| {
                let is_last = self.left.fetch_sub(1, SeqCst) == 1;
                sandbox.end(passed, is_last).await
            })
            .await
        })
    }
}
