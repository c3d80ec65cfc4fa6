//! What only `cargo xtask test --all` runs.

use std::fmt::Write as _;

/// Something that a normal `test` leaves out.
struct Slow {
    what: &'static str,
    left_out: LeftOut,
    because: &'static str,
}

enum LeftOut {
    /// An end-to-end test program.
    Program(&'static str),
    /// The extent of a test program, which these environment variables set.
    Settings(&'static [(&'static str, &'static str)]),
}

const SLOW: [Slow; 6] = [
    Slow {
        what: "e2e/tests/release.rs",
        left_out: LeftOut::Program("release"),
        because: "it upgrades, rolls back and reinstalls the chart under load while nothing else \
                  may use the operator",
    },
    Slow {
        what: "the proof `many` with 1,000 pipelines, ten minutes at rest",
        left_out: LeftOut::Settings(&[("PINPIPE_MANY", "1000"), ("PINPIPE_MANY_REST", "600")]),
        because: "with so many each is reconciled every few minutes, so it takes half an hour; 100 \
                  pipelines were proven here",
    },
    Slow {
        what: "the stream worker's model with 100,000 seeds",
        left_out: LeftOut::Settings(&[("PINPIPE_SEEDS", "100000")]),
        because: "they take half an hour; 2,000 were run here",
    },
    Slow {
        what: "2,000 sequences of calls to each sink",
        left_out: LeftOut::Settings(&[("PINPIPE_SEQUENCES", "2000")]),
        because: "they take minutes; 200 were run here",
    },
    Slow {
        what: "200 requests made up of each operation of ingest's description",
        left_out: LeftOut::Settings(&[("PINPIPE_EXAMPLES", "200")]),
        because: "they take minutes; 10 were made up here",
    },
    Slow {
        what: "the batch worker's buckets with 3,000,000 records",
        left_out: LeftOut::Settings(&[("PINPIPE_BUCKET_RECORDS", "3000000")]),
        because: "they take minutes; 200,000 versions of one key were folded here",
    },
];

/// Whether an end-to-end test program is left out of a normal run.
pub fn is_slow(program: &str) -> bool {
    SLOW.iter()
        .any(|slow| matches!(slow.left_out, LeftOut::Program(name) if name == program))
}

/// The environment of test programs.
pub fn settings(all: bool) -> Vec<(&'static str, String)> {
    let settings = SLOW.iter().flat_map(|slow| match slow.left_out {
        LeftOut::Settings(settings) if all => settings,
        LeftOut::Settings(_) | LeftOut::Program(_) => &[],
    });
    let settings = settings.map(|(name, value)| (*name, (*value).to_owned()));
    settings.collect()
}

/// A line for each thing that was left out.
pub fn left_out() -> String {
    let mut text = String::new();
    for Slow { what, because, .. } in SLOW {
        let _ = writeln!(text, "not run here: {what}, because {because}");
    }
    text + "`cargo xtask test --all` runs these too\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_of_all_makes_programs_larger() {
        assert!(is_slow("release") && !is_slow("modes"));
        assert!(settings(false).is_empty());
        let all = settings(true);
        assert!(
            all.contains(&("PINPIPE_MANY", "1000".to_owned())),
            "{all:?}"
        );
    }
}
