//! Records the operations of the program on a folder, in order, with strace(1).
//!
//! Only system calls that use the folder or write the result are recorded. A call that failed, or that the
//! process did not complete, has no effect and is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Answer, Call};

/// An operation on the folder, or the output of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Mkdir(PathBuf),
    /// The file was opened. If it was missing, it was created.
    Create(PathBuf),
    /// Bytes were written; without `at`, they were appended.
    Write {
        path: PathBuf,
        at: Option<u64>,
        data: Vec<u8>,
    },
    Len(PathBuf, u64),
    /// A file or a folder was flushed.
    Sync(PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    /// A result was written to standard output.
    Answer,
}

/// The system calls that may change something. musl opens files with open(2) on architectures that have it,
/// and with openat(2) elsewhere.
pub const CALLS: &str =
    "mkdir,?open,openat,write,pwrite64,ftruncate,fdatasync,fsync,linkat,rename,unlink";

/// Fails the test if strace is missing.
pub fn need_strace() {
    let found = Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    assert!(found, "strace is missing: install it as root with `apt-get install strace`");
}

/// Runs a call under strace with these options. Returns its result and the trace.
pub fn strace(call: &Call, options: &[&str]) -> (Answer, String) {
    need_strace();
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().display().to_string();
    let options = [&["-qq", "-o", &*name], options].concat();
    let traced = call.clone().under("strace", &options);
    let answer = traced.answer(traced.spawn());
    (answer, fs::read_to_string(file.path()).unwrap())
}

/// Runs a call under strace. Returns its result, and its operations on the files below `root`. `inject` is an
/// option for strace that injects a fault.
pub fn record(call: &Call, root: &Path, inject: Option<&str>) -> (Answer, Vec<Op>) {
    let trace = format!("trace={CALLS}");
    let mut options = vec!["-y", "-xx", "-s", "1000000", "-e", &*trace];
    if let Some(inject) = inject {
        options.extend(["-e", inject]);
    }
    let (answer, text) = strace(call, &options);
    let ops = text.lines().filter_map(|line| read(line, root)).collect();
    (answer, ops)
}

/// Parses one line of the trace: `name(arguments) = result`.
fn read(line: &str, root: &Path) -> Option<Op> {
    let (name, rest) = line.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args: Vec<&str> = args.trim_end().strip_suffix(')')?.split(", ").collect();
    let done: u64 = result.split(['<', ' ']).next()?.parse().ok()?;
    let below = |path: PathBuf| path.starts_with(root).then_some(path);
    match (name, &*args) {
        ("mkdir", [path, _]) => Some(Op::Mkdir(below(text(path))?)),
        ("open", [path, flags, ..]) | ("openat", [_, path, flags, ..])
            if flags.contains("O_CREAT") =>
        {
            Some(Op::Create(below(text(path))?))
        }
        ("pwrite64", [fd, data, _, at]) => {
            let data = bytes(data, done);
            Some(Op::Write { path: below(behind(fd))?, at: at.parse().ok(), data })
        }
        ("write", [fd, data, _]) => {
            let (path, data) = (behind(fd), bytes(data, done));
            if path.to_str()?.starts_with("pipe:") && data.starts_with(b"{") {
                return Some(Op::Answer);
            }
            Some(Op::Write { path: below(path)?, at: None, data })
        }
        ("ftruncate", [fd, len]) => Some(Op::Len(below(behind(fd))?, len.parse().ok()?)),
        ("fdatasync" | "fsync", [fd]) => {
            let path = behind(fd);
            // The folders above the root are part of the model too, because flushing them makes the root's
            // name durable.
            (path.starts_with(root) || root.starts_with(&path)).then_some(Op::Sync(path))
        }
        ("linkat", [_, from, _, to, _]) => Some(Op::Link(below(text(from))?, below(text(to))?)),
        ("rename", [from, to]) => Some(Op::Rename(below(text(from))?, below(text(to))?)),
        ("unlink", [path]) => Some(Op::Unlink(below(text(path))?)),
        _ => None,
    }
}

/// Returns the path in a quoted argument.
fn text(quoted: &str) -> PathBuf {
    let hex = quoted.split('"').nth(1).unwrap_or_default();
    PathBuf::from(String::from_utf8(unescape(hex)).unwrap())
}

/// Returns the path of a file descriptor. strace prints the descriptor as `5<path>`.
fn behind(fd: &str) -> PathBuf {
    let hex = fd.split_once('<').and_then(|(_, p)| p.rsplit_once('>')).unwrap_or_default().0;
    PathBuf::from(String::from_utf8(unescape(hex)).unwrap())
}

fn bytes(quoted: &str, written: u64) -> Vec<u8> {
    let data = unescape(quoted.split('"').nth(1).unwrap_or_default());
    assert_eq!(data.len() as u64, written, "strace shortened what was written");
    data
}

/// Decodes escapes such as `\x2f\x74`. Characters that strace does not escape stay the same.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\' && tail.first() == Some(&b'x') {
            let hex = std::str::from_utf8(&tail[1..3]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[test]
fn a_trace_is_read_as_it_is_meant() {
    let hex = |text: &str| text.bytes().fold(String::new(), |all, b| format!("{all}\\x{b:02x}"));
    let (root, file) = (Path::new("/d"), hex("/d/f"));
    let read = |line: &str| read(line, root);
    let path = || PathBuf::from("/d/f");
    assert_eq!(read(&format!("pwrite64(5<{file}>, \"\\x00\\x41\", 2, 4096) = 2")), {
        Some(Op::Write { path: path(), at: Some(4096), data: vec![0, 0x41] })
    });
    assert_eq!(read(&format!("fdatasync(5<{file}>)          = 0")), Some(Op::Sync(path())));
    assert_eq!(read(&format!("fdatasync(5<{file}>)          = ?")), None);
    assert_eq!(
        read(&format!("fdatasync(5<{file}>) = -1 EIO (Input/output error) (INJECTED)")),
        None
    );
    assert_eq!(
        read(&format!("ftruncate(5<{file}>, 1056768) = 0")),
        Some(Op::Len(path(), 1_056_768))
    );
    let created = format!("openat(AT_FDCWD<\\x2f>, \"{file}\", O_RDWR|O_CREAT, 0600) = 4<{file}>");
    assert_eq!(read(&created), Some(Op::Create(path())));
    let answer = format!("write(3<{}>, \"{}\", 2) = 2", hex("pipe:[1]"), hex("{}"));
    assert_eq!(read(&answer), Some(Op::Answer));
    assert_eq!(read(&format!("unlink(\"{}\") = 0", hex("/etc/passwd"))), None);
}
