//! The CNI plugin. It handles one call of a container runtime, from the environment to the exit code.
//!
//! This module follows the order that the protocol requires (environment, standard input, name, command,
//! version, network namespace). It prints exactly one result or error for each call. It contains no rules
//! about addresses, configurations or stores.
//! Invariant: the process writes at most one JSON document to standard output, in a single write. If the
//! result of an ADD cannot be written, the ADD leaves no lease.

mod env;
mod error;
mod log;
mod result;
mod verbs;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use self::error::Failure;

use self::env::{EnvError, Invocation, Verb};
use self::log::Journal;
use crate::config::{CniVersion, Dialect, Level, Netconf};
use crate::sys::host::{Env, Facts};
use crate::sys::panic;
use crate::telemetry::log::Entry;

/// The longest accepted configuration, in bytes.
const LONGEST: u64 = 16 << 20;

/// The inputs and outputs of the program. `main` connects them to the process; tests keep them in memory.
pub struct World<'a> {
    /// The environment variables.
    pub env: &'a Env<'a>,
    /// The network configuration.
    pub stdin: &'a mut dyn Read,
    /// The stream for the result or the error.
    pub stdout: &'a mut dyn Write,
    /// The stream for the log.
    pub stderr: &'a mut dyn Write,
    /// Reads the facts about the host (time, boot, node name). This function is called at most once, and
    /// never for VERSION.
    pub facts: &'a dyn Fn() -> Facts,
}

/// Runs the call and returns the exit code.
pub fn run(world: World<'_>) -> u8 {
    let World { env, stdin, stdout, stderr, facts } = world;
    let mut output = Output {
        stdout,
        journal: Journal::new(stderr),
        version: CniVersion::NEWEST,
        answered: false,
    };
    // `AssertUnwindSafe` is correct: after a panic, only the output is still used.
    let done = catch_unwind(AssertUnwindSafe(|| serve(env, stdin, facts, &mut output)));
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => output.fail(&failure),
        Err(payload) => {
            let panic = panic::explain(&*payload);
            let code = if panic.is_damage { error::DAMAGED } else { error::INTERNAL };
            output.fail(&Failure::new(code, panic.msg))
        }
    }
}

/// Writes the result or the error of the call, and logs the call.
struct Output<'a> {
    stdout: &'a mut dyn Write,
    journal: Journal<'a>,
    /// The CNI version in which the result or the error is formatted: the configuration's version, as soon as
    /// it is known.
    version: CniVersion,
    /// Whether anything has been written to standard output, even if the document is incomplete.
    answered: bool,
}

impl Output<'_> {
    fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.answered = true;
        self.stdout.write_all(bytes)?;
        self.stdout.flush()
    }

    fn fail(&mut self, failure: &Failure) -> u8 {
        let entry = Entry::new(Level::Error, failure.msg.as_str()).with("outcome", "error");
        self.journal.write(entry.with("code", failure.code.to_string()));
        // Write at most one document, because a second document would make the first one unreadable.
        if !self.answered
            && let Err(e) = self.answer(&result::render_failure(failure, self.version))
        {
            let event = format!("cannot write the error to standard output: {e}");
            self.journal.write(Entry::new(Level::Error, event));
        }
        1
    }
}

fn serve(
    env: &Env<'_>,
    stdin: &mut dyn Read,
    facts: &dyn Fn() -> Facts,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let command = match env("CNI_COMMAND").map(OsString::into_string) {
        Some(Ok(text)) => text,
        Some(Err(_)) => return Err(EnvError::NotText("CNI_COMMAND").into()),
        None => String::new(),
    };
    if command.is_empty() {
        output.journal.about(&about());
        return Ok(());
    }
    let verb = Verb::new(&command);
    if verb == Verb::Version {
        return output.answer(&result::render_versions()).map_err(|e| unwritten(&e));
    }

    output.journal.learn("command", command);
    let invocation = env::read(verb, env)?;
    let inputs = &invocation.inputs;
    output.journal.learn("container", inputs.container.as_ref().map_or("", |c| c.as_str()));
    output.journal.learn("ifname", inputs.ifname.as_ref().map_or("", |i| i.as_str()));
    output.journal.learn("trace", invocation.trace.as_deref().unwrap_or_default());
    let netconf = match read(stdin).and_then(|bytes| Ok(Netconf::decode(&bytes)?)) {
        Ok(netconf) if may_lack_all(&invocation, &netconf) => netconf,
        Err(failure) if invocation.missing.is_empty() => return Err(failure),
        _ => return Err(EnvError::Missing(invocation.missing).into()),
    };
    if let Some(version) = CniVersion::find(netconf.version()) {
        output.version = version;
    }
    netconf.name()?;
    verbs::dispatch(invocation, netconf, facts, output)
}

fn read(stdin: &mut dyn Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(4096);
    stdin
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(error::IO, format!("error reading from stdin: {e}")))?;
    if bytes.len() as u64 > LONGEST {
        let msg = "the network configuration on stdin is larger than 16 MiB";
        return Err(Failure::new(error::DECODING, msg));
    }
    Ok(bytes)
}

/// Returns whether this call can be served although variables are missing. Users run ECS and Consul
/// configurations by hand, with only some of the variables. The ECS agent releases an address by `id`, long
/// after the container is gone. A DEL whose configuration has no settings for addresses frees nothing, so it
/// needs no variable.
fn may_lack_all(invocation: &Invocation, netconf: &Netconf) -> bool {
    let del = invocation.verb == Verb::Del;
    let dialect = netconf.dialect();
    let may_lack = |name: &&str| match dialect {
        _ if del && netconf.is_bare() => true,
        Dialect::Native => false,
        Dialect::Ecs if *name == "CNI_CONTAINERID" => {
            netconf.has_id() || (del && !netconf.cleanup(&invocation.inputs).addrs.is_empty())
        }
        Dialect::Consul => *name != "CNI_CONTAINERID",
        Dialect::Ecs => true,
    };
    invocation.missing.iter().all(may_lack)
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(error::IO, format!("cannot write to standard output: {error}"))
}

/// Returns what the plugin prints if the ECS agent runs it as `ecs-ipam` with `--capabilities` or
/// `--version`; `None` for all other calls.
pub fn ecs_agent_answer(args: &[OsString]) -> Option<String> {
    if Path::new(args.first()?).file_name()? != "ecs-ipam" {
        return None;
    }
    match args.get(1)?.to_str()? {
        "--capabilities" => Some(r#"{"capabilities":["awsvpc-network-mode"]}"#.to_owned()),
        "--version" => Some(format!(
            r#"{{"version":"{}","dirty":false,"gitShortHash":"unknown"}}"#,
            env!("CARGO_PKG_VERSION")
        )),
        _ => None,
    }
}

fn about() -> String {
    format!(
        "CNI sublet plugin v{}\nCNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        CniVersion::texts().join(", ")
    )
}

#[cfg(test)]
mod tests;
