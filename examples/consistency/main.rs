//! Runs many clients on one cluster while scripts inject faults, and checks the recorded histories.
//! `scripts/e2e-etcd.sh` and `scripts/e2e-consul.sh` inject the faults: they kill servers, stop them, and cut
//! their connections.
//!
//! `run` runs clients of the plugin, and writes a history with one event on each line. `pools` does the same
//! with clients of a `subletd`. `judge` reads the histories of any number of runs. `blind` is a proxy that
//! removes every comparison from the requests. In histories that were recorded through this proxy, `judge`
//! must find faults.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program prints its result")]

mod blind;
mod clients;
mod event;
mod judge;
mod pools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Runs clients, and writes their history.
    Run(clients::Run),
    /// Runs clients of a subletd, and writes their history.
    Pools(pools::Pools),
    /// Judges histories. The exit code is 1 if a correct store cannot have produced them.
    Judge {
        /// Files that `run` or `pools` has written.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The minimum number of calls with a known outcome that the judge needs
        #[arg(long, default_value_t = 1)]
        at_least: usize,
    },
    /// Runs a proxy that removes the comparisons from requests and forwards the requests to a server. It runs
    /// until it is killed.
    Blind { listen: SocketAddr, server: SocketAddr },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(run) => run.run(),
        Command::Pools(pools) => pools.run(),
        Command::Judge { files, at_least } => judge::judge(&files, at_least),
        Command::Blind { listen, server } => blind::serve(listen, server),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("consistency: {error:#}");
            ExitCode::FAILURE
        }
    }
}
