//! Parses the configurations in `testdata/config` and compares the results, or the errors, with golden files.
//!
//! `testdata/config/<dialect>/<ok|bad>/<case>/` contains
//! - `in.json`: the input; if it is absent, the input is the dialect's `base.json`;
//! - `env` (optional): lines KEY=VALUE, in addition to `CNI_CONTAINERID=ctr1` and `CNI_IFNAME=eth0`;
//! - `out.txt`: the result. Lines with a prefix in [`ALWAYS`] are left out if the result of `ok/base` has the
//!   same line.
//!
//! `UPDATE_GOLDEN=1` rewrites `out.txt`; read each difference before you commit it.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sublet::config::{Cleanup, Config, ConfigError, Dns, Inputs, Level, Netconf, Route};
use sublet::model::{ContainerId, IfName};
use sublet::net::Addr;

fn inputs(env: &str) -> Inputs {
    let mut inputs = Inputs {
        container: ContainerId::new("ctr1").ok(),
        ifname: IfName::new("eth0").ok(),
        ..Inputs::default()
    };
    for line in env.lines() {
        let (key, value) = line.split_once('=').expect("KEY=VALUE");
        let text = Some(value.to_owned());
        match key {
            "CNI_CONTAINERID" => inputs.container = ContainerId::new(value).ok(),
            "CNI_IFNAME" => inputs.ifname = IfName::new(value).ok(),
            "CNI_ARGS" => value.clone_into(&mut inputs.args),
            "IPAM_DB_PATH" => inputs.db_path = text,
            "IPAM_DB_CONNECTION_TIMEOUT" => inputs.db_timeout = text,
            "ECS_CNI_LOG_FILE" => inputs.log_file = text,
            "ECS_CNI_LOGLEVEL" => inputs.log_level = text,
            "VERSION_BEFORE_030" => inputs.one_per_family = value == "1",
            _ => panic!("unknown key {key}"),
        }
    }
    inputs
}

/// Parses a configuration, following the same steps as the plugin. Returns the result as text, or the errors.
fn read(bytes: &[u8], inputs: &Inputs) -> Result<String, String> {
    let mut conf = Netconf::decode(bytes).map_err(|e| failure(&e))?;
    let mut out = String::new();
    let mut wrong = String::new();
    let mut note = |result: Result<String, ConfigError>| match result {
        Ok(text) => out.push_str(&text),
        Err(e) => wrong.push_str(&failure(&e)),
    };
    note(conf.name().map(|_| String::new()));
    let text = String::from_utf8_lossy(bytes);
    if text.contains("cni.dev/") || text.contains("\"gc\"") {
        note(conf.take_valid_attachments().map(|valid| {
            let names: Vec<_> = valid.iter().map(|(c, i)| format!("{c}/{i}")).collect();
            format!("valid: {names:?}\n")
        }));
    }
    if text.contains("prevResult") {
        note(conf.prev_addresses().map(|prev| format!("prev: {prev:?}\n")));
    }
    note(conf.config(inputs).map(|config| show(&config)));
    let cleanup = conf.cleanup(inputs);
    if wrong.is_empty() {
        // Print only some fields of the cleanup. The test `cleanup_agrees_with_config` compares its other
        // fields with the configuration.
        let freed = format!("cleanup: addrs: {:?}, rewind {}\n", cleanup.addrs, cleanup.rewind);
        Ok(format!("version {}, has id: {}\n{out}{freed}", conf.version(), conf.has_id()))
    } else {
        Err(wrong + &show_cleanup(&cleanup))
    }
}

fn failure(e: &ConfigError) -> String {
    let code = if e.is_decode() { 6 } else { 7 };
    let details = e.details().map(|d| format!("details: {d}\n")).unwrap_or_default();
    format!("code {code}: {e}\n{details}")
}

fn show(c: &Config) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("memory");
    line(format!(
        "dialect {:?}, network {}, set {}",
        c.cleanup.dialect, c.cleanup.network, c.cleanup.set
    ));
    line(format!("owner: {:?}", c.cleanup.owner));
    for (i, set) in c.sets.iter().enumerate() {
        for range in set.ranges() {
            let (subnet, gateway) = (range.subnet(), range.gateway());
            line(format!(
                "set {i}: {range} of {subnet}, gateway {gateway:?}, gives {:?}",
                range.spans()
            ));
        }
    }
    for wanted in &c.wanted {
        line(format!("wanted: {} prefix {:?}", wanted.addr, wanted.prefix));
    }
    line(format!(
        "strategy: {:?}, {:?}, sticky {}, on duplicate {:?}, claim gateways {}",
        c.strategy, c.cooldown, c.sticky, c.on_duplicate, c.claim_gateways
    ));
    let origin = &c.origin;
    if origin.attachment
        != c.cleanup.owner.as_ref().and_then(|o| match o {
            sublet::model::Owner::Attachment(a) => Some(a.clone()),
            _ => None,
        })
    {
        line(format!("attachment: {:?}", origin.attachment));
    }
    if origin.pod.is_some() || origin.mac.is_some() {
        line(format!("pod: {:?}, mac: {:?}", origin.pod, origin.mac));
    }
    for r in &c.routes {
        let Route { dst, net, gw, mtu, advmss, priority, table, scope } = r;
        let more: Vec<String> = [
            ("mtu", mtu),
            ("advmss", advmss),
            ("priority", priority),
            ("table", table),
            ("scope", scope),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|v| format!(", {name} {v}")))
        .collect();
        let gw = gw.as_ref().map(|gw| gw.parse::<Addr>().unwrap());
        line(format!("route: {dst} ({net:?}) gw {gw:?}{}", more.concat()));
    }
    if c.dns != Dns::default() {
        line(format!("{:?}", c.dns));
    }
    line(format!("store: {:?}", c.cleanup.store));
    line(format!("legacy: {:?}", c.cleanup.legacy_dir));
    if c.cleanup.log.file.is_some() || c.cleanup.log.level != Level::Info {
        line(log(&c.cleanup.log));
    }
    for warning in &c.warnings {
        line(format!("warning: {warning}"));
    }
    out
}

/// The result of every case has a line with each of these prefixes. If the whole line is the same as in the
/// result of `ok/base`, `out.txt` omits it.
const ALWAYS: &[&str] =
    &["version ", "dialect ", "owner: ", "strategy: ", "store: ", "legacy: ", "cleanup: ", "  "];

/// Returns the lines of a result that `out.txt` contains. Lines that [`ALWAYS`] covers are left out if
/// `base`, the result of `ok/base`, has them too.
fn differing(out: &str, base: &str) -> String {
    let usual: HashSet<&str> = base.lines().collect();
    let is_usual = |l: &str| usual.contains(l) && ALWAYS.iter().any(|begin| l.starts_with(begin));
    out.lines().filter(|l| !is_usual(l)).map(|l| l.to_owned() + "\n").collect()
}

fn show_cleanup(c: &Cleanup) -> String {
    format!(
        "cleanup: addrs: {:?}, rewind {}\n  dialect {:?}, network {}, set {}\n  owner: {:?}\n  store: {:?}\n  {}\n",
        c.addrs,
        c.rewind,
        c.dialect,
        c.network,
        c.set,
        c.owner,
        c.store,
        log(&c.log)
    )
}

/// Returns the log settings as text. Leaves out the format if it is the default, `Text`.
fn log(log: &sublet::config::Log) -> String {
    format!("{log:?}").replace(", format: Text", "")
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut folders: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new("testdata/config");
    folders(root).iter().flat_map(|d| folders(d)).flat_map(|d| folders(&d)).collect()
}

/// Returns the configuration of a case: its `in.json`, or the `base.json` of its dialect.
pub fn configuration(case: &Path) -> Vec<u8> {
    fs::read(case.join("in.json")).unwrap_or_else(|_| base_configuration(case))
}

fn base_configuration(case: &Path) -> Vec<u8> {
    fs::read(case.join("../../base.json")).expect("base.json")
}

/// Returns the result for the `base.json` of the case's dialect, including the values that a DEL uses.
fn base(case: &Path) -> String {
    let (bytes, inputs) = (base_configuration(case), inputs(""));
    let conf = Netconf::decode(&bytes).expect("base.json");
    read(&bytes, &inputs).expect("base.json is valid") + &show_cleanup(&conf.cleanup(&inputs))
}

fn environment(case: &Path) -> Inputs {
    inputs(&fs::read_to_string(case.join("env")).unwrap_or_default())
}

#[test]
fn golden() {
    let update = std::env::vars_os().any(|(key, _)| key == "UPDATE_GOLDEN");
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() > 100, "the cases are gone");
    for case in &cases {
        let result = read(&configuration(case), &environment(case));
        let kind = case.parent().and_then(Path::file_name).and_then(|n| n.to_str());
        let expected = if result.is_ok() { "ok" } else { "bad" };
        let (Ok(mut out) | Err(mut out)) = result;
        if !case.ends_with("ok/base") {
            out = differing(&out, &base(case));
        }
        if kind != Some(expected) {
            wrong.push(format!("{} is {expected}:\n{out}", case.display()));
            continue;
        }
        let golden = case.join("out.txt");
        if update {
            fs::write(&golden, &out).expect("write out.txt");
        } else if fs::read_to_string(&golden).unwrap_or_default() != out {
            wrong.push(format!("{} gives:\n{out}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A DEL must look for its lease in the store and network, and under the owner, that an ADD with the same
/// configuration uses. Otherwise, it would leave the lease behind.
#[test]
fn cleanup_agrees_with_config() {
    for case in cases() {
        let (bytes, inputs) = (configuration(&case), environment(&case));
        let Ok(conf) = Netconf::decode(&bytes) else {
            continue;
        };
        let Ok(config) = conf.config(&inputs) else {
            continue;
        };
        let cleanup = conf.cleanup(&inputs);
        let place = case.display();
        assert_eq!(config.cleanup.dialect, cleanup.dialect, "{place}");
        assert_eq!(config.cleanup.dialect, conf.dialect(), "{place}");
        assert_eq!(config.cleanup.network, cleanup.network, "{place}");
        assert_eq!(config.cleanup.set, cleanup.set, "{place}");
        assert_eq!(config.cleanup.owner, cleanup.owner, "{place}");
        assert_eq!(config.cleanup.store, cleanup.store, "{place}");
        assert_eq!(config.cleanup.log, cleanup.log, "{place}");
    }
}

/// Replaces each value in the sample configurations with a value of each JSON type, and with hostile text.
/// The parser must never panic, and must always return the values that a DEL uses.
#[test]
fn no_value_at_any_place_panics() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let hostile = [
        "null",
        "true",
        "0",
        "-1",
        "18446744073709551615",
        "-9223372036854775808",
        "1e308",
        "0.5",
        "\"\"",
        "\" \"",
        "\"\\u0000\"",
        "\"\u{202e}\u{1f4a3}\"",
        "\"/\"",
        "\"-\"",
        "\"0.0.0.0/0\"",
        "\"::/0\"",
        "\"255.255.255.255/32\"",
        "\"ffff::-ffff::\"",
        "\"9223372036s\"",
        "\"none\"",
        "[]",
        "[null]",
        "[[]]",
        "[[null]]",
        "[{}]",
        "[[{}]]",
        "{}",
        "{\"\":{}}",
        &deep,
    ]
    .map(|text| serde_json::from_str::<serde_json::Value>(text).expect(text));
    let mut seen = HashSet::new();
    let mut tried = 0;
    for case in cases() {
        let (bytes, inputs) = (configuration(&case), environment(&case));
        let Ok(sample) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            continue;
        };
        let kind = case.parent().map(Path::to_path_buf);
        for place in pointers(&sample, String::new()) {
            if !seen.insert((kind.clone(), place.clone())) {
                continue;
            }
            for value in &hostile {
                let mut changed = sample.clone();
                *changed.pointer_mut(&place).expect("place") = value.clone();
                if let Ok(mut conf) = Netconf::decode(changed.to_string().as_bytes()) {
                    let _ = (conf.config(&inputs), conf.name(), conf.has_id());
                    let _ = (conf.take_valid_attachments(), conf.prev_addresses());
                    let cleanup = conf.cleanup(&inputs);
                    assert_eq!(cleanup.dialect, conf.dialect());
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 3_000, "{tried}");
}

fn pointers(value: &serde_json::Value, at: String) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(object) = value.as_object() {
        for (key, value) in object {
            let key = key.replace('~', "~0").replace('/', "~1");
            all.extend(pointers(value, format!("{at}/{key}")));
        }
    }
    if let Some(list) = value.as_array() {
        for (i, value) in list.iter().enumerate() {
            all.extend(pointers(value, format!("{at}/{i}")));
        }
    }
    all.push(at);
    all
}

#[test]
fn size_is_no_matter() {
    let many = "\"x\":1,".repeat(1_700_000);
    let json = format!("{{{many}\"name\":\"n\",\"ipam\":{{\"subnet\":\"10.1.2.0/24\"}}}}");
    assert!(json.len() > 10_000_000);
    let conf = Netconf::decode(json.as_bytes()).expect("large, and valid");
    assert!(conf.config(&Inputs::default()).is_ok());
    let long = "x".repeat(10_000_000);
    let json = format!(
        "{{\"name\":\"n\",\"ipam\":{{\"subnet\":\"{long}\",\"{long}\":1,\"shared\":\"{long}!\"}}}}"
    );
    let conf = Netconf::decode(json.as_bytes()).expect("large, and JSON");
    let message = conf.config(&Inputs::default()).expect_err("no subnet").to_string();
    assert!(message.len() < 500, "the value is cut: {} bytes", message.len());
    assert_eq!(conf.cleanup(&Inputs::default()).set.0, "n");
}

#[test]
fn depth_is_an_error() {
    for open in ["[", "{\"a\":"] {
        let json = format!("{{\"name\":\"n\",\"ipam\":{}", open.repeat(10_000));
        let e = Netconf::decode(json.as_bytes()).expect_err("too deep");
        assert!(e.is_decode() && e.to_string().starts_with("error unmarshall network config: "));
    }
}
