//! The operator's command line.
//!
//! This module handles arguments, exit codes (0: success, 1: failure, 2: invalid usage) and confirmation
//! prompts. The engine decides what a command does to leases, and [`crate::rows`] defines the fields that a
//! command prints.
//! Invariant: without `--yes`, a command frees addresses only after the operator has answered "y".

mod agent;
mod astray;
mod check;
mod cni_cache;
mod copy;
mod doctor;
mod drain;
mod explain;
mod export;
mod gc;
mod gipam;
mod history;
mod import;
mod install;
mod jsonl;
mod kontena;
mod list;
mod map;
mod network;
mod node;
mod open;
mod pools;
mod release;
mod report;
mod reserve;
pub mod screen;
mod show;
mod stats;
mod table;
mod tables;
mod top;
mod watch;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::Serialize;
use serde_json::json;

use crate::error::{is_denied, with_causes};
use crate::model::{Face, NetworkName};
use crate::sys::host::{Env, Facts};
use crate::sys::panic;
use open::{OpenStore, StoreArgs, UNIQUE, WAIT, fit, lease_file};
use screen::{Screen, Tone, When};

/// Lease IP addresses to containers.
///
/// If a container runtime calls sublet (with CNI_COMMAND and without arguments), sublet is a CNI IPAM plugin.
/// With a command, sublet shows and repairs leases.
#[derive(Debug, Parser)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
#[command(name = "sublet", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    store: StoreArgs,
    /// Output format: `wide` adds columns to a table, `name` prints only addresses or names
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// The same as -o json
    #[arg(long, global = true, conflicts_with = "output")]
    json: bool,
    /// When to use color
    #[arg(long, value_enum, default_value_t, global = true, value_name = "WHEN")]
    color: When,
}

/// The output format of rows and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show details of an address, a container, a pod or a network
    Show(show::Show),
    Explain(explain::Explain),
    Release(release::Release),
    Gc(gc::Gc),
    Check(check::Check),
    Plan(check::plan::Plan),
    Pools(pools::Pools),
    Top(top::Top),
    Map(map::Map),
    Watch(watch::Watch),
    History(history::History),
    Stats(stats::Stats),
    Doctor(doctor::Doctor),
    Reserve(reserve::Reserve),
    /// Free reserved addresses
    Unreserve(reserve::What),
    Drain(drain::Drain),
    /// List the nodes of a cluster, or release a lost node
    #[command(subcommand)]
    Node(node::Node),
    /// Show or change a network's definition in a cluster
    #[command(subcommand)]
    Network(network::Network),
    /// Import leases from another program.
    #[command(subcommand)]
    Import(import::Import),
    /// Export leases to another program.
    #[command(subcommand)]
    Export(export::Export),
    Copy(copy::Copy),
    Install(install::Install),
    Uninstall(install::Uninstall),
    Agent(agent::Agent),
    /// Print the version, the commit and the C library
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// The streams of the process.
pub struct Terminal<'a> {
    /// Standard output, for the rows that a command prints.
    pub stdout: &'a mut dyn Write,
    /// Standard error, for questions and messages.
    pub stderr: &'a mut dyn Write,
    /// The properties of the terminal.
    pub screen: Screen,
}

/// The environment and the host, as inputs to the program.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The environment variables.
    pub env: &'a Env<'a>,
    /// The facts about the host.
    pub facts: &'a Facts,
}

/// Returns all commands with their options and help texts. Man pages and completions are generated from them.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command line and returns the exit code. If the command panics, prints the panic on one line and
/// returns exit code 1.
pub fn run(args: Vec<OsString>, world: World<'_>, terminal: &mut Terminal<'_>) -> u8 {
    // `AssertUnwindSafe` is correct: a panic drops everything that the command owns, and afterwards only the
    // terminal is used.
    let done = catch_unwind(AssertUnwindSafe(|| serve(args, world, terminal)));
    done.unwrap_or_else(|payload| fail(terminal, &anyhow!(panic::explain(&*payload).msg)))
}

fn serve(args: Vec<OsString>, world: World<'_>, terminal: &mut Terminal<'_>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Clap also returns the help and version texts as errors. They go to standard output with exit
            // code 0. All other errors are usage errors.
            let (stream, code, color): (&mut dyn Write, u8, bool) = if e.use_stderr() {
                (&mut *terminal.stderr, 2, terminal.screen.alert)
            } else {
                (&mut *terminal.stdout, 0, terminal.screen.color)
            };
            let text = e.render();
            let text = if color { text.ansi().to_string() } else { text.to_string() };
            return if stream.write_all(text.as_bytes()).is_ok() { code } else { 1 };
        }
    };
    terminal.screen = terminal.screen.with(cli.color);
    let facts = Facts { face: Face::Cli, ..world.facts.named(cli.store.node_name.as_deref()) };
    let mut call = Call {
        args: &cli.store,
        format: if cli.json { Format::Json } else { cli.output },
        as_json: cli.json || matches!(cli.output, Format::Json | Format::Yaml),
        world: World { facts: &facts, ..world },
        stdout: &mut *terminal.stdout,
        stderr: &mut *terminal.stderr,
        screen: terminal.screen,
    };
    let done = if call.format == Format::Name && !cli.command.prints_names() {
        Err(misuse("`-o name` works only with `sublet list` and `sublet pools`"))
    } else {
        cli.command.run(&mut call)
    };
    let flushed = call.stdout.flush();
    match done.and(flushed.map_err(Into::into)) {
        Ok(()) => 0,
        Err(e) => fail(terminal, &e),
    }
}

impl Command {
    fn prints_names(&self) -> bool {
        matches!(self, Command::List(_) | Command::Pools(_))
    }

    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        match self {
            Command::List(list) => list.run(call),
            Command::Show(show) => show.run(call),
            Command::Explain(explain) => explain.run(call),
            Command::Release(release) => release.run(call),
            Command::Gc(gc) => gc.run(call),
            Command::Check(check) => check.run(call),
            Command::Plan(plan) => plan.run(call),
            Command::Pools(pools) => pools.run(call),
            Command::Top(top) => top.run(call),
            Command::Map(map) => map.run(call),
            Command::Watch(watch) => watch.run(call),
            Command::History(history) => history.run(call),
            Command::Stats(stats) => stats.run(call),
            Command::Doctor(doctor) => doctor.run(call),
            Command::Reserve(reserve) => reserve.run(call),
            Command::Unreserve(what) => what.unreserve(call),
            Command::Drain(drain) => drain.run(call),
            Command::Node(node) => node.run(call),
            Command::Network(network) => network.run(call),
            Command::Import(import) => import.run(call),
            Command::Export(export) => export.run(call),
            Command::Copy(copy) => copy.run(call),
            Command::Install(install) => install.run(call),
            Command::Uninstall(uninstall) => uninstall.run(call),
            Command::Agent(agent) => agent.run(call),
            Command::Version => version(call),
            Command::Completion { shell } => {
                clap_complete::generate(*shell, &mut definition(), "sublet", call.stdout);
                Ok(())
            }
        }
    }
}

/// Prints the version of the program, the commit that it was built from, and its C library.
fn version(call: &mut Call<'_>) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("SUBLET_COMMIT").unwrap_or("unknown");
    let libc = if cfg!(target_env = "musl") { "musl" } else { "glibc" };
    if call.as_json {
        return call.json(&json!({ "version": version, "commit": commit, "libc": libc }));
    }
    Ok(writeln!(call.stdout, "sublet {version} (commit {commit}, {libc})")?)
}

fn fail(terminal: &mut Terminal<'_>, error: &anyhow::Error) -> u8 {
    // It is not an error if the reader of standard output closes the pipe, as in `sublet list | head`.
    let closed = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if !error.is::<ProblemsFound>() && closed != Some(io::ErrorKind::BrokenPipe) {
        report_error(terminal.stderr, &terminal.screen, error);
    }
    if error.is::<Misuse>() { 2 } else { 1 }
}

/// Returns the text of an error with its causes. If access was denied to a user other than root, the text
/// suggests running the command as root.
fn explained(error: &anyhow::Error) -> String {
    let mut text = with_causes(error.as_ref());
    if error.chain().any(is_denied) && !rustix::process::geteuid().is_root() {
        text.push_str("; run the command as root");
    }
    text
}

fn report_error(stderr: &mut dyn Write, screen: &Screen, error: &anyhow::Error) {
    let screen = Screen { color: screen.alert, ..*screen };
    let text = explained(error);
    // Ignore a failed write, because the error cannot be reported anywhere else.
    let _ = writeln!(stderr, "{} {text}", screen.paint(Tone::Bad, "sublet:"));
}

/// The error of a command that has found problems and already reported them.
#[derive(Debug, thiserror::Error)]
#[error("problems were found")]
struct ProblemsFound;

/// The error for invalid usage, such as arguments that contradict each other. The exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

fn misuse(text: impl Into<String>) -> anyhow::Error {
    Misuse(text.into()).into()
}

/// One run of a command: the store arguments, the environment and the streams.
struct Call<'a> {
    args: &'a StoreArgs,
    format: Format,
    /// Whether the output is JSON or YAML.
    as_json: bool,
    world: World<'a>,
    /// Standard output. It is flushed after the command has run.
    stdout: &'a mut dyn Write,
    stderr: &'a mut dyn Write,
    screen: Screen,
}

impl Call<'_> {
    /// Prints a single document as JSON or YAML.
    fn json(&mut self, value: &impl Serialize) -> Result<()> {
        if self.format == Format::Yaml {
            return Ok(write!(self.stdout, "{}", yaml(value)?)?);
        }
        let text = serde_json::to_string_pretty(value)?;
        Ok(writeln!(self.stdout, "{}", escaped(&text))?)
    }

    /// Prints one row of a stream, as a line of JSON or as a YAML document.
    fn json_line(&mut self, row: &impl Serialize) -> Result<()> {
        if self.format == Format::Yaml {
            return Ok(write!(self.stdout, "---\n{}", yaml(row)?)?);
        }
        Ok(writeln!(self.stdout, "{}", escaped(&serde_json::to_string(row)?))?)
    }

    /// Prints an array of rows. In JSON, each row is on its own line.
    fn json_rows<T: Serialize>(&mut self, rows: impl IntoIterator<Item = T>) -> Result<()> {
        let mut array = Rows::new(self.format);
        rows.into_iter().try_for_each(|row| array.push(&row))?;
        Ok(self.stdout.write_all(&array.finish())?)
    }

    /// Asks the operator a yes-or-no question. Returns true only for the answers "y", "Y" and "yes". Fails if
    /// standard input is not a terminal.
    fn confirm(&mut self, question: &str) -> Result<bool> {
        self.stdout.flush()?;
        if !io::stdin().is_terminal() {
            return Err(misuse(format!(
                "cannot ask for confirmation without a terminal; pass `--yes` to {question}"
            )));
        }
        let (first, rest) = question.split_at(question.chars().next().map_or(0, char::len_utf8));
        write!(self.stderr, "{}{rest}? [y/N] ", first.to_uppercase())?;
        self.stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// Returns whether a character needs escaping, because a terminal could interpret it and serializers leave it
/// unescaped.
fn is_raw(c: char) -> bool {
    !c.is_ascii() && (c.is_control() || screen::steers(c))
}

/// Returns a YAML document. Characters that a terminal could interpret are escaped.
fn yaml(value: &impl Serialize) -> Result<String> {
    let text = serde_norway::to_string(value)?;
    if !text.contains(is_raw) {
        return Ok(text);
    }
    // An unquoted string in YAML cannot contain escapes, so print JSON instead. JSON is valid YAML, and
    // quotes all strings.
    let json = serde_json::to_string(value)?;
    let escape =
        |c: char| if is_raw(c) { format!("\\U{:08x}", u32::from(c)) } else { c.to_string() };
    Ok(json.chars().map(escape).collect::<String>() + "\n")
}

/// Escapes the characters in JSON that a terminal could interpret. Only strings in JSON can contain these
/// characters, so the result is still valid JSON.
fn escaped(json: &str) -> Cow<'_, str> {
    if !json.contains(is_raw) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_raw(c) {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

/// Formats an array of rows. [`Rows::drain`] writes the text in parts, so that the whole text is never in
/// memory.
struct Rows {
    format: Format,
    text: Vec<u8>,
    is_begun: bool,
}

impl Rows {
    fn new(format: Format) -> Rows {
        Rows { format, text: Vec::new(), is_begun: false }
    }

    fn push(&mut self, row: &impl Serialize) -> Result<()> {
        let begun = std::mem::replace(&mut self.is_begun, true);
        if self.format == Format::Yaml {
            for (i, line) in yaml(row)?.lines().enumerate() {
                let indent = if i == 0 { "- " } else { "  " };
                writeln!(self.text, "{indent}{line}")?;
            }
            return Ok(());
        }
        self.text.extend_from_slice(if begun { b",\n  " } else { b"[\n  " });
        self.text.extend_from_slice(escaped(&serde_json::to_string(row)?).as_bytes());
        Ok(())
    }

    /// If the buffered text is longer than 64 KiB, writes the text to `out` and empties the buffer.
    fn drain(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.text.len() > 1 << 16 {
            out.write_all(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        match (self.format, self.is_begun) {
            (Format::Yaml, true) => {}
            (_, true) => self.text.extend_from_slice(b"\n]\n"),
            (_, false) => self.text.extend_from_slice(b"[]\n"),
        }
        self.text
    }
}

/// Writes a file completely or not at all: writes the content to PATH.new first, and then renames this file
/// to PATH.
fn write_file<T>(
    path: &Path,
    create: fn(&Path) -> io::Result<File>,
    write: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<T> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    let done = create(&next).map_err(anyhow::Error::from).and_then(|file| {
        let mut out = BufWriter::new(file);
        let answer = write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&next, path)?;
        Ok(answer)
    });
    if done.is_err() {
        // Ignore a failure, because the next write replaces the temporary file.
        let _ = std::fs::remove_file(&next);
    }
    done.with_context(|| format!("cannot write {}", path.display()))
}

/// Parses the name of a network on the command line.
fn network_name(name: &str) -> Result<NetworkName> {
    NetworkName::new(name).map_err(|_| misuse(format!("{name:?} is not a valid network name")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host;

    #[test]
    fn json_has_nothing_that_a_terminal_interprets() {
        let text = "a\u{9b}b\u{202e}c\u{2028}d\u{e0041}e\u{e4}";
        let json = serde_json::to_string(text).unwrap();
        let shown = escaped(&json);
        assert_eq!(shown, "\"a\\u009bb\\u202ec\\u2028d\\udb40\\udc41e\u{e4}\"");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        let shown = yaml(&text).unwrap();
        assert!(!shown.contains(is_raw), "{shown:?}");
        assert_eq!(serde_norway::from_str::<String>(&shown).unwrap(), text);
        let (row, mut rows) = ([("note", text), ("pod", "web")], Rows::new(Format::Yaml));
        rows.push(&row).unwrap();
        rows.push(&"plain").unwrap();
        let shown = String::from_utf8(rows.finish()).unwrap();
        assert!(!shown.contains(is_raw), "{shown:?}");
        let read: serde_norway::Value = serde_norway::from_str(&shown).unwrap();
        assert_eq!(read, serde_norway::to_value((row, "plain")).unwrap());
    }

    #[test]
    fn a_panic_is_one_line() {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let screen = Screen::PLAIN;
        let mut terminal = Terminal { stdout: &mut stdout, stderr: &mut stderr, screen };
        let facts = host::facts(&|_| None);
        let args = vec!["sublet".into(), "list".into()];
        let world = World { env: &|_| panic!("boom"), facts: &facts };
        assert_eq!(run(args, world, &mut terminal), 1);
        assert!(stdout.is_empty());
        let text = String::from_utf8(stderr).unwrap();
        assert!(text.starts_with("sublet: bug in sublet") && text.contains("boom"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
