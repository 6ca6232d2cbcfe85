//! A CNI plugin that only delegates. It searches `CNI_PATH` for the IPAM plugin that the key `ipam.type`
//! names, and runs it with the same environment and standard input. The IPAM plugin's output becomes its own
//! output.
//!
//! The main plugins of most distributions support CNI only up to 1.0.0, and no main plugin passes GC on to
//! its IPAM plugin. This plugin supports every version that its IPAM plugin supports. With it, tests can call
//! an IPAM plugin through a main plugin with CNI 1.1.0, GC and STATUS.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

fn main() -> ExitCode {
    match delegate() {
        Ok(code) => code,
        Err(error) => {
            let answer = serde_json::json!({"code": 999, "msg": format!("delegate: {error:#}")});
            // If the caller has exited, no process reads the error, so ignore a failure to write it.
            let _ = write!(std::io::stdout(), "{answer}");
            ExitCode::FAILURE
        }
    }
}

fn delegate() -> Result<ExitCode> {
    let mut conf = Vec::new();
    std::io::stdin().read_to_end(&mut conf)?;
    let parsed: serde_json::Value = serde_json::from_slice(&conf).context("the configuration")?;
    let ipam = parsed["ipam"]["type"].as_str().context("no ipam.type")?;
    let mut child = Command::new(find(ipam)?)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {ipam}"))?;
    let mut stdin = child.stdin.take().context("a pipe to the IPAM plugin")?;
    // An IPAM plugin may print its result without reading its input, so ignore a failure to write the input.
    let _ = stdin.write_all(&conf);
    drop(stdin);
    let status = child.wait()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the path of a plugin: the first file with this name in the folders of `CNI_PATH`.
fn find(name: &str) -> Result<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "an example reads its own environment")]
    let path = std::env::var_os("CNI_PATH").context("CNI_PATH is not set")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("no {name} in CNI_PATH"))
}
