//! How a command ends: its exit status, and the sentence about what went wrong.

use std::{fmt, io, process::ExitCode};

/// What a command found: whether the answer is the good one, exit status 0, or not, 1.
pub type Outcome = Result<bool, Failure>;

/// Why a command has no answer.
#[derive(Debug)]
pub enum Failure {
    /// An argument is wrong, or a file can't be read.
    Usage(String),
    /// The cluster can't be reached, lacks the object, or refuses the request.
    Cluster(String),
    /// Standard output can't be written.
    Output(io::Error),
}

impl Failure {
    /// Exit status.
    const fn status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Output(_) => 2,
            Self::Cluster(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Cluster(message) => f.write_str(message),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

/// Exit status of a command. Prints why it has no answer.
#[must_use]
pub fn end(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.status())
        }
    }
}
