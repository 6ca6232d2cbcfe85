//! `subletd`: Docker's IPAM plugin with the status page, or only the status page.
//!
//! This file only handles the process: arguments, environment, streams and exit code (0: success, 1: failure,
//! 2: invalid usage). Everything that needs tests is in the library.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use sublet::docker;
use sublet::docker::args::{Page, PageStore};
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
            // Messages about invalid usage (code 2) come from clap, which has added a prefix and a newline.
            let (before, after) = if code == 2 { ("", "") } else { ("subletd: ", "\n") };
            let _ = write!(io::stderr(), "{before}{text}{after}");
            ExitCode::from(code)
        }
    }
}

/// Starts the status page on behalf of the Docker driver. Both are faces of the program (modules that serve a
/// protocol or an operator). Faces do not use each other, so this function connects them.
fn page(page: &Page, stores: Vec<PageStore>, backend: &Backend) -> Result<()> {
    let Some(address) = &page.http else { return Ok(()) };
    web::open(address, page.http_public, page.http_name.clone(), stores, backend.log.clone())
}

#[allow(clippy::disallowed_methods, reason = "the environment is read only here")]
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}
