//! Writes man pages and shell completions for `sublet` and `subletd` to the subfolders `man1/`, `bash/`,
//! `zsh/` and `fish/` of a folder. They are generated from the same definitions as `--help`, and sublet's
//! packages contain them.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap_complete::{Shell, generate_to};

#[allow(clippy::disallowed_methods, reason = "this program reads its own environment")]
fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("which folder?")?;
    let programs =
        [("sublet", sublet::cli::definition()), ("subletd", sublet::docker::args::definition())];
    for (program, mut command) in programs {
        for (name, shell) in [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)] {
            let folder = folder.join(name);
            fs::create_dir_all(&folder)?;
            generate_to(shell, &mut command, program, &folder)?;
        }
        let folder = folder.join("man1");
        fs::create_dir_all(&folder)?;
        clap_mangen::generate_to(without_help(command), &folder)?;
    }
    Ok(())
}

/// Removes the subcommand `help` of every command, because it would add a man page for every other command.
fn without_help(command: clap::Command) -> clap::Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}
