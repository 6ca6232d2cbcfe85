//! Many clients at once on one cluster, whatever happens to it meanwhile, and the judgement of what
//! they were told: `scripts/e2e-etcd.sh` and `scripts/e2e-consul.sh` kill, stop and cut off servers
//! beside it.
//!
//! `run` writes a history, an event a line, and so does `pools`, whose clients are those of a `subletd`;
//! `judge` reads the histories of any number of runs; `blind` is a proxy that takes every comparison out of the requests: with it the judgement must fail.

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
    /// Runs clients, and writes what they were told.
    Run(clients::Run),
    /// Runs clients of a subletd, and writes what they were told.
    Pools(pools::Pools),
    /// Judges histories; exit code 1 if they cannot be true of a sound store.
    Judge {
        /// What `run` wrote.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Fewer answers than this prove nothing.
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
