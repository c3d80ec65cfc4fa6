//! `completion`: completion scripts for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{failure::Outcome, output::print};

/// Arguments of `completion`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script that completes the command line `C`.
pub fn run<C: CommandFactory>(arguments: &Arguments) -> Outcome {
    let mut script = Vec::new();
    let mut command = C::command();
    clap_complete::generate(
        arguments.shell,
        &mut command,
        "kubectl-pinpipe",
        &mut script,
    );
    print(&String::from_utf8_lossy(&script))?;
    Ok(true)
}
