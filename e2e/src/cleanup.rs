//! Undoing what a test did to the cluster, also when it fails or panics.

use std::panic::{AssertUnwindSafe, resume_unwind};

use anyhow::Result;
use futures::FutureExt as _;

/// Runs `work`, then `undo` with whether `work` succeeded, even if `work` panics. The error of
/// `work` takes precedence over that of `undo`, which is printed then.
pub fn finally<T>(
    work: impl Future<Output = Result<T>>,
    undo: impl AsyncFnOnce(bool) -> Result<()>,
) -> impl Future<Output = Result<T>> {
    // Boxed, because futures of whole tests are large.
    let work = Box::pin(work);
    async {
        let outcome = AssertUnwindSafe(work).catch_unwind().await;
        let succeeded = matches!(outcome, Ok(Ok(_)));
        let undone = undo(succeeded).await;
        if let (Err(error), false) = (&undone, succeeded) {
            println!("cleaning up: {error:#}");
        }
        match outcome {
            Ok(Ok(value)) => undone.map(|()| value),
            Ok(Err(error)) => Err(error),
            Err(panic) => resume_unwind(panic),
        }
    }
}
