//! Checks the crates that are compiled into the program: their licenses, and that no crate occurs in two
//! versions. cargo-deny checks the same and more, but this test also works if cargo-deny is not installed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::tidy::{complain, read, root};

const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// The crates that may be present in two versions, each with the reason for this exception.
const DUPLICATES: &[(&str, &str)] =
    &[("embedded-io", "postcard offers the traits of both; they are empty of code here")];

/// Returns the output of `cargo metadata` about the crates in Cargo.lock. `extra` contains additional
/// options.
fn metadata(extra: &[&str]) -> Value {
    #[expect(clippy::disallowed_methods, reason = "cargo passes its own path to its tests")]
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .args(extra)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "run `cargo fetch --locked` once: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns whether the allowed licenses satisfy an SPDX expression: at least one license in each OR, and all
/// licenses in each AND.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let parts = split(&expression, " AND ");
    if parts.len() > 1 {
        return parts.iter().all(|p| allowed(p));
    }
    let parts = split(&expression, " OR ");
    if parts.len() > 1 {
        return parts.iter().any(|p| allowed(p));
    }
    let one = expression.trim();
    match one.strip_prefix('(').and_then(|o| o.strip_suffix(')')) {
        Some(inner) => allowed(inner),
        None => LICENCES.contains(&one),
    }
}

/// Splits a text at a separator, except inside parentheses.
fn split(text: &str, by: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if depth == 0
            && let Some(next) = rest.strip_prefix(by)
        {
            parts.push(String::new());
            rest = next;
            continue;
        }
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    parts
}

#[test]
fn expressions_are_understood() {
    for good in [
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "GPL-3.0 OR MIT",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR LGPL-2.1) AND MIT", ""] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn licences() {
    let mut faults = Vec::new();
    for package in metadata(&[])["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or_default();
        if !allowed(licence) {
            faults.push(format!("{} {}: {licence:?}", package["name"], package["version"]));
        }
    }
    complain(&faults);
    let text = read(&root().join("deny.toml"));
    let list = text.split_once("\nallow = [").unwrap().1;
    let list: BTreeSet<&str> =
        list.split_once("\n]").unwrap().0.split('"').skip(1).step_by(2).collect();
    let ours: BTreeSet<&str> = LICENCES.iter().copied().collect();
    assert_eq!(list, ours, "deny.toml and this test allow different licences");
}

#[test]
fn no_crate_twice() {
    let data = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let nodes = data["resolve"]["nodes"].as_array().unwrap();
    let by_id: BTreeMap<&str, &Value> =
        nodes.iter().map(|n| (n["id"].as_str().unwrap(), n)).collect();
    let mut queue = vec![data["resolve"]["root"].as_str().unwrap()];
    let mut reached = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !reached.insert(id) {
            continue;
        }
        for dep in by_id[id]["deps"].as_array().unwrap() {
            let kinds = dep["dep_kinds"].as_array().unwrap();
            // Dependencies that are used only by tests or build scripts are not part of the program.
            if kinds.iter().any(|k| k["kind"].is_null()) {
                queue.push(dep["pkg"].as_str().unwrap());
            }
        }
    }
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in data["packages"].as_array().unwrap() {
        if reached.contains(package["id"].as_str().unwrap()) {
            let name = package["name"].as_str().unwrap();
            let version = package["version"].as_str().unwrap();
            versions.entry(name).or_default().push(version);
        }
    }
    assert!(versions.contains_key("redb"), "the walk went nowhere");
    let twice: BTreeMap<&str, Vec<&str>> =
        versions.into_iter().filter(|(_, v)| v.len() > 1).collect();
    let known: BTreeSet<&str> = DUPLICATES.iter().map(|(name, _)| *name).collect();
    let names: BTreeSet<&str> = twice.keys().copied().collect();
    assert_eq!(names, known, "{twice:?}");
}
