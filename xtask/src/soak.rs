//! `cargo xtask soak`: runs the end-to-end tests of crashes and outages with many more repetitions
//! and longer outages than `cargo xtask test`.

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::test;

/// How many faults to inject, and how long outages last.
#[derive(Args)]
pub struct Options {
    /// How many times a worker is killed with SIGKILL
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// How many times a worker is frozen with SIGSTOP until others own its partitions, and then
    /// resumed with SIGCONT
    #[arg(long, default_value_t = 20)]
    freezes: usize,
    /// How many batch runs are killed
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long the broker and each store are stopped, in seconds
    #[arg(long, default_value_t = 120)]
    outage: u64,
}

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let settings = [
        ("PINPIPE_SOAK_KILLS", options.kills.to_string()),
        ("PINPIPE_SOAK_FREEZES", options.freezes.to_string()),
        ("PINPIPE_SOAK_RUNS", options.runs.to_string()),
        ("PINPIPE_SOAK_OUTAGE", options.outage.to_string()),
    ];
    test::end_to_end(context, &["kills", "outages"], &settings)
}
