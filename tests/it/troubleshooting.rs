//! Checks that docs/troubleshooting.md has a row for each error code and each variant of the library's
//! errors. It must also have a row for each message that testdata expects, and for each message of a command.
//! The sources must contain the message of each row.
//!
//! In the first cell of a row, a message is formatted as code, and `...` stands for a variable part.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lab::testdata;
use crate::tidy::{complain, read, root, sources};

/// The enums of errors. Each entry has the source file, the name of the enum, and the prefix of its variants'
/// anchors in docs/troubleshooting.md.
const ERRORS: &[(&str, &str, &str)] = &[
    ("src/error/mod.rs", "Refusal", ""),
    ("src/error/mod.rs", "StoreError", "store-"),
    ("src/error/pool.rs", "PoolRefusal", "pool-"),
    ("src/net/range.rs", "RangeError", "range-"),
    ("src/net/set.rs", "SetError", "set-"),
    ("src/cni/env.rs", "EnvError", "env-"),
];

fn page() -> String {
    read(&root().join("docs/troubleshooting.md"))
}

/// Returns the messages of all rows in docs/troubleshooting.md.
fn messages() -> Vec<String> {
    let page = page();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let code = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    code.filter(|message| *message != "...").map(str::to_owned).collect()
}

/// Returns whether the message of a row matches an actual message. In the row's message, `...` matches any
/// text.
fn fits(pattern: &str, message: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once("...") else { return pattern == message };
    message.strip_prefix(begin).is_some_and(|message| {
        message.char_indices().any(|(at, _)| fits(rest, &message[at..])) || fits(rest, "")
    })
}

/// Returns a source file with its string literals as the program prints them. A quote inside a string becomes
/// `'`.
fn unescaped(source: &str) -> String {
    let joined: String = source.split("\\\n").map(str::trim_start).collect();
    joined.replace("\\\"", "'").replace("{{", "{").replace("}}", "}")
}

/// Splits a text at the characters `between`, and returns the parts that are long enough to identify a
/// message.
fn pieces<'t>(text: &'t str, between: &'static [char]) -> impl Iterator<Item = &'t str> {
    text.split(between).map(str::trim).filter(|piece| piece.len() > 4)
}

/// Returns whether a text contains a piece of a message. The first word of the piece may be missing: it may
/// be a name that the text mentions elsewhere or replaces with `...`.
fn has(text: &str, piece: &str) -> bool {
    text.contains(piece) || piece.split_once(' ').is_some_and(|(_, rest)| text.contains(rest))
}

/// Returns the anchor for each variant of an enum. For example, the anchor for the variant `NotInRange` is
/// `not-in-range`.
fn anchors((file, name, prefix): &(&str, &str, &str)) -> Vec<String> {
    let text = read(&root().join(file));
    let body = text.split(&format!("pub enum {name} {{\n")).nth(1).expect(name);
    let lines = body.split("\n}\n").next().unwrap().lines().filter_map(|l| l.strip_prefix("    "));
    let variants = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let anchor = |line: &str| {
        let mut anchor = String::new();
        for c in line.chars().take_while(char::is_ascii_alphanumeric) {
            if c.is_ascii_uppercase() && !anchor.is_empty() {
                anchor.push('-');
            }
            anchor.push(c.to_ascii_lowercase());
        }
        format!("{prefix}{anchor}")
    };
    variants.map(anchor).collect()
}

#[test]
fn every_code_and_variant_has_its_row() {
    let codes = read(&root().join("src/cni/error.rs"));
    let code = |line: &str| {
        let number = line.strip_prefix("pub const ")?.split(": u32 = ").nth(1)?;
        Some(format!("code-{}", number.trim_end_matches(';')))
    };
    let mut expected: BTreeSet<String> = codes.lines().filter_map(code).collect();
    expected.extend(ERRORS.iter().flat_map(anchors));
    // `Refusal::Pool` contains a `PoolRefusal`, whose variants have their own anchors.
    expected.remove("pool");
    let page = page();
    let found = page.split("<a id=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    assert_eq!(found.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

/// Returns the error texts that the cases in testdata expect from configurations, calls and commands.
fn expected_by_testdata() -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for dialect in ["native", "ecs", "consul"] {
        for case in fs::read_dir(testdata().join("config").join(dialect).join("bad")).unwrap() {
            let out = read(&case.unwrap().path().join("out.txt"));
            let text = |l: &str| Some(l.strip_prefix("code ")?.split_once(": ")?.1.to_owned());
            texts.extend(out.lines().filter_map(text));
        }
    }
    for case in fs::read_dir(testdata().join("cni")).unwrap() {
        let Ok(text) = fs::read(case.unwrap().path().join("case.json")) else { continue };
        let case: Value = serde_json::from_slice(&text).unwrap();
        let steps = case["steps"].as_array().unwrap().iter();
        texts.extend(steps.filter_map(|step| Some(step["expect"]["msg"].as_str()?.to_owned())));
    }
    texts
}

#[test]
fn every_message_has_its_row() {
    let expected = expected_by_testdata();
    assert!(expected.len() > 100, "{}", expected.len());
    let rows = messages();
    let unknown = expected.iter().filter(|text| !rows.iter().any(|row| fits(row, text)));
    let mut faults: Vec<String> = unknown.cloned().collect();
    let rows = rows.join("\n").replace('"', "'");
    for (file, source) in sources() {
        let of_commands = file.starts_with("cli/") || file.starts_with("migrate/");
        let source = unescaped(&source).replace("anyhow!(\"", "bail!(\"");
        for text in source.split("bail!(\"").skip(1).filter(|_| of_commands) {
            let text = text.split('"').next().unwrap();
            let first = pieces(text, &['{', '}', ':', ';', '\'']).next();
            faults.extend(first.filter(|p| !has(&rows, p)).map(|p| format!("src/{file}: {p}")));
        }
    }
    complain(&faults);
}

#[test]
fn every_row_is_in_the_sources() {
    let sources: String = sources().values().map(|source| unescaped(source)).collect();
    let rows = messages();
    let unknown = |row: &&String| {
        pieces(&row.replace('"', "'"), &['.', ':', ';']).any(|piece| !has(&sources, piece))
    };
    complain(&rows.iter().filter(unknown).cloned().collect::<Vec<_>>());
}

/// Every link in the documentation must lead to an existing page, and to an existing place in that page.
#[test]
fn links_lead_somewhere() {
    let mut pages = vec![root().join("testdata/README.md")];
    for folder in [root(), root().join("docs")] {
        pages.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    let mut dead = Vec::new();
    for page in &pages {
        let text = read(page);
        for link in text.split("](").skip(1).map(|p| p.split(')').next().unwrap()) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap().join(file),
            };
            let lives = link.contains("://") || target.exists() && has_place(&target, place);
            if !lives {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    complain(&dead);
}

/// Returns whether a page contains a heading or an anchor with the name `place`.
fn has_place(page: &Path, place: &str) -> bool {
    let heading = |line: &str| line.starts_with('#') && slug(line) == place;
    place.is_empty() || {
        let text = read(page);
        text.contains(&format!("<a id=\"{place}\"></a>")) || text.lines().any(heading)
    }
}

/// Returns the anchor that GitHub generates for a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_ascii_lowercase();
    let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn patterns() {
    assert!(fits("a ... c", "a b c") && fits("a...", "a") && fits("...x...", "1x2"));
    assert!(!fits("a ... c", "a b d") && !fits("b", "ab") && !fits("a", "ab"));
    assert_eq!(slug("## A damaged lease file"), "a-damaged-lease-file");
}
