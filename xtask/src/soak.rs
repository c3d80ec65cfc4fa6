//! `cargo xtask soak`: the end-to-end tests of crashes and outages in their long form. `cargo xtask
//! test` runs the short form.

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::test;

/// How often and how long.
#[derive(Args)]
pub struct Options {
    /// How often a worker is killed with SIGKILL
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// How often a worker is frozen with SIGSTOP until others own its partitions, and then resumed
    /// with SIGCONT
    #[arg(long, default_value_t = 20)]
    freezes: usize,
    /// How many batch runs are killed
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long the broker and each store are stopped, seconds
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
