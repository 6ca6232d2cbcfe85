//! The rules of this repository that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Who may name whom inside `crate::`. A module is a file or folder directly under src/; itself is
/// always allowed. The rule: net, model, error <- alloc <- engine <- faces <- main.
const LAYERS: &[(&str, &[&str])] = &[
    ("percent", &[]),
    ("plain_file", &[]),
    ("panic", &[]),
    ("bolt", &[]),
    ("net", &["model", "error"]),
    ("model", &["net", "error"]),
    ("error", &["net", "model"]),
    ("alloc", &["net", "model", "error"]),
    // Nouns only, and the data types of alloc.
    ("config", &["plain_file", "net", "model", "error", "alloc"]),
    ("store", &["percent", "plain_file", "net", "model", "error", "alloc", "tally"]),
    // host-local's folder is read under host-local's lock.
    ("takeover", &["plain_file", "net", "model", "error", "alloc", "store"]),
    ("handback", &["plain_file", "net", "model", "error", "store"]),
    // The original ecs-ipam's file is read under its own lock.
    ("ecs_ipam", &["bolt", "net", "model", "error", "alloc", "store"]),
    ("usage", &["net", "model", "alloc"]),
    ("metrics", &["model", "usage", "tally"]),
    ("engine", &["net", "model", "error", "alloc", "store", "takeover", "usage"]),
    ("moving", &["model", "error", "alloc", "store"]),
    // The edge: environment, clock, boot ID; data out, nothing else in.
    ("host", &["net", "model", "error", "alloc"]),
    ("lost", &["model"]),
    // The edge as well: /proc, and the runtimes' sockets and programs.
    ("liveness", &["lost"]),
    ("runtimes", &["lost"]),
    ("orphans", &["alloc", "error", "liveness", "lost", "model", "store"]),
    // The daemon's lines carry the time.
    ("log", &["net", "model", "error", "config", "host"]),
    ("tally", &["model"]),
    ("stream", &[]),
    ("cni", FACE),
    ("cli", FACE),
    ("docker", FACE),
    ("web", FACE),
    // Above the faces: the process.
    ("program", &["cni", "cli", "store", "host", "panic"]),
];

/// What a face may name: never another face.
const FACE: &[&str] = &[
    "percent", "net", "model", "error", "alloc", "config", "engine", "store", "takeover",
    "handback", "ecs_ipam", "moving", "host", "liveness", "lost", "runtimes", "orphans", "log",
    "panic", "stream", "tally", "usage", "metrics",
];

const FACES: &[&str] = &["cni", "cli", "docker", "web"];

/// Concrete stores: only store/ itself names them.
const STORES: &[&str] = &["redb", "memory", "fake", "etcd", "consul"];

/// Crates that only these files name.
const OWNED_CRATES: &[(&str, &[&str])] = &[
    ("fs2", &["store/lock.rs"]),
    ("redb", &["store/redb.rs", "store/backend.rs", "store/files.rs", "store/redb/"]),
    ("postcard", &["store/codec.rs", "store/codec/"]),
    ("crc32c", &["store/codec.rs", "store/codec/", "store/occupancy.rs"]),
    ("nix", &["store/queue.rs"]),
    ("twox_hash", &["store/pages.rs"]),
    ("ureq", &["store/http.rs"]),
    ("rustls", &["store/http.rs"]),
    ("base64", &["store/etcd.rs", "store/consul.rs"]),
    ("clap", &["cli/", "docker/args.rs"]),
    ("anstream", &["cli/screen.rs"]),
    ("anstyle", &["cli/screen.rs", "cli/map/picture.rs"]),
    ("indicatif", &["cli/screen.rs"]),
    ("unicode_width", &["cli/table.rs"]),
    (
        "tokio",
        &["docker/server/", "docker/dockerd.rs", "docker/args.rs", "web/serve.rs", "stream.rs"],
    ),
    ("hyper", &["docker/server/", "docker/dockerd.rs", "web/", "stream.rs"]),
    ("http_body_util", &["docker/server/", "docker/dockerd.rs", "web/"]),
    ("listenfd", &["docker/server/"]),
    ("tokio_rustls", &["docker/server/"]),
];

/// Files that say how something is written: the only ones that derive serde's traits.
const SERDE: &[&str] = &[
    "config/raw.rs",
    "cni/result.rs",
    "cni/error.rs",
    "cni/version.rs",
    "store/codec.rs",
    "store/codec/past.rs",
    "store/codec/pools.rs",
    "store/etcd.rs",
    "store/consul.rs",
    "cli/output.rs",
    "cli/check/shape.rs",
    "cli/map/mod.rs",
    "cli/lines.rs",
    "docker/wire.rs",
    "web/wire.rs",
];

const LONGEST: usize = 600;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder of the repository; none if there is no such folder.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
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

/// A file of src/ by its path below it, without what is compiled for tests alone.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let all: BTreeMap<String, String> = rust("src")
        .iter()
        .map(|p| {
            let name = p.strip_prefix(&src).unwrap().display().to_string();
            (name, read(p))
        })
        .collect();
    let mut tests = BTreeSet::new();
    for (name, text) in &all {
        let folder = match name.rsplit_once('/') {
            Some((folder, "mod.rs")) => format!("{folder}/"),
            _ if name == "lib.rs" || name == "main.rs" => String::new(),
            _ => format!("{}/", name.trim_end_matches(".rs")),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            let module = pair[1].trim_start_matches("pub ").strip_prefix("mod ");
            if let (true, Some(module)) = (pair[0].starts_with("#[cfg(test)]"), module)
                && let Some(module) = module.strip_suffix(';')
            {
                tests.insert(format!("{folder}{module}.rs"));
                tests.insert(format!("{folder}{module}/"));
            }
        }
    }
    all.into_iter()
        .filter(|(name, _)| {
            !tests.iter().any(|t| name == t || (t.ends_with('/') && name.starts_with(t)))
        })
        .map(|(name, text)| (name, without_tests(&text)))
        .collect()
}

/// Leaves out comments and every item under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            let indent = line.len() - line.trim_start().len();
            let close = format!("{}}}", " ".repeat(indent));
            let mut first = true;
            for line in lines.by_ref() {
                let one_line = first && (line.ends_with(';') || line.ends_with("{}"));
                first = first && line.trim_start().starts_with("#[");
                if one_line || line.starts_with(&close) {
                    break;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The top module that a file belongs to.
fn module(name: &str) -> &str {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs")
}

/// The identifiers behind each `path::`, braces opened: `crate::{a::X, b}` names a and b.
fn named<'a>(text: &'a str, path: &str) -> BTreeSet<&'a str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(path) {
        if text[..at].ends_with(word) || text[..at].ends_with("::") {
            continue;
        }
        let rest = &text[at + path.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(&rest[..rest.find(|c| !word(c)).unwrap_or(rest.len())]);
            continue;
        };
        let mut depth = 1;
        let mut fresh = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if fresh && word(c) {
                let item = &list[i..];
                found.insert(&item[..item.find(|c| !word(c)).unwrap_or(item.len())]);
                fresh = false;
            }
        }
    }
    found
}

pub fn complain(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn layers() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let module = module(&name);
        if module == "lib" {
            continue;
        }
        let names = named(&text, "crate::");
        if matches!(module, "main" | "bin") {
            // A program is the library's user.
            for item in names {
                if FACES.contains(&item) {
                    faults.push(format!("src/{name} names crate::{item}"));
                }
            }
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(m, _)| *m == module) else {
            faults.push(format!("src/{name}: module {module} is not in the table of layers"));
            continue;
        };
        for item in names {
            if item != module && !allowed.contains(&item) {
                faults.push(format!("src/{name} names crate::{item}; may name {allowed:?}"));
            }
        }
        if module != "store" {
            for store in named(&text, "store::") {
                if STORES.contains(&store) {
                    faults.push(format!("src/{name} names the concrete store {store}"));
                }
                // It would link TLS into every start of the plugin; the program says what is opened.
                if store.starts_with("open") && matches!(module, "cni" | "cli" | "program") {
                    faults.push(format!("src/{name} names store::{store}, not its World's"));
                }
            }
        }
    }
    complain(&faults);
}

#[test]
fn named_reads_use_lines() {
    let text = "use crate::net::{Addr, Span};\nuse crate::{model::{A, B}, error};\nfn f(x: crate::alloc::Y) {}";
    let expected = BTreeSet::from(["net", "model", "error", "alloc"]);
    assert_eq!(named(text, "crate::"), expected);
    assert!(named("xcrate::y", "crate::").is_empty());
}

#[test]
fn tests_are_left_out() {
    let text = "a\n#[cfg(test)]\nmod tests {\n    x\n}\nb\n#[cfg(test)]\nmod y;\nc\n// d\n";
    assert_eq!(without_tests(text), "a\nb\nc\n");
}

#[test]
fn crates_stay_where_they_belong() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        for (krate, owners) in OWNED_CRATES {
            let uses = text.contains(&format!("use {krate}::"))
                || text.contains(&format!("use {krate};"))
                || names_root(&text, krate)
                || named(&text, &format!("{krate}::"))
                    .iter()
                    .any(|item| !item.is_empty() && !local_module(&name, &text, krate));
            let owned =
                owners.iter().any(|o| name == *o || (o.ends_with('/') && name.starts_with(o)));
            if uses && !owned {
                faults.push(format!("src/{name} names {krate}; only {owners:?} may"));
            }
        }
        let derives = text.lines().any(|l| {
            l.contains("derive(") && (l.contains("Serialize") || l.contains("Deserialize"))
        });
        if derives && !SERDE.contains(&name.as_str()) {
            faults.push(format!("src/{name} derives serde's traits; only {SERDE:?} may"));
        }
    }
    complain(&faults);
}

/// Whether `krate::` in this file is our own module of that name, store/redb.rs say: where it is
/// declared, or brought in by `use super::`, which shuts the crate out.
fn local_module(name: &str, text: &str, krate: &str) -> bool {
    if !root().join(format!("src/store/{krate}.rs")).exists() || !name.starts_with("store/") {
        return false;
    }
    name == "store/mod.rs"
        || text.lines().filter_map(|l| l.strip_prefix("use super::")).any(|used| {
            // From a folder below it is further up.
            let used = used.trim_start_matches("super::").trim_end_matches(';');
            used == krate
                || used.starts_with(&format!("{krate}::{{self"))
                || used.starts_with('{') && used.split(['{', ',', '}']).any(|u| u.trim() == krate)
        })
}

/// Whether a crate is named from the root, `::redb::`, past any module of ours.
fn names_root(text: &str, krate: &str) -> bool {
    let path = format!("::{krate}::");
    text.match_indices(&path)
        .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>'))
}

#[test]
fn own_modules_are_told_from_crates() {
    for ours in ["use super::redb::{self, Writer};", "use super::redb;", "use super::{keys, redb};"]
    {
        assert!(local_module("store/x.rs", ours, "redb"), "{ours}");
    }
    for theirs in ["redb::open()", "use super::redb::Writer;", "use super::{redb::Writer};"] {
        assert!(!local_module("store/x.rs", theirs, "redb"), "{theirs}");
    }
    assert!(!local_module("engine.rs", "use super::redb;", "redb"));
    assert!(names_root("use ::redb::Database;", "redb"));
    assert!(!names_root("super::redb::open()", "redb"));
}

#[test]
fn nothing_below_the_faces_prints_or_exits() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let core = [
            "net", "model", "error", "alloc", "engine", "config", "store", "takeover", "handback",
            "bolt", "ecs_ipam",
        ];
        if !core.contains(&module(&name)) {
            continue;
        }
        for word in [
            "println!",
            "eprintln!",
            "print!(",
            "eprint!(",
            "process::exit",
            "env::var",
            "SystemTime::now",
        ] {
            if text.contains(word) {
                faults.push(format!("src/{name} has {word}"));
            }
        }
    }
    complain(&faults);
}

#[test]
fn nothing_unwraps() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if line.contains(".unwrap()") || line.contains(".expect(\"") {
                faults.push(format!("src/{name}, code line {}: {}", number + 1, line.trim()));
            }
        }
    }
    complain(&faults);
}

#[test]
fn sources_are_ascii_and_short() {
    let mut faults = Vec::new();
    let folders = ["src", "tests", "examples", "benches", "scripts"];
    for path in folders.iter().flat_map(|f| files(f)) {
        let text = read(&path);
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        if let Some(line) = text.lines().position(|l| !l.is_ascii()) {
            faults.push(format!("{name}:{}: not ASCII", line + 1));
        }
        let lines = text.lines().count();
        let is_code = path
            .extension()
            .is_some_and(|e| ["rs", "js", "mjs", "css", "sh"].iter().any(|c| e == *c));
        if is_code && lines > LONGEST {
            faults.push(format!("{name}: {lines} lines, at most {LONGEST}"));
        }
    }
    complain(&faults);
}

#[test]
fn modules_say_what_they_own() {
    let mut faults = Vec::new();
    for path in ["src", "tests", "examples"].iter().flat_map(|f| rust(f)) {
        if !read(&path).starts_with("//!") {
            faults.push(format!("{}: no module documentation", path.display()));
        }
    }
    complain(&faults);
}

#[test]
fn changelog_knows_the_version() {
    let text = read(&root().join("CHANGELOG.md"));
    let version = format!("## {}", env!("CARGO_PKG_VERSION"));
    let known = text.lines().any(|l| l.starts_with(&version) || l.starts_with("## Unreleased"));
    assert!(known, "CHANGELOG.md has neither {version:?} nor \"## Unreleased\"");
}

#[test]
fn testdata_is_used() {
    let mut users: String = rust("tests").iter().map(|p| read(p)).collect();
    users.extend(files("scripts").iter().map(|p| read(p)));
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("testdata")).unwrap() {
        let name = entry.unwrap().file_name().display().to_string();
        if !users.contains(&format!("testdata/{name}")) {
            faults.push(format!("testdata/{name} is used by no test and no script"));
        }
    }
    // Scripts are run by name.
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
            // Two lines may share a comment: serde and serde_json are one choice.
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
