//! Checks the patches in tests/sabotage. Each patch reintroduces a fault into the sources. It must name the
//! fault and the tests that must fail because of it, and it must apply to the sources. `scripts/sabotage.sh`
//! builds the patched sources and runs these tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tidy::{complain, read, root};

/// The names of the lines at the beginning of a patch, in this order.
const HEAD: [&str; 4] = ["fault", "reference", "caught-by", "simulator"];

fn patches() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(root().join("tests/sabotage")).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|end| end == "patch"));
    found.sort();
    let name = |path: &Path| path.file_stem().unwrap().display().to_string();
    found.into_iter().map(|path| (name(&path), path)).collect()
}

/// Returns whether the sources contain a test with this path. `it::` stands for tests/it.
fn is_test(path: &str) -> bool {
    let Some((modules, name)) = path.rsplit_once("::") else { return false };
    let (folder, modules) = match modules.strip_prefix("it::") {
        Some(modules) => ("tests/it", modules),
        None => ("src", modules),
    };
    // Unit tests are in the same file as the code that they test.
    let file = modules.strip_suffix("::tests").unwrap_or(modules);
    let files = [file, modules].map(|module| root().join(folder).join(module.replace("::", "/")));
    let files = files.iter().flat_map(|file| [file.with_extension("rs"), file.join("mod.rs")]);
    let has = |text: String| {
        let (_, behind) = text.split_once(&format!("fn {name}()")).unwrap_or_default();
        !behind.is_empty()
    };
    files.filter(|file| file.exists()).any(|file| has(read(&file)))
}

#[test]
fn each_patch_says_what_it_breaks_and_who_notices() {
    let mut faults = Vec::new();
    let mut told = BTreeSet::new();
    for (name, path) in patches() {
        let text = read(&path);
        let mut lines = text.lines();
        for key in HEAD {
            let line = lines.next().unwrap_or_default();
            let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(": "));
            let value = value.unwrap_or_default().trim();
            let tests = value.split(',').map(str::trim).filter(|_| key == "caught-by");
            faults.extend(
                tests.filter(|test| !is_test(test)).map(|test| format!("{name}: no test {test}")),
            );
            let wrong = match key {
                _ if value.is_empty() => "is missing, or not in its place",
                "fault" if !told.insert(value.to_owned()) => "is that of another patch",
                "simulator" if !value.starts_with("yes") && !value.starts_with(['-', 'n']) => {
                    "is neither yes, nor no, nor - (not tried)"
                }
                _ => continue,
            };
            faults.push(format!("{name}: its line {key:?} {wrong}"));
        }
        if !text.contains("\ndiff --git a/src/") {
            faults.push(format!("{name}: it changes nothing in src"));
        }
    }
    assert!(told.len() >= 40, "{} patches", told.len());
    complain(&faults);
}

#[test]
fn each_patch_applies() {
    if Command::new("git").arg("--version").output().is_err() {
        return;
    }
    let mut faults = Vec::new();
    for (name, path) in patches() {
        let mut git = Command::new("git");
        let checked = git.args(["apply", "--check"]).arg(&path).current_dir(root()).output();
        let checked = checked.unwrap();
        if !checked.status.success() {
            faults.push(format!("{name}: {}", String::from_utf8_lossy(&checked.stderr)));
        }
    }
    complain(&faults);
}
