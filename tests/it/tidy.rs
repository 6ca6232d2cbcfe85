//! Checks rules of this repository that the compiler does not check.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The modules that each top-level module may use. The rule is `net, model, error <- alloc <- engine <- faces
/// <- main`, and no face (cni, docker, web, cli) uses another face.
const LAYERS: &[(&str, &str)] = &[
    ("error", "net model"),
    ("net", "model error"),
    ("model", "net error"),
    ("alloc", "net model error"),
    ("sys", "net model error alloc"),
    ("config", "net model error alloc sys"),
    ("telemetry", "net model error alloc sys config"),
    ("store", "net model error alloc sys telemetry"),
    ("rows", "net model error alloc telemetry store"),
    ("migrate", "net model error alloc sys config store rows"),
    ("liveness", "net model error alloc store"),
    ("trends", "net model error alloc store telemetry rows"),
    ("engine", "net model error alloc sys store migrate liveness telemetry"),
    ("cni", FACE),
    ("cli", FACE),
    ("docker", FACE),
    ("web", FACE),
    ("main", "cni cli store sys"),
    ("bin", "docker web sys"),
];

const FACE: &str =
    "net model error alloc sys config telemetry store rows trends migrate liveness engine";

/// The crates that src/ may use, each with the only files or folders that may use it. An empty list allows
/// all.
const CRATES: &[(&str, &[&str])] = &[
    ("percent_encoding", &["sys/percent.rs"]),
    ("serde", &[]),
    ("serde_json", &[]),
    ("anyhow", &[]),
    ("ipnet", &[]),
    ("thiserror", &[]),
    ("fs2", &["store/embedded/fs.rs"]),
    ("redb", &["store/embedded/"]),
    ("postcard", &["store/codec/"]),
    ("nix", &["store/embedded/queue.rs", "sys/process.rs"]),
    ("ureq", &["store/cluster/http.rs"]),
    ("rustls", &["store/cluster/http.rs"]),
    ("clap", &["cli/", "docker/args.rs"]),
    ("tokio", &["docker/", "web/serve.rs", "web/connections.rs", "sys/stream.rs"]),
    ("hyper", &["docker/", "web/", "sys/stream.rs"]),
];

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns all files below a folder of the repository; an empty list if the folder does not exist.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut folders } else { &mut found }.push(path);
        }
    }
    found.sort();
    found
}

fn rust(folder: &str) -> Vec<PathBuf> {
    let mut found = files(folder);
    found.retain(|p| p.extension().is_some_and(|e| e == "rs"));
    found
}

/// Returns the code of each file in src/, by the file's path, without test modules and comments.
pub fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let is_test = |name: &str| name.contains("/testing/") || name.ends_with("test.rs");
    rust("src")
        .iter()
        .map(|path| (path.strip_prefix(&src).unwrap().display().to_string(), read(path)))
        .filter(|(name, _)| !is_test(name) && !name.ends_with("/tests.rs"))
        .map(|(name, text)| {
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            (name, code.lines().filter(is_code).collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// Returns the identifiers that directly follow `path` in the text. For example, `net` follows `crate::` in
/// the text `crate::net::Addr`.
fn named<'t>(text: &'t str, path: &str) -> Vec<&'t str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let inside = |c: char| word(c) || c == ':';
    let starts = text.match_indices(path).filter(|(at, _)| !text[..*at].ends_with(inside));
    starts.map(|(at, _)| text[at + path.len()..].split(|c| !word(c)).next().unwrap()).collect()
}

pub fn complain(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn layers() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let module = name.split('/').next().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(m, _)| *m == module) else {
            faults.push(format!("src/{name}: module {module} is not in the table of layers"));
            continue;
        };
        for item in [named(&text, "crate::"), named(&text, "sublet::")].concat() {
            // An empty name means a list such as `crate::{a, b}`. Lists are not allowed, so that this test
            // can stay simple.
            if item != module && !allowed.split(' ').any(|a| a == item) {
                faults.push(format!("src/{name} names {item:?}; may name: {allowed}"));
            }
        }
        for item in named(&text, "store::") {
            if module != "store" && ["embedded", "cluster", "codec"].contains(&item) {
                faults.push(format!("src/{name} names store::{item}"));
            }
        }
    }
    complain(&faults);
}

#[test]
fn crates_are_used_where_they_belong() {
    let mut faults = Vec::new();
    let sources = sources();
    for (name, owners) in CRATES {
        let uses = |text: &str| !named(text, &format!("{name}::")).is_empty();
        let mut found = sources.iter().filter(|(_, text)| uses(text)).peekable();
        if found.peek().is_none() {
            faults.push(format!("nothing in src uses {name}"));
        }
        for (file, _) in found {
            if !owners.is_empty() && !owners.iter().any(|o| file.starts_with(o)) {
                faults.push(format!("src/{file} names {name}; only {owners:?} may"));
            }
        }
    }
    let tests: String = rust("tests").iter().map(|p| read(p)).collect();
    assert!(!named(&tests, "cni_plugin::").is_empty(), "no test uses cni-plugin");
    complain(&faults);
}

/// The store must never treat a failed check of a file as proof that the file does not exist. Only one module
/// may rename a file over another file.
#[test]
fn the_store_takes_no_failed_look_for_absence() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let is_stores = ["store/", "migrate/"].iter().any(|folder| name.starts_with(folder));
        let is_test = name.starts_with("store/testing/") || name.ends_with("_test.rs");
        if !is_stores || is_test || name == "store/embedded/fs.rs" {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            // `found` is a file type that was read successfully, so its methods cannot hide an error.
            let line = line.replace("found.is_dir()", "").replace("found.is_file()", "");
            for word in [".exists()", ".is_file()", ".is_dir()", "fs::rename("] {
                if line.contains(word) {
                    faults.push(format!("src/{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    complain(&faults);
}

#[test]
fn sources_are_ascii_and_documented() {
    let mut faults = Vec::new();
    for path in ["src", "tests", "examples", "scripts"].iter().flat_map(|f| files(f)) {
        let text = read(&path);
        if let Some(line) = text.lines().position(|l| !l.is_ascii()) {
            faults.push(format!("{}:{}: not ASCII", path.display(), line + 1));
        }
        if path.extension().is_some_and(|e| e == "rs") && !text.starts_with("//!") {
            faults.push(format!("{}: no module documentation", path.display()));
        }
    }
    complain(&faults);
}

#[test]
fn changelog_knows_the_version() {
    let text = read(&root().join("CHANGELOG.md"));
    let version = format!("## [{}] - ", env!("CARGO_PKG_VERSION"));
    assert!(text.lines().any(|l| l.starts_with(&version)), "CHANGELOG.md lacks {version:?}");
}

#[test]
fn testdata_is_used() {
    let mut users: String = rust("tests").iter().map(|p| read(p)).collect();
    users.extend(rust("src").iter().map(|p| read(p)));
    users.extend(files("scripts").iter().map(|p| read(p)));
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("testdata")).unwrap() {
        let name = entry.unwrap().file_name().display().to_string();
        if !users.contains(&format!("testdata/{name}")) {
            faults.push(format!("testdata/{name} is used by no test and no script"));
        }
    }
    // Each script in testdata/readme must be used: its name must occur in quotes in a test or script.
    for path in files("testdata/readme") {
        let name = path.file_name().unwrap().display().to_string();
        if !users.contains(&format!("\"{name}\"")) {
            faults.push(format!("testdata/readme/{name} is run by no test"));
        }
    }
    complain(&faults);
}

#[test]
fn scripts_stop_at_the_first_error() {
    let mut scripts = files("scripts");
    scripts.extend(files("testdata/readme"));
    scripts.push(root().join(".ci/run"));
    let mut faults = Vec::new();
    for path in scripts {
        let text = read(&path);
        let name = path.display();
        if !text.starts_with("#!/usr/bin/env ") {
            faults.push(format!("{name}: does not start with #!/usr/bin/env"));
        }
        let first = text.lines().find(|l| !l.starts_with('#') && !l.trim().is_empty());
        if first != Some("set -euo pipefail") {
            faults.push(format!("{name}: the first command is not set -euo pipefail"));
        }
        if fs::metadata(&path).unwrap().permissions().mode() & 0o111 == 0 {
            faults.push(format!("{name}: not executable"));
        }
    }
    complain(&faults);
}

#[test]
fn dependencies_say_why() {
    let text = read(&root().join("Cargo.toml"));
    let mut faults = Vec::new();
    let mut inside = false;
    let mut before = "";
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && line.contains('=') && !line.starts_with('#') {
            // The comment above a group of lines applies to all of them. For example, serde and serde_json
            // are one decision.
            if before.is_empty() {
                faults.push(format!("Cargo.toml: why is this there: {line}"));
            }
        }
        before = line;
    }
    complain(&faults);
}

#[test]
fn lints_are_on() {
    let text = read(&root().join("Cargo.toml"));
    for line in ["unsafe_code = \"forbid\"", "missing_docs = \"warn\"", "pedantic = "] {
        assert!(text.contains(line), "Cargo.toml lost {line}");
    }
}
