//! The status page's server: its JSON API against the samples of docs/api.md, access, metrics, alert
//! rules, and the log. `scripts/e2e-page.sh` drives the page in a browser.
//!
//! `UPDATE_GOLDEN=1` writes the samples of docs/api.md anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::docker::{Daemon, subletd, until};
use crate::lab::{Call, Lab};
use crate::tidy::root;

/// A daemon with a page, and where that is.
struct Site {
    daemon: Daemon,
    at: String,
}

/// Status, headers by name, body.
type Got = (u16, BTreeMap<String, String>, String);

impl Site {
    fn new(args: &[&str]) -> Site {
        Site::over(args, |_| {})
    }

    /// Over a store that is made first.
    fn over(args: &[&str], make: impl FnOnce(&Lab)) -> Site {
        let all = [&["--http", "127.0.0.1:0", "--address-spaces", "L,G"], args].concat();
        let mut daemon = Daemon::with(&all, &[("NODE_ID", "host1")]);
        daemon.kill();
        make(&daemon.lab);
        fs::remove_file(daemon.lab.join("log")).unwrap();
        daemon.spawn();
        let log = daemon.log();
        let (_, after) = log.split_once("the status page is at http://").expect("a page");
        let at = after.split('/').next().unwrap().to_owned();
        Site { daemon, at }
    }

    fn ask(&self, request: &str) -> Got {
        let mut stream = TcpStream::connect(&self.at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).expect(request);
        let headers = lines.filter_map(|l| l.split_once(": "));
        let headers = headers.map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect();
        (status.parse().unwrap(), headers, body.to_owned())
    }

    fn get(&self, path: &str) -> Got {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.at))
    }

    fn json(&self, path: &str) -> Value {
        let (status, headers, body) = self.get(path);
        assert_eq!((status, headers["content-type"].as_str()), (200, "application/json"), "{body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }
}

fn conf(lab: &Lab, name: &str, more: &Value) -> Value {
    let mut ipam = json!({ "type": "sublet", "dataDir": lab.join("store").display().to_string() });
    for (key, value) in more.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    json!({ "cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": ipam })
}

/// A little of everything: two networks, a pod, a freed address, a reservation, Docker's pool.
fn scene(lab: &Lab) {
    let range = json!({ "subnet": "10.1.2.0/29", "cooldown": "1h" });
    let mynet = conf(lab, "mynet", &range);
    let cni = |command: &str, container: &str, pod: &str, conf: &Value| {
        let call = Call::cni(command, container, conf).env("NODE_ID", "host1");
        let pod = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID=7c1f");
        (if pod.contains("NAME=;") { call } else { call.env("CNI_ARGS", &pod) }).run()
    };
    cni("ADD", "c1", "", &mynet).ok();
    cni("ADD", "c2", "cart-5d8f", &mynet).ok();
    assert_eq!(cni("DEL", "c1", "", &mynet).code, Some(0));
    let six = conf(lab, "six", &json!({ "subnet": "2001:db8::/64" }));
    cni("ADD", "c3", "", &six).ok();
    let store = lab.join("store/leases.redb").display().to_string();
    let reserve = ["reserve", "mynet", "10.1.2.6", "--note", "printer", "--yes", "--store", &store];
    let call = reserve.iter().fold(Call::sublet(), |call, arg| call.arg(arg));
    assert_eq!(call.env("NODE_ID", "host1").run().code, Some(0));
}

fn docker(site: &Site) {
    let (status, pool) = site
        .daemon
        .call("/IpamDriver.RequestPool", r#"{"AddressSpace":"L","Pool":"10.80.0.0/24"}"#);
    assert_eq!(status, 200, "{pool}");
    let body = json!({ "PoolID": pool["PoolID"], "Options": {
        "RequestAddressType": "com.docker.network.gateway" } });
    assert_eq!(site.daemon.call("/IpamDriver.RequestAddress", &body.to_string()).0, 200);
    let body = json!({ "PoolID": pool["PoolID"], "Options": {
        "com.docker.network.endpoint.name": "web" } });
    assert_eq!(site.daemon.call("/IpamDriver.RequestAddress", &body.to_string()).0, 200);
}

/// What differs from run to run is put in the form of a sample.
fn settled(value: &Value, store: &str) -> Value {
    match value {
        Value::Object(fields) => {
            let settle = |(name, field): (&String, &Value)| {
                let field = match name.as_str() {
                    "time" | "until" | "lastLease" | "freed" | "looked" => {
                        json!("2026-11-21T10:31:05Z")
                    }
                    "machineID" => json!("0123456789abcdef0123456789abcdef"),
                    "bootID" => json!("6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
                    "leasesVersion" | "version"
                        if field.as_str().is_some_and(|v| v.len() == 16) =>
                    {
                        json!("9f86d081884c7d65")
                    }
                    _ if field == store => json!("/var/lib/cni/sublet/leases.redb"),
                    _ => settled(field, store),
                };
                (name.clone(), field)
            };
            Value::Object(fields.iter().map(settle).collect())
        }
        Value::Array(items) => items.iter().map(|item| settled(item, store)).collect(),
        other => other.clone(),
    }
}

/// The text of the document, with what each of its samples is of.
fn samples(document: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(path) = line.strip_prefix("    GET ") {
            let mut text = String::new();
            for line in lines.by_ref().skip(1) {
                let Some(line) = line.strip_prefix("    ") else { break };
                let _ = writeln!(text, "{line}");
            }
            found.push((path.to_owned(), text));
        }
    }
    found
}

#[test]
fn the_api_answers_as_its_document_shows() {
    let site = Site::over(&[], scene);
    docker(&site);
    let path = root().join("docs/api.md");
    let mut document = fs::read_to_string(&path).unwrap();
    let store = site.daemon.store().display().to_string();
    let shown = samples(&document);
    let paths: Vec<&str> = shown.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/api/v1/pools",
            "/api/v1/leases",
            "/api/v1/nodes",
            "/api/v1/history/10.1.2.2",
            "/api/v1/problems",
            "/api/v1/history/10.1.2",
        ]
    );
    let update = std::env::vars_os().any(|(key, _)| key == "UPDATE_GOLDEN");
    for (path, sample) in shown {
        let (status, _, body) = site.get(&path);
        assert_eq!(status, if path.ends_with("10.1.2") { 400 } else { 200 }, "{path}: {body}");
        let got = settled(&serde_json::from_str(&body).unwrap(), &store);
        let got = serde_json::to_string_pretty(&got).unwrap();
        if update {
            let indent =
                |text: &str| text.lines().fold(String::new(), |all, l| all + "    " + l + "\n");
            let head = format!("    GET {path}\n\n");
            document = document
                .replace(&format!("{head}{}", indent(&sample)), &format!("{head}{}", indent(&got)));
        } else {
            // A machine without an ID answers without it.
            let has_id =
                fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty());
            let is_shown = |line: &&str| has_id || !line.contains("\"machineID\"");
            let sample: Vec<&str> = sample.trim_end().lines().filter(is_shown).collect();
            assert_eq!(sample.join("\n"), got, "docs/api.md shows another answer to {path}");
        }
    }
    if update {
        fs::write(path, document).unwrap();
    }
}

/// One network's leases are the same rows, and the rows are those of `sublet list --json`.
#[test]
fn rows_are_the_command_lines() {
    let site = Site::over(&[], scene);
    docker(&site);
    let all = site.json("/api/v1/leases");
    assert_eq!(all["total"], 5);
    let one = site.json("/api/v1/leases?network=mynet");
    let of = |rows: &Value, name: &str| -> Vec<Value> {
        rows.as_array().unwrap().iter().filter(|r| r["network"] == name).cloned().collect()
    };
    assert_eq!(one["leases"].as_array().unwrap(), &of(&all["leases"], "mynet"));
    assert_eq!(one["cooling"], all["cooling"]);
    assert_eq!(site.json("/api/v1/leases?network=nope")["leases"], json!([]));
    let listed = crate::lab::list(&site.daemon.store());
    let mut found = 0;
    for row in all["leases"].as_array().unwrap() {
        let same = listed.iter().find(|l| l["address"] == row["address"]).unwrap();
        for (name, value) in row.as_object().unwrap() {
            assert_eq!(same[name], *value, "{name} of {row}");
            found += 1;
        }
        for (name, value) in same.as_object().unwrap() {
            let left_out =
                ["machineID", "bootID", "netns", "mountNamespace", "rangeKey", "cooldown"];
            assert!(*value != "" && !value.is_null(), "{name} of {same}");
            assert!(left_out.contains(&&**name) || row.get(name).is_some(), "no {name} in {row}");
        }
    }
    assert!(found >= 40, "{found}");
}

#[test]
fn a_range_may_have_more_than_2_to_the_64_addresses() {
    let site = Site::over(&[], |lab| {
        let conf = conf(lab, "wide", &json!({ "subnet": "fd00::/48" }));
        Call::cni("ADD", "c1", &conf).env("NODE_ID", "host1").run().ok();
    });
    let (status, _, pools) = site.get("/api/v1/pools");
    assert!(status == 200 && pools.contains("\"size\":1208925819614629174706174,"), "{pools}");
}

#[test]
fn only_this_host_asks_and_only_looks() {
    let site = Site::new(&["--http-name", "status.example"]);
    let ask =
        |line: &str, host: &str| site.ask(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(ask("GET /", "evil.example:9780").0, 421);
    assert_eq!(ask("GET /api/v1/leases", "127.0.0.1.evil.example").0, 421);
    assert_eq!(ask("GET /", "STATUS.example").0, 200);
    assert_eq!(site.ask("GET / HTTP/1.0\r\n\r\n").0, 421);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let (status, headers, _) = ask(&format!("{method} /api/v1/leases"), &site.at);
        assert_eq!((status, headers["allow"].as_str()), (405, "GET, HEAD"));
    }
    let (status, headers, body) = ask("HEAD /app.js", &site.at);
    assert_eq!((status, body.as_str()), (200, ""));
    let part = |name| fs::read_to_string(root().join("src/web/assets").join(name)).unwrap();
    let script = ["lists.js", "map.js", "page.js"].map(part).concat();
    assert_eq!(headers["content-length"], script.len().to_string());
    assert_eq!(site.get("/app.js").2, script);
    for path in ["/", "/style.css", "/api/v1/pools", "/metrics", "/nothing"] {
        let (_, headers, _) = site.get(path);
        let policy = &headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["connection"], "close");
        assert!(!headers.contains_key("set-cookie"));
    }
    // The page asks for nothing that is not its own.
    let page = site.get("/").2;
    assert!(!page.contains("//") || !page.contains("src=\"http"), "{page}");
    assert!(!page.contains("style=") && !page.contains("onclick"), "{page}");
}

#[test]
fn no_page_where_it_is_not_wanted() {
    let site = Daemon::start();
    assert!(!site.log().contains("http://"), "{}", site.log());
    let lab = Lab::new();
    let run = |args: &[&str]| {
        let mut command = subletd(args);
        command.arg("--socket").arg(lab.join("s.sock")).arg("--store").arg(lab.store());
        let out = command.stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, told) = run(&["--http", "0.0.0.0:9780"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("127.0.0.1:9780") && told.contains("--http-public"), "{told}");
    let (code, told) = run(&["--http", "nonsense"]);
    assert!(code == Some(1) && told.contains("--http nonsense"), "{told}");
    assert_eq!(run(&["--http-public"]).0, Some(2));
}

/// Connections that say nothing neither stop the others nor stay.
#[test]
fn silent_connections_hold_nobody_up() {
    let site = Site::new(&[]);
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&site.at).unwrap()).collect();
    assert_eq!(site.get("/metrics").0, 200);
    drop(silent);
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000));
    let mut stream = TcpStream::connect(&site.at).unwrap();
    let _ = stream.write_all(long.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    assert_eq!(site.get("/").0, 200);
}

/// A store that cannot be read: the page says so, and so do the metrics.
#[test]
fn a_damaged_store_is_told() {
    let site = Site::new(&[]);
    assert_eq!(site.json("/api/v1/problems")["problems"], json!([]));
    fs::create_dir_all(site.daemon.lab.join("store")).unwrap();
    fs::write(site.daemon.store(), "garbage").unwrap();
    until("the next look", || site.get("/api/v1/pools").0 == 503);
    let (_, _, body) = site.get("/api/v1/leases");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert!(told["error"].as_str().unwrap().contains("leases.redb"), "{told}");
    until("the problem", || site.json("/api/v1/problems")["problems"] != json!([]));
    assert!(site.get("/metrics").2.contains("\nsublet_store_readable 0\n"));
}

#[test]
fn the_metrics_count_what_the_store_has() {
    let site = Site::over(&[], scene);
    docker(&site);
    let (status, headers, text) = site.get("/metrics");
    assert_eq!(status, 200);
    assert!(headers["content-type"].starts_with("text/plain; version=0.0.4"));
    let range = "network=\"mynet\",range=\"10.1.2.0/29\"";
    for line in [
        format!("sublet_pool_addresses{{{range},state=\"used\"}} 1"),
        format!("sublet_pool_addresses{{{range},state=\"reserved\"}} 1"),
        format!("sublet_pool_addresses{{{range},state=\"cooling\"}} 1"),
        // The plugin's runs were other processes: their counters are the store's.
        "sublet_requests_total{network=\"mynet\",face=\"cni\",command=\"add\",outcome=\"ok\"} 2".into(),
        "sublet_requests_total{network=\"mynet\",face=\"cni\",command=\"del\",outcome=\"ok\"} 1".into(),
        "sublet_store_readable 1".into(),
        "sublet_leases 5".into(),
        "sublet_request_duration_seconds_count{face=\"docker\",command=\"RequestAddress\",outcome=\"ok\"} 2"
            .into(),
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    for family in
        ["sublet_lock_wait_seconds", "sublet_store_errors_total", "sublet_store_conflicts_total"]
    {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
    }
}

/// One line an event, as text or JSON; a file that was rotated away is let go of.
#[test]
fn the_daemon_logs_each_request_once() {
    let site = Site::new(&["--log-format", "json"]);
    docker(&site);
    let hostile = "x\", \"outcome\": \"ok\"\nsubletd: forged";
    let body = json!({ "PoolID": hostile, "Address": "" }).to_string();
    site.daemon.call("/IpamDriver.RequestAddress", &body);
    let log = site.daemon.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of = |command: &str| lines.iter().filter(|l| l["command"] == command).collect::<Vec<_>>();
    let asked = of("RequestAddress");
    assert_eq!(asked.len(), 3, "{log}");
    assert_eq!(asked[1]["outcome"], "ok");
    assert_eq!(asked[1]["address"], "10.80.0.2");
    assert_eq!(asked[1]["container"], "web");
    assert_eq!(asked[1]["face"], "docker");
    assert!(asked[1]["ms"].as_f64().unwrap() > 0.0 && asked[1]["pool"].is_string());
    assert_eq!(asked[2]["outcome"], "refused");
    assert_eq!(asked[2]["level"], "warning");
}

#[test]
fn the_daemon_logs_to_a_file_that_may_be_rotated() {
    let lab = Lab::new();
    let file = lab.join("subletd.log");
    let site = Daemon::with(&["--log-file", file.to_str().unwrap()], &[]);
    let read = |name: &str| fs::read_to_string(lab.join(name)).unwrap_or_default();
    until("ready", || read("subletd.log").contains(": ready"));
    let ready = read("subletd.log");
    assert!(
        ready.lines().any(|l| l.contains(" subletd[") && l.ends_with("info: ready")),
        "{ready}"
    );
    fs::rename(&file, lab.join("subletd.log.1")).unwrap();
    site.call("/IpamDriver.RequestPool", r#"{"AddressSpace":"x","Pool":"10.0.0.0/24"}"#);
    assert!(
        read("subletd.log").contains("command=RequestPool outcome=refused"),
        "{}",
        read("subletd.log")
    );
    assert_eq!(read("subletd.log.1"), ready);
    assert_eq!(site.log(), "");
}

/// The plugin's file: who, what, which address, how long, how it ended.
#[test]
fn the_plugin_logs_each_call_once() {
    for format in ["text", "json"] {
        let lab = Lab::new();
        let file = lab.join("log").display().to_string();
        let mut conf = crate::lab::conf(&lab.data_dir(), "10.4.0.0/30");
        conf["ipam"]["logFile"] = json!(file);
        conf["ipam"]["logFormat"] = json!(format);
        Call::cni("ADD", "one", &conf).run().ok();
        let full = Call::cni("ADD", "two", &conf).run();
        assert_eq!(full.error().0, 100);
        assert_eq!(Call::cni("DEL", "one", &conf).run().code, Some(0));
        let text = fs::read_to_string(lab.join("log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let wanted = [
            ("info", "ADD", "one", "ok", "10.4.0.2/30"),
            ("error", "ADD", "two", "error", ""),
            ("info", "DEL", "one", "ok", "10.4.0.2"),
        ];
        for (line, (level, command, container, outcome, address)) in lines.iter().zip(wanted) {
            if format == "json" {
                let line: Value = serde_json::from_str(line).unwrap();
                let facts = ["level", "command", "container", "outcome"].map(|n| line[n].clone());
                assert_eq!(facts, [level, command, container, outcome].map(Value::from));
                assert_eq!(line.get("address").map_or("", |a| a.as_str().unwrap()), address);
                assert!(line["ms"].is_number() && line["network"].is_string());
                assert_eq!(line.get("code").is_some(), outcome == "error");
            } else {
                let told = format!(" {level}: face=cni command={command} container={container} ");
                assert!(line.contains(&told), "{line}");
                assert!(line.contains(&format!(" outcome={outcome} ")) && line.contains(" ms="));
                let address = format!(" address={address} ");
                assert!(address == " address= " || line.contains(&address), "{line}");
            }
        }
        if format == "json" {
            let told: Value = serde_json::from_str(full.stderr.trim()).unwrap();
            assert_eq!(told["code"], "100");
        }
    }
}

/// Needs promtool.
pub mod peers {
    use std::process::Command;

    use super::*;

    pub fn promtool(args: &[&str], stdin: &str) -> String {
        let mut child = Command::new("promtool")
            .args(args)
            .current_dir(root().join("packaging/prometheus"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool, of Debian's prometheus");
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.success(), "promtool {args:?}: {told}\n{stdin}");
        told
    }

    #[test]
    fn promtool_accepts_the_metrics() {
        let site = Site::over(&[], scene);
        docker(&site);
        assert_eq!(promtool(&["check", "metrics"], &site.get("/metrics").2), "");
        // And those for the node exporter's textfile.
        let store = site.daemon.store().display().to_string();
        let out = Call::sublet().arg("stats").arg("--prometheus").arg("--store").arg(&store).run();
        assert_eq!(out.code, Some(0), "{out:?}");
        assert_eq!(promtool(&["check", "metrics"], &out.stdout), "");
    }

    #[test]
    fn the_alert_rules_fire_when_they_should() {
        let told = promtool(&["check", "rules", "sublet.rules.yml"], "");
        assert!(told.contains("SUCCESS"), "{told}");
        let told = promtool(&["test", "rules", "sublet.test.yml"], "");
        assert!(told.contains("SUCCESS"), "{told}");
        // What the rules ask for is what /metrics tells.
        let rules =
            fs::read_to_string(root().join("packaging/prometheus/sublet.rules.yml")).unwrap();
        let site = Site::over(&[], scene);
        docker(&site);
        let text = site.get("/metrics").2;
        let words = rules.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        let mut count = 0;
        for name in words.filter(|word| word.starts_with("sublet_")) {
            let name = name.trim_end_matches("_bucket");
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} is not in /metrics");
            count += 1;
        }
        assert!(count >= 5, "{count}");
    }
}
