//! Fuzzes the commands that only read. The input is a list of command-line arguments, one per line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sublet_fuzz::Lab;

const COMMANDS: [&str; 9] =
    ["list", "show", "pools", "map", "history", "stats", "doctor", "check", "help"];

fuzz_target!(|input: &str| {
    let lab = Lab::new();
    let conf = lab.conf().to_string();
    lab.plugin("ADD", &[("CNI_ARGS", "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod")], conf.as_bytes());
    // Leave out options that repair the store or name another store, and options that keep a command running
    // forever.
    let is_harmless = |arg: &&str| {
        !["--re", "--st", "--wat", "-w"].iter().any(|start| arg.starts_with(start))
    };
    let args: Vec<&str> = input.lines().filter(is_harmless).take(7).collect();
    if args.first().is_some_and(|command| COMMANDS.contains(command)) {
        lab.command(&args);
    }
});
