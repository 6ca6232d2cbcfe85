//! `subletd`: Docker's IPAM plugin, and beside it the status page.
//!
//! Owns: the process: its arguments, environment, streams and exit code (0 done, 1 failed, 2 wrong
//! usage). Does not own: anything that a test should reach.

use std::any::Any;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use sublet::docker;
use sublet::docker::args::PageWish;
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
fn page(wish: PageWish) -> Result<Box<dyn Any>> {
    let PageWish { address, public, names, store, cx, log } = wish;
    Ok(Box::new(web::open(web::PageOptions { address, public, names, store, cx, log })?))
}

#[allow(clippy::disallowed_methods, reason = "here the environment enters the program")]
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}
