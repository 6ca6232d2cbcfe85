//! `sublet`: the CNI plugin if a container runtime calls it, otherwise the operator's command line.
//!
//! This file handles the arguments, the environment, the streams and the exit code of the process. Everything
//! that needs tests is in [`cni`] and [`cli`].

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use sublet::cli;
use sublet::cli::Terminal;
use sublet::cli::screen::Screen;
use sublet::cni;
use sublet::store;
use sublet::sys::{host, panic, process};

/// This allocator makes fewer system calls and touches fewer pages in a short run than musl's allocator.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    process::prepare();
    // Panics must print nothing: a damaged file can make redb panic, and the store turns that panic into an
    // error.
    panic::record();
    let args: Vec<OsString> = env::args_os().collect();
    if let Some(answer) = cni::ecs_agent_answer(&args) {
        let written = writeln!(io::stdout(), "{answer}");
        return ExitCode::from(u8::from(written.is_err()));
    }
    // If a user types `sublet` without arguments on a terminal, print the usage.
    let typed = || environment("CNI_COMMAND").is_none() && io::stdin().is_terminal();
    if args.len() > 1 || typed() { command_line(args) } else { plugin() }
}

fn command_line(args: Vec<OsString>) -> ExitCode {
    let facts = host::facts(&environment);
    let world = cli::World { env: &environment, facts: &facts };
    let screen = Screen::find(&environment);
    let mut terminal = Terminal { stdout: &mut io::stdout(), stderr: &mut io::stderr(), screen };
    ExitCode::from(cli::run(args, world, &mut terminal))
}

fn plugin() -> ExitCode {
    store::one_shot();
    ExitCode::from(cni::run(cni::World {
        env: &environment,
        stdin: &mut io::stdin().lock() as &mut dyn Read,
        stdout: &mut process::Stdout,
        stderr: &mut io::stderr(),
        facts: &|| host::facts(&environment),
    }))
}

#[allow(clippy::disallowed_methods, reason = "the environment is read only here")]
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}
