//! Records a second into a sink that drops them, on two cores and on one.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Bench, measure::median, servers, workers};

const TOPICS: &str = "cores";
/// The cores that the worker may use, in taskset's form.
const CORES: [&str; 2] = ["0", "0,1"];

pub fn run(bench: &Bench) -> Result<()> {
    let _kafka = servers::kafka(bench.context, &bench.folder)?;
    let records = bench.fill(TOPICS, bench.records / 2, 1, 0.0)?;
    let mut rates = CORES.map(|_| Vec::new());
    for number in 1..=bench.runs {
        for (cores, rates) in CORES.iter().zip(&mut rates) {
            let name = format!("cores-{}-{number}", rates.len());
            let config = workers::dropping(bench, &format!("{name}-{cores}"), TOPICS)?;
            let output = Command::new("taskset")
                .args(["--cpu-list", cores])
                .arg(bench.binaries.join("examples/dropping"))
                .arg(config)
                .arg(records.to_string())
                .stderr(Stdio::inherit())
                .output()
                .context("starting taskset")?;
            ensure!(output.status.success(), "it ended with {}", output.status);
            let text = String::from_utf8(output.stdout)?;
            let seconds: f64 = text.trim().parse().context("it printed no seconds")?;
            let rate = records as f64 / seconds;
            println!("   on cores {cores}, run {number}: {rate:.0} records a second");
            rates.push(rate);
        }
    }
    let [one, two] = rates.map(median);
    println!(
        "\nInto a sink that drops records, {records} records: {one:.0} records a second on one \
         core, {two:.0} on two: {:.2} times as many\n",
        two / one
    );
    Ok(())
}
