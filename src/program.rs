//! `sublet` and `sublet-cluster`: the plugin when a container runtime calls it, the operator's
//! command line else.
//!
//! Owns: the process: its arguments, environment, streams and exit code. Does not own: which stores
//! and commands are linked in, which is all that the two differ in; anything that a test should reach.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::cli;
use crate::cli::Terminal;
use crate::cli::screen::Screen;
use crate::cni;
use crate::cni::World;
use crate::store::Open;
use crate::sys::{host, panic, process};

/// Carries out what this process was started for; `command_line` is for a person's calls.
pub fn run(open: Open, command_line: fn(Open) -> ExitCode) -> ExitCode {
    process::prepare();
    // A damaged file can make the store's engine panic; the store answers that with an error.
    panic::record();
    let mut args = env::args_os();
    let name = args.next().unwrap_or_default();
    let Some(arg) = args.next() else {
        return plugin(open);
    };
    if let Some(answer) = ecs_answer(&name, &arg) {
        let done = writeln!(io::stdout(), "{answer}");
        return ExitCode::from(u8::from(done.is_err()));
    }
    command_line(open)
}

/// The operator's commands.
pub fn command_line(open: Open) -> ExitCode {
    let facts = host::facts(&environment);
    let world = cli::World { env: &environment, facts: &facts, open };
    let screen = Screen::find(&environment);
    let mut terminal = Terminal { stdout: &mut io::stdout(), stderr: &mut io::stderr(), screen };
    ExitCode::from(cli::run(env::args_os().collect(), world, &mut terminal))
}

#[allow(clippy::disallowed_methods, reason = "here the environment enters the program")]
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}

fn plugin(open: Open) -> ExitCode {
    ExitCode::from(cni::run(World {
        env: &environment,
        stdin: &mut io::stdin().lock() as &mut dyn Read,
        stdout: &mut process::Stdout,
        stderr: &mut io::stderr(),
        facts: &|| host::facts(&environment),
        open,
    }))
}

/// What the ECS agent asks its plugin before it uses it.
fn ecs_answer(name: &OsStr, arg: &OsStr) -> Option<String> {
    if Path::new(name).file_name()? != "ecs-ipam" {
        return None;
    }
    match arg.to_str()? {
        "--capabilities" => Some(r#"{"capabilities":["awsvpc-network-mode"]}"#.to_owned()),
        "--version" => Some(format!(
            r#"{{"version":"{}","dirty":false,"gitShortHash":"{}"}}"#,
            env!("CARGO_PKG_VERSION"),
            option_env!("SUBLET_GIT_HASH").unwrap_or("unknown")
        )),
        _ => None,
    }
}
