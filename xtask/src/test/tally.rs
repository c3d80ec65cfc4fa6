//! Counts of checks and tests.

use anyhow::{Result, ensure};

use crate::context::Context;
use crate::step::{Log, step};

/// The numbers of checks and tests that passed and failed.
#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

impl Tally {
    /// Runs a check as a step and counts its result.
    pub fn check(
        &mut self,
        context: &Context,
        title: &str,
        hint: &str,
        work: impl FnOnce(&Log) -> Result<()>,
    ) -> bool {
        let passed = step(context, title, hint, work).is_ok();
        self.passed += usize::from(passed);
        self.failed += usize::from(!passed);
        passed
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Counts tests that could not be started as one failure.
    pub fn not_started(&mut self, what: &str, why: &anyhow::Error) {
        eprintln!("FAILED {what} could not be started: {why:#}");
        self.failed += 1;
    }

    /// Prints the counts, as the last line; fails if anything failed.
    pub fn finish(&self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        ensure!(self.failed == 0, "not everything passed: see above");
        Ok(())
    }
}
