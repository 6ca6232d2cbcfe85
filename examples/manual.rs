//! Writes man pages and shell completions into a folder: `man1/`, `bash/`, `zsh/`, `fish/`. They are
//! made from the definitions that `--help` shows, `subletd`'s too; packages are built with this.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap_complete::{Shell, generate_to};

#[allow(clippy::disallowed_methods, reason = "a program of its own")]
fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("which folder?")?;
    let mut command = sublet::cli::definition();
    for (name, shell) in [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)] {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        generate_to(shell, &mut command, "sublet", &folder)?;
    }
    let folder = folder.join("man1");
    fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(command, &folder)?;
    clap_mangen::generate_to(sublet::docker::args::definition(), &folder)?;
    Ok(())
}
