//! docs/troubleshooting.md knows every error: each variant of the library's, each message that the
//! cases of testdata expect, each text with which a command or a cluster's store fails, each code.
//!
//! On the page a message stands as code in the first cell of a row, with `...` for what differs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sublet::error::{PoolRefusal, Refusal, StoreError};
use sublet::model::{
    Attachment, ContainerId, IfName, Kind, Lease, NetworkName, Node, Origin, Owner,
};
use sublet::model::{NodeRecord, PoolId, SetName};
use sublet::net::{Addr, RangeError, SetError, Subnet};

use crate::lab::testdata;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The rows: anchors, messages, remedy.
struct Row {
    anchors: Vec<String>,
    messages: Vec<String>,
}

fn rows() -> Vec<Row> {
    rows_of(&read("docs/troubleshooting.md"))
}

fn rows_of(text: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| message ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert!(cells.len() >= 2 && cells.iter().all(|c| !c.trim().is_empty()), "{line}");
        let after = |mark: &str, end: char| -> Vec<String> {
            cells[0].split(mark).skip(1).map(|p| p.split(end).next().unwrap().to_owned()).collect()
        };
        let spans = cells[0].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        rows.push(Row { anchors: after("<a id=\"", '"'), messages: spans });
    }
    rows
}

/// Whether a message is of a pattern: `...` is anything, nothing too.
fn fits(pattern: &str, message: &str) -> bool {
    let parts: Vec<&str> = pattern.split("...").collect();
    let Some(mut rest) = message.strip_prefix(parts[0]) else { return false };
    for part in &parts[1..] {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
        || parts.len() > 1 && parts.last() == Some(&"")
        || message.ends_with(parts[parts.len() - 1])
}

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn lease() -> Box<Lease> {
    let attachment = Attachment {
        network: NetworkName::new("net").unwrap(),
        container: ContainerId::new("c").unwrap(),
        ifname: IfName::new("eth0").ok(),
    };
    Box::new(Lease {
        set: SetName("net".to_owned()),
        addr: addr("10.0.0.9"),
        prefix: 24,
        kind: Kind::Dynamic,
        owner: Owner::Attachment(attachment),
        range: addr("10.0.0.1"),
        node: Node::default(),
        boot: None,
        origin: Origin::default(),
        time: 0,
        cooldown: 0,
    })
}

fn refusals() -> Vec<Refusal> {
    let (index, ranges) = (0, "10.0.0.1-10.0.0.9".to_owned());
    let (at, owner) = (addr("10.0.0.2"), Box::new(lease().owner));
    vec![
        Refusal::Exhausted { index, ranges: ranges.clone(), cooling: true },
        Refusal::Held { index, ranges: ranges.clone(), holder: lease() },
        Refusal::Cooling { index, addr: at, seconds: 5 },
        Refusal::NotInRange { addrs: vec![at], ranges },
        Refusal::Excluded { index, addr: at },
        Refusal::IsGateway { index, addr: at },
        Refusal::GatewayHeld { holder: lease() },
        Refusal::Duplicate { index, lease: lease() },
        Refusal::Misfit { lease: lease(), asked: Some(at) },
        Refusal::Misfit { lease: lease(), asked: None },
        Refusal::NowGateway { lease: lease() },
        Refusal::Missing { owner: owner.clone() },
        Refusal::Lost { owner: owner.clone(), addr: at },
        Refusal::Different { lease: lease(), expected: vec![] },
        Refusal::Clash { holder: lease(), owner },
        Refusal::Takeover { network: NetworkName::new("net").unwrap(), why: "x".to_owned() },
        Refusal::OldKeys { network: NetworkName::new("net").unwrap(), why: "x".to_owned() },
        Refusal::Redefined {
            network: NetworkName::new("net").unwrap(),
            expected: Some(1),
            kept: None,
        },
    ]
}

fn pool_refusals() -> Vec<PoolRefusal> {
    let id = || PoolId("L/10.0.0.0/24".to_owned());
    let subnet = Subnet::new(addr("10.0.0.0"), 24).unwrap();
    let text = || "x".to_owned();
    vec![
        PoolRefusal::Unknown(id()),
        PoolRefusal::Overlap { subnet, with: id(), taken: subnet, shared: None },
        PoolRefusal::Overlap { subnet, with: id(), taken: subnet, shared: Some(text()) },
        PoolRefusal::NoBlock,
        PoolRefusal::Differs { name: text(), what: "subnet", has: text(), asked: text() },
        PoolRefusal::Routed { name: text(), subnet },
        PoolRefusal::Taken { addr: addr("10.0.0.2"), holder: None },
        PoolRefusal::OutOfRange { addr: addr("10.0.0.2"), subnet },
        PoolRefusal::Exhausted(id()),
    ]
}

fn machine(id: &str) -> Node {
    Node { name: "n".to_owned(), machine: id.to_owned() }
}

fn record(id: &str) -> NodeRecord {
    NodeRecord { node: machine(id), boot: None, first: 0, since: 0, turn: 0 }
}

fn store_errors() -> Vec<StoreError> {
    let text = || "x".to_owned();
    let path = || "/s".into();
    vec![
        StoreError::Locked { path: path(), waited: Duration::from_secs(5), holders: vec![7] },
        StoreError::Locked { path: path(), waited: Duration::from_secs(5), holders: vec![] },
        StoreError::Unavailable { doing: text(), place: text(), source: "x".into() },
        StoreError::Unanswered { doing: text(), place: text(), source: "x".into() },
        StoreError::BadRecord { place: text(), key: text(), what: text() },
        StoreError::Damaged { path: path(), what: text() },
        StoreError::Foreign { path: path(), what: text(), advice: text() },
        StoreError::SharedFolder { path: path() },
        StoreError::OtherVersion { place: text() },
        StoreError::Claimed { place: text(), node: machine("a"), by: Box::new(record("b")) },
        StoreError::Claimed { place: text(), node: machine("a"), by: Box::new(record("a")) },
        StoreError::Unreadable { why: text() },
    ]
}

fn ranges() -> Vec<RangeError> {
    let (at, subnet) = (addr("10.0.0.2"), Subnet::new(addr("10.0.0.0"), 24).unwrap());
    vec![
        RangeError::HostBits { meant: subnet },
        RangeError::Start(at, subnet),
        RangeError::End(at, subnet),
        RangeError::StartAfterDefaultEnd(at, at, subnet),
    ]
}

fn sets() -> Vec<SetError> {
    let text = || "10.0.0.1-10.0.0.9".to_owned();
    vec![
        SetError::Empty,
        SetError::MixedFamilies,
        SetError::Overlap(text(), text()),
        SetError::NothingToGive(text()),
    ]
}

/// A variant's name as an anchor: `NotInRange` is `not-in-range`.
fn anchor(prefix: &str, debug: &str) -> String {
    let name: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
    let mut out = prefix.to_owned();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Anchor and text of each variant.
fn samples() -> Vec<(String, String)> {
    fn all<T: std::fmt::Debug + std::fmt::Display>(
        prefix: &str,
        of: &[T],
    ) -> Vec<(String, String)> {
        of.iter().map(|e| (anchor(prefix, &format!("{e:?}")), e.to_string())).collect()
    }
    [
        all("", &refusals()),
        all("pool-", &pool_refusals()),
        all("store-", &store_errors()),
        all("range-", &ranges()),
        all("set-", &sets()),
    ]
    .concat()
}

/// The variants of an enum in a source.
fn variants(file: &str, name: &str, prefix: &str) -> BTreeSet<String> {
    let text = read(file);
    let body =
        text.split(&format!("pub enum {name} {{\n")).nth(1).unwrap_or_else(|| panic!("{name}"));
    let body = body.split("\n}\n").next().unwrap();
    let of = body.lines().filter_map(|l| l.strip_prefix("    "));
    of.filter(|l| l.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|l| anchor(prefix, l))
        .collect()
}

#[test]
fn every_variant_has_its_row() {
    let rows = rows();
    let mut seen = BTreeSet::new();
    for (anchor, message) in samples() {
        let row = rows.iter().find(|row| row.anchors.contains(&anchor));
        let row = row.unwrap_or_else(|| panic!("docs/troubleshooting.md has no anchor {anchor}"));
        let here = row.messages.iter().any(|m| fits(m, &message));
        // Two texts of one variant may stand in two rows.
        let next = rows.iter().filter(|r| r.anchors.is_empty()).flat_map(|r| &r.messages);
        assert!(here || next.into_iter().any(|m| fits(m, &message)), "{anchor}: {message}");
        seen.insert(anchor);
    }
    let mut known = BTreeSet::new();
    for (file, name, prefix) in [
        ("src/error/mod.rs", "Refusal", ""),
        ("src/error/pool.rs", "PoolRefusal", "pool-"),
        ("src/error/mod.rs", "StoreError", "store-"),
        ("src/net/range.rs", "RangeError", "range-"),
        ("src/net/set.rs", "SetError", "set-"),
    ] {
        known.extend(variants(file, name, prefix));
    }
    // It only wraps the others.
    known.remove("pool");
    assert_eq!(seen, known, "each variant needs a sample here, and a row on the page");
    let anchors: BTreeSet<String> = rows.iter().flat_map(|row| row.anchors.clone()).collect();
    let env = variants("src/cni/env.rs", "EnvError", "env-");
    assert!(env.is_subset(&anchors), "{env:?}");
}

#[test]
fn every_code_has_its_row() {
    let source = read("src/cni/error.rs");
    let codes = source
        .lines()
        .filter_map(|l| l.strip_prefix("pub const ")?.split(": u32 = ").nth(1)?.strip_suffix(';'));
    let text = read("docs/troubleshooting.md");
    for code in codes {
        assert!(text.contains(&format!("<a id=\"code-{code}\"></a>{code} |")), "no code {code}");
    }
}

/// Every message that a case of testdata expects of a refused configuration.
#[test]
fn every_refused_configuration_finds_its_message() {
    let mut messages = BTreeSet::new();
    for dialect in ["native", "ecs", "consul"] {
        for case in fs::read_dir(testdata().join("config").join(dialect).join("bad")).unwrap() {
            let text = fs::read_to_string(case.unwrap().path().join("out.txt")).unwrap();
            messages.extend(
                text.lines()
                    .filter_map(|l| l.strip_prefix("code 6: ").or(l.strip_prefix("code 7: ")))
                    .map(str::to_owned),
            );
        }
    }
    for case in fs::read_dir(testdata().join("cni")).unwrap() {
        let Ok(text) = fs::read(case.unwrap().path().join("case.json")) else { continue };
        let story: Value = serde_json::from_slice(&text).unwrap();
        for step in story["steps"].as_array().unwrap() {
            messages.extend(step["expect"]["msg"].as_str().map(str::to_owned));
        }
    }
    assert!(messages.len() > 100, "{}", messages.len());
    let patterns: Vec<String> = rows().into_iter().flat_map(|row| row.messages).collect();
    let unknown: Vec<&String> =
        messages.iter().filter(|m| !patterns.iter().any(|p| p != "..." && fits(p, m))).collect();
    assert!(unknown.is_empty(), "docs/troubleshooting.md knows nothing of\n{unknown:#?}");
}

/// Where a command, an import or a cluster's store says in its own words what is wrong.
const SPEAKERS: &[&str] = &[
    "src/cli",
    "src/config/cluster.rs",
    "src/config/define.rs",
    "src/migrate/gipam.rs",
    "src/migrate/ecs/mod.rs",
    "src/migrate/host_local_export.rs",
    "src/migrate/jsonl.rs",
    "src/rows.rs",
    "src/main.rs",
    "src/store/cluster/server.rs",
    "src/store/cluster/mod.rs",
    "src/store/cluster/node.rs",
    "src/store/cluster/legacy_keys.rs",
    "src/store/cluster/commit.rs",
    "src/store/cluster/history.rs",
    "src/store/cluster/consul.rs",
    "src/store/cluster/etcd.rs",
    "src/store/cluster/http.rs",
    "src/store/cluster/kontena.rs",
    "src/store/cluster/login.rs",
    "src/migrate/host_local_import.rs",
];

/// The sections with what they say.
const SAID: &[&str] = &[
    "What servers say",
    "Commands",
    "Commands about nodes and networks",
    "Copying, exporting and importing",
];

/// After these an error's text stands, maybe with calls and closures between.
const BEFORE: &[&str] = &[
    "Err(",
    "Error::new(",
    "Undone(",
    "Unknown(",
    "Unsent(",
    "anyhow!(",
    "bad(",
    "bail!(",
    "context(",
    "foreign(",
    "let why = ",
    "map_err(",
    "misuse(",
    "ok_or(",
    "ok_or_else(",
    "refuse(",
    "source: ",
    "unusable(",
    "::decode(",
    "::invalid(",
    "::other(",
];

/// Of these the first text is what was being done; `StoreError` makes the error's text of it.
const DOING: &[&str] = &["io(", "unavailable(", "doing: "];

/// A place, and not what is wrong there.
const PLACES: &[&str] = &["--from: ", "--store: ", "standard input: "];

/// The texts of errors in a source, with an x where something is put in.
fn texts(source: &str) -> BTreeSet<String> {
    let own = source.split("\n#[cfg(test)]").next().unwrap();
    let code: Vec<&str> = own.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for before in BEFORE {
        for (at, _) in code.match_indices(before) {
            let rest = &code[at + before.len()..];
            let Some((between, rest)) = rest.split_once('"') else { continue };
            let plain = between.replace("[0].as_ref()", "");
            let passed = |c: char| c.is_ascii_alphanumeric() || " \n_:|({&,.!".contains(c);
            if plain.chars().all(passed) && !DOING.iter().any(|d| between.ends_with(d)) {
                let place = if *before == "context(" { ": " } else { "" };
                found.insert(literal(rest) + place);
            }
        }
    }
    // What has no words of its own hands on another's.
    found.retain(|text| text.chars().filter(|c| c.is_ascii_alphabetic() && *c != 'x').count() > 4);
    found
}

/// The string whose inner begins here.
fn literal(rest: &str) -> String {
    let mut text = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next().filter(|c| *c != '"') {
        match c {
            '\\' if chars.peek() == Some(&'\n') => {
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
            }
            '\\' => text.extend(chars.next()),
            '{' if chars.next_if_eq(&'{').is_some() => text.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => text.push('}'),
            '{' if chars.peek() != Some(&'\\') => {
                let inner: String = chars.by_ref().take_while(|c| *c != '}').collect();
                text += if inner.ends_with(":?") { "\"x\"" } else { "x" };
            }
            c => text.push(c),
        }
    }
    text
}

fn sources(path: &Path, found: &mut Vec<String>) {
    if path.is_file() {
        found.push(fs::read_to_string(path).unwrap());
        return;
    }
    for entry in fs::read_dir(path).unwrap() {
        sources(&entry.unwrap().path(), found);
    }
}

/// Every text with which a command or a cluster's store fails is on the page, and the page has none that
/// nobody says any more.
#[test]
fn every_text_of_commands_and_clusters_has_its_row() {
    let mut all = Vec::new();
    for name in SPEAKERS {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name), &mut all);
    }
    let said: BTreeSet<String> = all.iter().flat_map(|source| texts(source)).collect();
    assert!(said.len() > 120, "{}", said.len());
    let patterns: Vec<String> = rows().into_iter().flat_map(|row| row.messages).collect();
    let known = |text: &str| {
        patterns.iter().any(|p| p != "..." && (fits(p, text) || fits(p, &format!("{text}x"))))
    };
    let unknown: Vec<&String> =
        said.iter().filter(|t| !known(t) && !PLACES.contains(&t.as_str())).collect();
    assert!(unknown.is_empty(), "docs/troubleshooting.md knows nothing of\n{unknown:#?}");
    let page = read("docs/troubleshooting.md");
    let sections: String = SAID.iter().map(|name| section(&page, name)).collect();
    let stale: Vec<String> = rows_of(&sections)
        .into_iter()
        .flat_map(|row| row.messages)
        .filter(|p| !said.iter().any(|t| fits(p, t) || fits(p, &format!("{t}x"))))
        .collect();
    assert!(stale.is_empty(), "nobody says\n{stale:#?}");
}

fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let text = page.split(&format!("\n## {heading}\n")).nth(1);
    let text = text.unwrap_or_else(|| panic!("no section {heading}"));
    text.split("\n## ").next().unwrap()
}

/// Links between the pages and inside of them lead somewhere.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|e| e == "md") {
            pages.push(format!("docs/{name}"));
        }
    }
    let mut dead = Vec::new();
    for page in &pages {
        let text = read(page);
        for link in text.split("](").skip(1).map(|p| p.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root.join(page),
                _ => root.join(page).parent().unwrap().join(file),
            };
            if !target.exists() {
                dead.push(format!("{page}: {link}"));
            } else if !place.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let heading = |l: &str| l.starts_with('#') && slug(l) == place;
                let named = text.contains(&format!("<a id=\"{place}\"></a>"));
                if !named && !text.lines().any(heading) {
                    dead.push(format!("{page}: {link}"));
                }
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// A heading as a link names it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_ascii_lowercase();
    let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn patterns() {
    assert!(fits("a ... c", "a b c") && fits("a...", "a") && fits("...x...", "1x2"));
    assert!(!fits("a ... c", "a b d") && !fits("b", "ab") && !fits("a", "ab"));
    assert_eq!(anchor("pool-", "OutOfRange { addr"), "pool-out-of-range");
    assert_eq!(slug("## A damaged lease file"), "a-damaged-lease-file");
    let source = r#"Err(anyhow!("{n} of {name:?} \
        gone"))  bail!("{{\"of {} there\"}}")  Err(io("reading", e))  Err(e)?; f("not an error")"#;
    let expected = ["x of \"x\" gone", "{\"of x there\"}"].map(str::to_owned);
    assert_eq!(texts(source), BTreeSet::from(expected));
}
