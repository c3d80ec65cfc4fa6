//! Inspections: what a pipeline's data are where they lie. Read only: no group commits, nothing is
//! created in a store.
//!
//! The command runs in a pod that `kubectl pinpipe` makes and has
//! - the configuration of each component below `--folder`, see [`pinpipe_config::inspect`];
//! - the Secrets of these components, mounted where they have them;
//! - a writable folder at the batch's `scratchDir` (`/tmp`), for one object of the state at a time.
//!
//! Results go to standard output in the form that [`pinpipe_config::inspect`] describes, log lines
//! to standard error, the sentence of a failure to the termination message, too.

mod args;
mod components;
mod deadletters;
mod form;
mod objects;
#[cfg(test)]
mod server_tests;
mod tail;
mod trace;
mod verify;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use pinpipe_config::inspect::{Done, Line};
use pinpipe_runtime::shutdown;
use serde::Serialize;
use tracing::error;

pub use self::args::Args;
use self::{
    args::{Command, DeadlettersCommand},
    components::Components,
};
use crate::{failure, termination};

/// Carries out an inspection and prints its results.
pub fn run(args: &Args) -> ExitCode {
    let done = execute(args).and_then(|problems| print(&Line::<()>::Done(Done { problems })));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            let message = format!("{error:#}");
            let message = termination::shortened(&message, termination::LIMIT);
            termination::write(&args.termination_log, message);
            failure::exit_code(&error).into()
        }
    }
}

fn execute(args: &Args) -> Result<u64> {
    let components = Components::read(&args.folder)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let problems = runtime.block_on(async {
        let stop = shutdown::on_signal();
        tokio::select! {
            biased;
            () = stop.cancelled() => match &args.command {
                Command::Tail(tail) if tail.follow => Ok(0),
                _ => bail!("stopped by a signal before all was read"),
            },
            problems = inspect(&components, &args.command) => problems,
        }
    });
    // A request that still waits must not delay the end.
    runtime.shutdown_background();
    problems
}

/// Returns the number of problems.
async fn inspect(components: &Components, command: &Command) -> Result<u64> {
    match command {
        Command::Trace(args) => {
            let places = Box::pin(trace::trace(components, args)).await?;
            print_all(&places)?;
            Ok(trace::missing(&places))
        }
        Command::Verify => {
            Box::pin(verify::verify(components, &mut |finding| {
                print_one(&finding)
            }))
            .await
        }
        Command::Tail(args) => {
            if args.rejected {
                deadletters::tail(components, args, &mut |letter| print_one(&letter)).await?;
            } else {
                tail::tail(components, args, &mut |record| print_one(&record)).await?;
            }
            Ok(0)
        }
        Command::Deadletters(DeadlettersCommand::List(filter)) => {
            print_all(&deadletters::list(components, filter).await?)?;
            Ok(0)
        }
        Command::Deadletters(DeadlettersCommand::Show(args)) => {
            let limit = usize::try_from(args.limit)?;
            print_all(&deadletters::show(components, &args.filter, limit).await?)?;
            Ok(0)
        }
    }
}

fn print_all<T: Serialize>(results: &[T]) -> Result<()> {
    results.iter().try_for_each(print_one)
}

fn print_one<T: Serialize>(result: &T) -> Result<()> {
    print(&Line::Result(result))
}

fn print<T: Serialize>(line: &Line<T>) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&text)
        .and_then(|()| out.flush())
        .context("can't write to standard output")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::testing::TestDir;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn lines_are_objects_of_one_field() {
        let json = |line: &Line<u8>| serde_json::to_string(line).unwrap();
        assert_eq!(json(&Line::Result(7)), r#"{"result":7}"#);
        let done = Line::Done(Done { problems: 2 });
        assert_eq!(json(&done), r#"{"done":{"problems":2}}"#);
    }

    #[test]
    fn the_components_that_a_folder_has_are_read() {
        let folder = TestDir::new();
        for (component, sample) in [
            (
                "batch",
                include_str!("../../../config/samples/0.1.0/batch.yaml"),
            ),
            (
                "archive",
                include_str!("../../../config/samples/0.1.0/archive.yaml"),
            ),
            (
                "sinks/live",
                include_str!("../../../config/samples/0.1.0/stream-live.yaml"),
            ),
        ] {
            fs::create_dir_all(folder.file(component)).unwrap();
            fs::write(folder.file(component).join("config.yaml"), sample).unwrap();
        }
        let all = Components::read(folder.path()).unwrap();
        let sinks: Vec<&str> = all.live.iter().map(|live| &*live.postgres.name).collect();
        assert_eq!(sinks, ["live"]);
        assert!(all.batch.is_some() && all.zone.is_some());
        assert_eq!(all.archive_group.as_deref(), Some("data.pinterest.archive"));
        for component in ["batch", "archive"] {
            fs::remove_dir_all(folder.file(component)).unwrap();
        }
        let live = Components::read(folder.path()).unwrap();
        assert!(live.batch.is_none() && live.zone.is_none() && live.archive_group.is_none());
        assert_eq!(live.shared.topics, all.shared.topics);
    }

    #[test]
    fn a_folder_without_a_configuration_is_a_permanent_failure() {
        let folder = TestDir::new();
        let (path, log) = (folder.path(), folder.file("log"));
        fs::write(&log, "").unwrap();
        let options = [
            "inspect".into(),
            format!("--folder={}", path.display()),
            format!("--termination-log={}", log.display()),
            "verify".into(),
        ];
        let code = run(&Cli::parse_from(options).args);
        let permanent = ExitCode::from(pinpipe_config::EXIT_PERMANENT_FAILURE);
        assert_eq!(format!("{code:?}"), format!("{permanent:?}"));
        let sentence = fs::read_to_string(log).unwrap();
        assert!(
            sentence.contains("no component's configuration"),
            "{sentence}"
        );
        assert!(sentence.contains(path.to_str().unwrap()), "{sentence}");
    }
}
