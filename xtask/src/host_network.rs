//! The changes that our own Docker Engine makes to the machine's network (bridges, packet filter
//! rules, forwarding) and how they are undone.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::context::Context;
use crate::step::Log;

/// The engine's default bridge. Build containers use it.
pub const ENGINE_BRIDGE: &str = "pinpipe0";
const ENGINE_ADDRESS: &str = "172.30.0.1/16";
/// The bridge of the network `kind`, which connects the nodes.
pub const KIND_BRIDGE: &str = "pinpipe1";
pub const KIND_SUBNET: &str = "172.31.0.0/16";

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

fn remove(context: &Context, log: &Log, interface: &str) -> Result<()> {
    if exists(interface) {
        log.run(context.command("ip").args(["link", "delete", interface]))
    } else {
        Ok(())
    }
}

/// Removes bridges that a killed run left behind, and creates the engine's.
pub fn make_bridge(context: &Context, log: &Log) -> Result<()> {
    remove(context, log, ENGINE_BRIDGE)?;
    remove(context, log, KIND_BRIDGE)?;
    log.run(
        context
            .command("ip")
            .args(["link", "add", "name", ENGINE_BRIDGE, "type", "bridge"]),
    )?;
    log.run(
        context
            .command("ip")
            .args(["address", "add", ENGINE_ADDRESS, "dev", ENGINE_BRIDGE]),
    )?;
    log.run(
        context
            .command("ip")
            .args(["link", "set", ENGINE_BRIDGE, "up"]),
    )
}

/// Saves the settings that an engine is about to change, unless they are saved already.
pub fn remember(context: &Context, log: &Log, file: &Path) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    let rules = log.output(context.command("iptables").args(["-S"]))?;
    let mut text = format!("forwarding {}\n", fs::read_to_string(FORWARDING)?.trim());
    if let Some(policy) = rules
        .lines()
        .find_map(|line| line.strip_prefix("-P FORWARD "))
    {
        writeln!(text, "policy {policy}")?;
    }
    if rules.contains("DOCKER") && !rules.contains(ENGINE_BRIDGE) {
        writeln!(text, "other-engine yes")?;
    }
    fs::write(file, text)?;
    Ok(())
}

/// Removes bridges and rules, and restores forwarding.
pub fn restore(context: &Context, log: &Log, file: &Path) -> Result<()> {
    remove(context, log, ENGINE_BRIDGE)?;
    remove(context, log, KIND_BRIDGE)?;
    let Ok(before) = fs::read_to_string(file) else {
        return Ok(());
    };
    let value = |key: &str| {
        before
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    };
    if value("other-engine").is_none() {
        for table in ["nat", "filter", "raw"] {
            let rules = log.output(context.command("iptables").args(["-t", table, "-S"]))?;
            for arguments in removals(&rules) {
                log.run(
                    context
                        .command("iptables")
                        .args(["-t", table])
                        .args(&arguments),
                )?;
            }
        }
    }
    if let Some(policy) = value("policy") {
        log.run(context.command("iptables").args(["-P", "FORWARD", policy]))?;
    }
    if let Some(forwarding) = value("forwarding") {
        fs::write(FORWARDING, forwarding)?;
    }
    fs::remove_file(file)?;
    Ok(())
}

/// The iptables arguments that remove Docker's rules and then its chains, from the output of
/// `iptables -S`.
fn removals(rules: &str) -> Vec<Vec<String>> {
    let ours = |text: &str| {
        ["DOCKER", "pinpipe0", "pinpipe1"]
            .iter()
            .any(|name| text.contains(name))
    };
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let appended = rules
        .lines()
        .filter(|line| ours(line))
        .filter_map(|line| line.strip_prefix("-A "));
    let chains: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.strip_prefix("-N "))
        .filter(|chain| ours(chain))
        .collect();
    let mut commands: Vec<Vec<String>> =
        appended.map(|rule| words(&format!("-D {rule}"))).collect();
    commands.extend(chains.iter().map(|chain| words(&format!("-F {chain}"))));
    commands.extend(chains.iter().map(|chain| words(&format!("-X {chain}"))));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dockers_rules_are_undone_and_chains_last() {
        let rules = "-P FORWARD DROP\n-N DOCKER\n-N MINE\n\
                     -A FORWARD -o pinpipe0 -j DOCKER\n-A FORWARD -j MINE\n";
        let commands: Vec<String> = removals(rules)
            .iter()
            .map(|words| words.join(" "))
            .collect();
        assert_eq!(
            commands,
            ["-D FORWARD -o pinpipe0 -j DOCKER", "-F DOCKER", "-X DOCKER"]
        );
    }
}
