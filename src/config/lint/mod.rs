//! Checks a configuration file that contains one network or a list of plugins.
//!
//! This module finds the plugins that call sublet, and locates each error and warning in the text. The rules
//! are the same as for an ADD.
//! Invariant: if an ADD would refuse a configuration, it is an error here. A misspelled key is an error too,
//! because it would have no effect.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};

use serde::{Serialize, Serializer};

use super::error::ConfigError;
use super::fields::{Fields, Node, join};
use super::json::{Json, quote};
use super::locate;
use super::locate::Position;
use super::netconf::Netconf;
use super::{Cleanup, CniVersion, Config, Inputs, keys};

/// The values of `ipam.type` that may call sublet: `sublet` itself, and the plugins that sublet replaces.
const OURS: [&str; 5] = ["sublet", "host-local", "ecs-ipam", "consul", "cni-ipam-consul"];

/// The keys that libcni copies from a plugin list to each plugin in the list.
const LIST: [&str; 2] = ["name", "cniVersion"];

/// The maximum size of a configuration file, in bytes. The CNI plugin has the same limit.
const LONGEST: u64 = 16 << 20;

/// The result of checking a file.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The configuration of each plugin, in the order of the file.
    pub parts: Vec<Part>,
    /// The errors and warnings, in the order of the text.
    pub findings: Vec<Finding>,
}

impl Inspection {
    /// Returns the result for a file that could not be read.
    pub fn unreadable(why: &io::Error) -> Inspection {
        let text = format!("cannot read the file: {why}");
        let finding = Finding::of_file(Position { line: 1, column: 1 }, text);
        Inspection { parts: Vec::new(), findings: vec![finding] }
    }
}

/// The configuration of one plugin.
#[derive(Clone, Debug)]
pub struct Part {
    /// The name of the plugin.
    pub plugin: String,
    /// The name of the IPAM plugin that this plugin calls; empty if it calls none.
    pub ipam: String,
    /// Whether the IPAM plugin is sublet.
    pub ours: bool,
    /// What a DEL would use; `None` if this plugin does not call sublet, or if its configuration cannot be
    /// parsed.
    pub cleanup: Option<Cleanup>,
    /// What an ADD would use; `None` if this plugin does not call sublet, or if an ADD would refuse the
    /// configuration.
    pub config: Option<Config>,
}

/// An error or a warning about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The line and column of the finding.
    #[serde(flatten)]
    pub at: Position,
    /// The path of the value, such as `plugins[0].ipam.subnet`; empty if the finding is about the whole file.
    pub place: String,
    /// Whether the finding is an error. Otherwise it is a warning.
    #[serde(rename = "level", serialize_with = "level")]
    pub error: bool,
    /// What is wrong, and what to do.
    #[serde(rename = "message")]
    pub text: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn level<S: Serializer>(error: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *error { "error" } else { "warning" })
}

impl Finding {
    /// Makes an error about the whole file.
    fn of_file(at: Position, text: impl Into<String>) -> Finding {
        Finding { at, place: String::new(), error: true, text: text.into() }
    }
}

/// Reads and checks a file. Fails if the file cannot be read.
pub fn read(file: impl Read) -> io::Result<Inspection> {
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes_of(&bytes))
}

/// Checks the content of a file.
pub fn bytes_of(bytes: &[u8]) -> Inspection {
    if u64::try_from(bytes.len()).is_ok_and(|n| n > LONGEST) {
        let text = "the file is larger than 16 MiB, the maximum that a plugin reads";
        let finding = Finding::of_file(Position { line: 1, column: 1 }, text);
        return Inspection { parts: Vec::new(), findings: vec![finding] };
    }
    let text = String::from_utf8_lossy(bytes);
    let mut linter = Linter::default();
    let json = match Json::parse(bytes) {
        Ok(json) => json,
        Err(e) => return Inspection { parts: Vec::new(), findings: vec![syntax(&text, &e)] },
    };
    linter.file(json);
    let mut findings = linter.locate(&text);
    if let Err(e) = std::str::from_utf8(bytes) {
        let at = locate::Cursor::new(&text).advance(e.valid_up_to());
        findings.push(Finding::of_file(
            at,
            "invalid UTF-8: a plugin reads U+FFFD instead of these bytes",
        ));
    }
    findings.sort_by_key(|f| f.at);
    Inspection { parts: linter.parts, findings }
}

fn syntax(text: &str, e: &serde_json::Error) -> Finding {
    let message = e.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message);
    // serde_json counts columns in bytes. If a word is cut off at the end of a line, serde_json reports
    // column 0 of the next line.
    let (line, column) = match (e.line(), e.column()) {
        (line @ 2.., 0) => (line - 1, usize::MAX),
        (line, column) => (line.max(1), column.saturating_sub(1)),
    };
    let written = text.split('\n').nth(line - 1).unwrap_or_default();
    let before = written.get(..column).unwrap_or(written);
    let at = Position { line, column: before.chars().count() + 1 };
    let bom =
        if text.starts_with('\u{feff}') { "; the file begins with a byte order mark" } else { "" };
    Finding::of_file(at, format!("not valid JSON: {what}{bom}"))
}

/// A finding whose position in the text has not been determined yet.
struct Pending {
    place: String,
    at_key: bool,
    error: bool,
    text: String,
}

#[derive(Default)]
struct Linter {
    parts: Vec<Part>,
    pending: Vec<Pending>,
}

impl Linter {
    fn error(&mut self, place: impl Into<String>, text: impl Into<String>) {
        let (place, text) = (place.into(), text.into());
        self.pending.push(Pending { place, at_key: false, error: true, text });
    }

    fn warn(&mut self, place: impl Into<String>, text: impl Into<String>) {
        let (place, text) = (place.into(), text.into());
        self.pending.push(Pending { place, at_key: true, error: false, text });
    }

    /// Adds an error and the other errors that it contains. An error without a path gets the path
    /// `otherwise`. Errors about the name and the version of a plugin list are reported only once, although
    /// every plugin of the list inherits these keys.
    fn refused(&mut self, prefix: &str, e: &ConfigError, otherwise: &str) {
        for e in e.clone().each() {
            let place = prefixed(prefix, e.place().unwrap_or(otherwise));
            if prefix.is_empty() || !LIST.contains(&&*place) {
                self.error(place, e.plain());
            }
        }
    }

    fn file(&mut self, json: Json) {
        let Json::Object(pairs) = json else {
            return self.error(
                "",
                format!("the configuration must be an object, not {}", json.describe()),
            );
        };
        let root = Fields::root(&pairs);
        self.version(&root);
        if !root.has("plugins") {
            return self.part("", &pairs);
        }
        self.warn_of_duplicates("", &root);
        if let Err(e) =
            root.text("name").and_then(|n| super::netconf::network_name(n.unwrap_or_default()))
        {
            self.refused("", &e, "name");
        }
        let plugins = match root.list("plugins") {
            Ok(plugins) if !plugins.is_empty() => plugins,
            Ok(_) => {
                return self.error(
                    "plugins",
                    "the list of plugins is empty, so no plugin sets up the network",
                );
            }
            Err(e) => return self.refused("", &e, "plugins"),
        };
        let of_list = |(key, _): &&(String, Json)| LIST.contains(&&**key);
        let given: Vec<(String, Json)> = pairs.iter().filter(of_list).cloned().collect();
        for node in plugins {
            let place = node.path().to_owned();
            match node.fields() {
                Ok(fields) => self.part(&place, &injected(&given, &fields)),
                Err(e) => self.refused("", &e, &place),
            }
        }
        if self.parts.iter().filter(|part| part.ours).count() > 1 {
            self.warn(
                "plugins",
                "several plugins in this list request addresses; for the same interface of a container, all \
                 of them get the same address",
            );
        }
    }

    fn version(&mut self, root: &Fields) {
        match root.text("cniVersion") {
            Ok(Some(text)) if CniVersion::find(text).is_none() => {
                let known = CniVersion::texts().join(", ");
                self.error(
                    "cniVersion",
                    format!("unknown cniVersion {}; use one of {known}", quote(text)),
                );
            }
            Ok(_) => {}
            Err(e) => self.refused("", &e, "cniVersion"),
        }
    }

    /// Checks the configuration of one plugin. `place` is its path in the file.
    fn part(&mut self, place: &str, pairs: &[(String, Json)]) {
        let root = Fields::root(pairs);
        self.warn_of_duplicates(place, &root);
        let plugin = self.text(place, &root, "type").unwrap_or_default();
        if plugin.is_empty() && !place.is_empty() {
            self.error(
                prefixed(place, "type"),
                "\"type\" is missing; set \"type\" to the plugin to call",
            );
        }
        if plugin == OURS[0] {
            self.error(
                prefixed(place, "type"),
                "sublet allocates addresses but creates no interface; set \"type\" to a plugin such as \
                 bridge, ptp or macvlan, and ipam.type to sublet",
            );
        }
        let ipam = match root.object("ipam") {
            Ok(Some(ipam)) => ipam,
            Ok(None) if plugin.is_empty() && place.is_empty() => {
                return self.error("ipam", "IPAM config missing 'ipam' key");
            }
            Ok(None) => {
                let (ipam, ours) = (String::new(), false);
                let part = Part { plugin, ipam, ours, cleanup: None, config: None };
                return self.parts.push(part);
            }
            Err(e) => return self.refused(place, &e, "ipam"),
        };
        let named = self.text(place, &ipam, "type").unwrap_or_default();
        let silent = ipam.keys().next().is_none();
        let ours = OURS.contains(&&*named) || named.is_empty() && !silent;
        if ours && named.is_empty() {
            let text = "ipam.type is missing; set ipam.type to the IPAM plugin to call";
            self.warn(prefixed(place, "ipam"), text);
        } else if !ours && OURS.iter().any(|name| strsim::levenshtein(&named, name) <= 2) {
            let text = format!("ipam.type is {}; did you mean sublet?", quote(&named));
            self.error(prefixed(place, "ipam.type"), text);
        }
        let mut part = Part { plugin, ipam: named, ours, cleanup: None, config: None };
        if ours {
            self.check_keys(place, &ipam);
            let conf = Netconf::from_pairs(pairs.to_vec());
            if let Ok(conf) = conf.map_err(|e| self.refused(place, &e, "")) {
                part.cleanup = Some(conf.cleanup(&Inputs::default()));
                part.config = self.config(place, &conf);
            }
        }
        self.parts.push(part);
    }

    fn text(&mut self, place: &str, fields: &Fields, name: &str) -> Option<String> {
        let text = fields.text(name).map_err(|e| self.refused(place, &e, name)).ok()?;
        text.map(str::to_owned)
    }

    /// Parses the configuration as an ADD would.
    fn config(&mut self, place: &str, conf: &Netconf) -> Option<Config> {
        if ranges_come_from_runtime(conf) {
            let text = "no ranges are configured; the runtime must pass ranges with the `ipRanges` capability";
            self.warn(prefixed(place, "ipam"), text);
            return None;
        }
        let one_per_family =
            CniVersion::find(conf.version()).is_some_and(CniVersion::one_per_family);
        let config = conf.config(&Inputs { one_per_family, ..Inputs::default() });
        let config = config.map_err(|e| self.refused(place, &e, "ipam")).ok()?;
        for warning in config.warnings.iter().filter(|w| !w.typo) {
            self.warn(prefixed(place, &warning.place), &*warning.text);
        }
        Some(config)
    }

    /// Checks `ipam` and the objects inside it for unknown and duplicate keys.
    fn check_keys(&mut self, place: &str, ipam: &Fields) {
        self.warn_of_duplicates(place, ipam);
        self.check_unknown(place, ipam, keys::IPAM);
        let lists = |name| ipam.list(name).unwrap_or_default();
        for set in lists("ranges") {
            for range in set.list().unwrap_or_default() {
                self.check_object(place, range, keys::RANGE);
            }
        }
        for route in lists("routes") {
            self.check_object(place, route, keys::ROUTE);
        }
        if let Ok(Some(store)) = ipam.object("store") {
            for engine in ["etcd", "consul"].iter().filter_map(|name| store.get(name)) {
                self.check_object(place, engine, keys::CLUSTER);
            }
        }
    }

    fn check_object(&mut self, place: &str, node: Node, known: &[&str]) {
        if let Ok(fields) = node.fields() {
            self.warn_of_duplicates(place, &fields);
            self.check_unknown(place, &fields, known);
        }
    }

    fn check_unknown(&mut self, place: &str, fields: &Fields, known: &[&str]) {
        for key in keys::unknown(fields, known) {
            let at = fields.join(key);
            let typo = keys::typo(fields, key, known);
            let error = typo.is_some();
            let text =
                typo.map_or_else(|| format!("unknown key {at} has no effect"), |typo| typo.text);
            self.pending.push(Pending { place: prefixed(place, &at), at_key: true, error, text });
        }
    }

    /// Warns about keys that occur several times, even if their spelling differs.
    fn warn_of_duplicates(&mut self, place: &str, fields: &Fields) {
        let mut seen = HashSet::new();
        for key in fields.keys() {
            if !seen.insert(key.replace('-', "").to_ascii_lowercase()) {
                let at = prefixed(place, &fields.join(key));
                self.warn(at, format!("duplicate key {key}: the last value is used"));
            }
        }
    }

    /// Returns the findings in the order of the text. At the same position, errors come before warnings.
    fn locate(&self, text: &str) -> Vec<Finding> {
        let paths: Vec<Vec<&str>> =
            self.pending.iter().map(|note| ancestors(&note.place)).collect();
        let wanted: BTreeSet<&str> = paths.iter().flatten().copied().collect();
        let offsets = locate::offsets(text, &wanted);
        let mut found: Vec<(usize, &str, &Pending)> = Vec::new();
        for (note, ways) in self.pending.iter().zip(&paths) {
            let spot = ways.iter().find_map(|way| offsets.get(*way).map(|spot| (*way, *spot)));
            let (way, spot) = spot.unwrap_or_default();
            found.push((if note.at_key { spot.key } else { spot.value }, way, note));
        }
        found.sort_by_key(|(offset, _, note)| (*offset, !note.error));
        let mut place = locate::Cursor::new(text);
        let finding = |(offset, way, note): (usize, &str, &Pending)| Finding {
            at: place.advance(offset),
            place: way.to_owned(),
            error: note.error,
            text: note.text.clone(),
        };
        found.into_iter().map(finding).collect()
    }
}

/// Returns a path and the paths of the values that contain it, outermost last.
fn ancestors(place: &str) -> Vec<&str> {
    let mut ways = vec![place];
    let mut rest = place;
    while let Some(end) = rest.rfind(['.', '[']) {
        rest = &rest[..end];
        ways.push(rest);
    }
    ways.push("");
    ways
}

/// Converts a path in a plugin's configuration to a path in the file. `name` and `cniVersion` get no prefix,
/// because they belong to the plugin list.
fn prefixed(prefix: &str, place: &str) -> String {
    match place {
        _ if prefix.is_empty() => place.to_owned(),
        "" => prefix.to_owned(),
        "name" | "cniVersion" => place.to_owned(),
        _ => join(prefix, place),
    }
}

/// Returns a plugin's configuration as libcni passes it to the plugin: with the name and version of the list.
fn injected(given: &[(String, Json)], plugin: &Fields) -> Vec<(String, Json)> {
    let own = plugin.pairs().iter().filter(|(key, _)| !LIST.contains(&&**key));
    own.chain(given).cloned().collect()
}

/// Returns whether a configuration has no ranges because the runtime supplies them.
fn ranges_come_from_runtime(conf: &Netconf) -> bool {
    let capable = |root: &Fields| -> Option<bool> {
        root.object("capabilities").ok()??.flag("ipRanges").ok()
    };
    let ipam = conf.ipam_or_empty();
    let none = !ipam.has("subnet") && ipam.list("ranges").is_ok_and(|ranges| ranges.is_empty());
    none && capable(&conf.root()) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> String {
        let look = |f: &Finding| {
            let level = if f.error { "error" } else { "warning" };
            format!("{}:{} {level}: {}", f.at.line, f.at.column, f.text)
        };
        let found: Vec<String> = bytes_of(text.as_bytes()).findings.iter().map(look).collect();
        found.join("\n")
    }

    #[test]
    fn a_slip_stands_where_its_key_is() {
        let text = r#"{"name": "n", "type": "bridge",
 "ipam": {"type": "sublet", "subnet": "10.1.0.0/16",
          "range_start": "10.1.0.9", "color": 1}}"#;
        assert_eq!(
            findings(text),
            "3:11 error: unknown key ipam.range_start is ignored; did you mean rangeStart?\n3:38 warning: \
             unknown key ipam.color has no effect"
        );
    }

    #[test]
    fn an_error_stands_where_its_value_is() {
        let text = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [
  {"type": "portmap"},
  {"type": "bridge", "ipam": {"type": "host-local", "ranges": [
    [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1"}]]}}]}"#;
        let want =
            "4:46 error: invalid range set 0: RangeStart 10.1.3.1 not in network 10.1.2.0/24";
        assert_eq!(findings(text), want);
        let parts = bytes_of(text.as_bytes()).parts;
        let ours: Vec<bool> = parts.iter().map(|part| part.ours).collect();
        assert_eq!(ours, [false, true]);
    }

    #[test]
    fn who_is_called_by_a_wrong_name() {
        let of = |ipam: &str| {
            findings(&format!(r#"{{"name": "n", "type": "bridge", "ipam": {{"type": "{ipam}"}}}}"#))
        };
        assert_eq!(of("subletd"), "1:50 error: ipam.type is \"subletd\"; did you mean sublet?");
        assert_eq!(of("dhcp"), "");
        let ours = r#"{"name": "n", "type": "sublet", "ipam": {"type": "sublet", "subnet": "10.0.0.0/8"}}"#;
        assert!(
            findings(ours).starts_with("1:23 error: sublet allocates addresses"),
            "{}",
            findings(ours)
        );
    }

    #[test]
    fn what_is_no_json() {
        assert_eq!(findings("{\n \"a\": tru\n}"), "2:10 error: not valid JSON: expected ident");
        assert!(
            findings("[1]")
                .starts_with("1:1 error: the configuration must be an object, not a list")
        );
        assert!(findings("").starts_with("1:1 error: not valid JSON: EOF"));
        assert!(
            findings(&"[".repeat(1 << 20))
                .starts_with("1:128 error: not valid JSON: recursion limit")
        );
        let text = b"{\"name\": \"n\", \"type\": \"b\xff\"}";
        let found = bytes_of(text).findings;
        assert_eq!((found.len(), found[0].at.column), (1, 25));
    }

    #[test]
    fn a_list_has_one_name_and_one_version() {
        let text = r#"{"cniVersion": "9", "name": "-", "plugins": []}"#;
        let text = findings(text);
        assert!(
            text.contains("1:16 error: unknown cniVersion \"9\"; use one of 0.1.0, "),
            "{text}"
        );
        assert!(text.contains("1:29 error: invalid characters found in network name: -"), "{text}");
        assert!(text.contains("1:45 error: the list of plugins is empty"), "{text}");
    }
}
