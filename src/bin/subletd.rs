//! `subletd`: Docker's IPAM plugin, and beside it or alone the status page.
//!
//! This is the process: its arguments, environment, streams and exit code (0 done, 1 failed, 2 wrong
//! usage).

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use sublet::docker;
use sublet::docker::args::Page;
use sublet::docker::server::Backend;
use sublet::sys::host;
use sublet::sys::panic;
use sublet::sys::process;
use sublet::web;

fn main() -> ExitCode {
    process::prepare();
    panic::record();
    let facts = host::facts(&environment);
    match docker::args::run(env::args_os().collect(), &environment, &facts, &page) {
        Ok(text) => ExitCode::from(u8::from(write!(io::stdout(), "{text}").is_err())),
        Err((error, code)) => {
            let text = format!("{error:#}");
            // clap's texts bring their own beginning and end.
            let (before, after) = if code == 2 { ("", "") } else { ("subletd: ", "\n") };
            let _ = write!(io::stderr(), "{before}{text}{after}");
            ExitCode::from(code)
        }
    }
}

/// The page is a face of its own: here the two are put together.
fn page(page: &Page, backend: &Backend) -> Result<()> {
    let Some(address) = &page.http else { return Ok(()) };
    let (store, cx, log) = (backend.store.clone(), backend.cx.clone(), backend.log.clone());
    let (public, names) = (page.http_public, page.http_name.clone());
    web::open(address, public, names, store, cx, log)
}

#[allow(clippy::disallowed_methods, reason = "here the environment enters the program")]
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}
