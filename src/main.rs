//! `sublet`, the plugin that leases from this host's file. Calls about a cluster's store, and those of
//! a person, it leaves to `sublet-cluster` beside it.
//!
//! Owns: how that other program, the same one with the clients of etcd and Consul and the operator's
//! commands, takes this one's place. Linked in here they would cost each container 20 page faults.
//! Invariant: it gets the same arguments, environment and standard input, before anything was
//! leased, freed or written. It has all stores, so no third program follows.

use std::env;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sublet::error::StoreError;
use sublet::model::StoreSpec;
use sublet::program;
use sublet::store;
use sublet::store::Store;

const OTHER: &str = "sublet-cluster";

fn main() -> ExitCode {
    program::run(open, |_| {
        let answer = format!("sublet: {}", leave(None));
        // Nobody is left to tell.
        let _ = writeln!(io::stderr(), "{answer}");
        ExitCode::FAILURE
    })
}

fn open(spec: &StoreSpec, stdin: Option<&[u8]>) -> Result<Box<dyn Store>, StoreError> {
    store::open_local(spec).unwrap_or_else(|| Err(leave(stdin)))
}

/// Leaves the call to the other program; comes back only with what keeps it from that.
fn leave(stdin: Option<&[u8]>) -> StoreError {
    // Links followed: whatever name this was called by, the other is where this file is.
    let other = env::current_exe().map(|own| own.with_file_name(OTHER));
    let why = match &other {
        Ok(other) => command(other, stdin).map_or_else(|e| e, |mut command| command.exec()),
        Err(_) => io::Error::other("the folder of this program cannot be told: is /proc mounted?"),
    };
    let other = other.unwrap_or_else(|_| PathBuf::from(OTHER));
    let source = format!(
        "{why}; leases in etcd or Consul and the commands need {OTHER} beside sublet, and a package or \
         scripts/install.sh brings both"
    );
    StoreError::Unavailable {
        doing: "run".to_owned(),
        place: other.display().to_string(),
        source: source.into(),
    }
}

fn command(other: &Path, stdin: Option<&[u8]>) -> io::Result<Command> {
    let (own, next) = (fs::metadata("/proc/self/exe")?, fs::metadata(other)?);
    if (own.dev(), own.ino()) == (next.dev(), next.ino()) {
        // It would start itself for ever.
        return Err(io::Error::other("this is sublet under another name"));
    }
    let mut args = env::args_os();
    let mut command = Command::new(other);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args);
    if let Some(bytes) = stdin {
        command.stdin(file(bytes)?);
    }
    Ok(command)
}

/// A file in memory, at its beginning; nobody can change it any more.
fn file(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // A host may demand that no such file is executable; Linux before 6.3 knows no such flag.
    let new = memfd_create("stdin", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("stdin", flags))?;
    let mut file = File::from(new);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file)
}
