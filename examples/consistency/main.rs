//! Many clients at once on one cluster with failures, and a check of their histories. `scripts/e2e-etcd.sh`
//! and `scripts/e2e-consul.sh` kill, stop and cut off servers in the meantime.
//!
//! `run` writes a history with an event on each line. `pools` does the same for the clients of a `subletd`.
//! `judge` reads the histories of any number of runs. `blind` is a proxy that removes every comparison from
//! the requests: with this proxy, the judge must find faults.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its answer")]

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
    /// Judges histories. The exit code is 1 if they are impossible with a correct store.
    Judge {
        /// Files from `run` or `pools`.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The minimum number of answers that is significant.
        #[arg(long, default_value_t = 1)]
        at_least: usize,
    },
    /// Forwards requests from one address to another, without their comparisons; does not end.
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
