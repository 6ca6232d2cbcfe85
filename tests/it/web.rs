//! Tests the server of the status page: its JSON API (with the samples in docs/api.md), access control,
//! metrics, alert rules, and the log. `scripts/e2e-page.sh` tests the page in a browser.
//!
//! `UPDATE_GOLDEN=1` rewrites the samples in docs/api.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sublet::alloc::{Command, Context, Reserve};
use sublet::model::{History, Persist, SetName, StoreSpec, Wait};

use crate::docker::{Daemon, subletd, until};
use crate::lab::{Call, Lab};
use crate::tidy::root;

/// A running daemon with a status page, and the address of the page.
struct Site {
    daemon: Daemon,
    at: String,
}

/// A response: status, headers by name, and body.
type Got = (u16, BTreeMap<String, String>, String);

impl Site {
    fn new(args: &[&str]) -> Site {
        Site::over(args, |_| {})
    }

    /// Starts a daemon with a status page. Before it serves the page, `make` fills its store.
    fn over(args: &[&str], make: impl FnOnce(&Lab)) -> Site {
        let all = [&["--http", "127.0.0.1:0", "--address-spaces", "L,G"], args].concat();
        let mut daemon = Daemon::with(&all, &[("NODE_ID", "host1")]);
        daemon.kill();
        make(&daemon.lab);
        fs::remove_file(daemon.lab.join("log")).unwrap();
        daemon.spawn();
        let log = daemon.log();
        let (_, after) = log.split_once("serving the status page at http://").expect("a page");
        let at = after.split('/').next().unwrap().to_owned();
        Site { daemon, at }
    }

    fn ask(&self, request: &str) -> Got {
        ask(&self.at, request)
    }

    fn get(&self, path: &str) -> Got {
        get(&self.at, path)
    }

    fn json(&self, path: &str) -> Value {
        let (status, headers, body) = self.get(path);
        assert_eq!((status, headers["content-type"].as_str()), (200, "application/json"), "{body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }
}

fn ask(at: &str, request: &str) -> Got {
    let mut stream = TcpStream::connect(at).unwrap();
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

fn get(at: &str, path: &str) -> Got {
    ask(at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n"))
}

fn conf(lab: &Lab, name: &str, more: &Value) -> Value {
    let mut ipam = json!({ "type": "sublet", "dataDir": lab.join("store").display().to_string() });
    for (key, value) in more.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    json!({ "cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": ipam })
}

/// Fills a store with one example of most kinds of records: two networks, a pod, a freed address, a
/// reservation and a Docker pool.
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

/// Replaces the values that differ from run to run with the values that docs/api.md shows.
fn settled(value: &Value, store: &str) -> Value {
    match value {
        Value::Object(fields) => {
            let settle = |(name, field): (&String, &Value)| {
                let field = match name.as_str() {
                    "time" | "until" | "lastLease" | "freed" | "looked" | "read" => {
                        json!("2026-11-21T10:31:05Z")
                    }
                    "machineID" => json!("0123456789abcdef0123456789abcdef"),
                    "bootID" => json!("6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
                    "leasesVersion" | "coolingVersion" | "version"
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

/// Returns the samples in docs/api.md: for each, the path of the request and the response.
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
    // The status contains the time of the last search for problems. Search for problems first, because the
    // status otherwise lacks this field.
    site.json("/api/v1/problems");
    let path = root().join("docs/api.md");
    let mut document = fs::read_to_string(&path).unwrap();
    let store = site.daemon.store().display().to_string();
    let shown = samples(&document);
    let paths: Vec<&str> = shown.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/api/v1/status",
            "/api/v1/stores",
            "/api/v1/pools",
            "/api/v1/leases",
            "/api/v1/cooling",
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
            // On a machine without a machine-id, the response has no field `machineID`.
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

/// If a request names a network, the API must return the rows that the complete list contains for that
/// network. Each field must have the same value as in `sublet list --json`.
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
    let script = ["base.js", "pools.js", "leases.js", "map.js", "page.js"].map(part).concat();
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
    // The page must not load anything from other hosts.
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

/// Every response must match docs/openapi.json, and the API must have all paths in that document.
#[test]
fn the_api_answers_as_openapi_says() {
    let site = Site::over(&[], |lab| {
        scene(lab);
        fill(lab, "full", "10.1.5.0/29", 5);
    });
    docker(&site);
    for (path, status) in [
        ("/api/v1/stores", 200),
        ("/api/v1/status", 200),
        ("/api/v1/status?store=nope", 404),
        ("/api/v1/status?nope=1", 400),
        ("/api/v1/pools", 200),
        ("/api/v1/leases?limit=2", 200),
        ("/api/v1/leases?limit=0", 400),
        ("/api/v1/leases?network=nope", 404),
        ("/api/v1/leases?after=10.1.2.3,nope", 410),
        ("/api/v1/cooling", 200),
        ("/api/v1/nodes", 200),
        ("/api/v1/trends", 200),
        ("/api/v1/problems", 200),
        ("/api/v1/history?at=2126-01-31T08:00:00Z", 200),
        ("/api/v1/history?at=2126-01-31T08:00:00Z&network=nope", 404),
        ("/api/v1/history?at=2h", 400),
        ("/api/v1/history/10.1.2.2", 200),
        ("/api/v1/history/x", 400),
    ] {
        let (got, _, body) = site.get(path);
        assert_eq!(got, status, "{path}: {body}");
        let path = path.split('?').next().unwrap();
        let path =
            if path.starts_with("/api/v1/history/") { "/api/v1/history/{address}" } else { path };
        crate::schema::check_answer(path, status, &serde_json::from_str(&body).unwrap());
    }
    // This is an address with a lease, so the response contains the evidence about its container.
    let answer = site.json("/api/v1/history/10.1.2.3");
    crate::schema::check_answer("/api/v1/history/{address}", 200, &answer);
    assert_eq!(answer["evidence"][0]["container"], "unknown", "{answer}");
    let is_whole = |path: &&String| !path.contains('{') && *path != "/api/v1/history";
    for path in crate::schema::paths().iter().filter(is_whole) {
        assert_eq!(site.get(path).0, 200, "{path}");
    }
}

/// The pages of a list must add up to the whole list. Each filter must work. A filter with an unknown name
/// must cause an error, not an empty list.
#[test]
fn lists_have_pages_and_filters() {
    let site = Site::over(&[], scene);
    docker(&site);
    let all = site.json("/api/v1/leases")["leases"].as_array().unwrap().clone();
    let mut pages: Vec<Value> = Vec::new();
    let mut path = "/api/v1/leases?limit=2".to_owned();
    loop {
        let (_, headers, body) = site.get(&path);
        let page: Value = serde_json::from_str(&body).unwrap();
        let rows = page["leases"].as_array().unwrap();
        assert!(rows.len() <= 2);
        pages.extend(rows.iter().cloned());
        let Some(next) = headers.get("sublet-next") else { break };
        let decoded = next.replace("%2F", "/").replace("%2C", ",").replace("%3A", ":");
        assert_eq!(page["next"], *decoded);
        path = format!("/api/v1/leases?limit=2&after={next}");
    }
    assert_eq!(pages, all);
    for (filter, count) in [
        ("network=mynet", 2),
        ("network=L%2F10.80.0.0%2F24", 2),
        ("node=host1", 4),
        ("namespace=shop", 1),
        ("q=CART+dynamic", 1),
        ("q=printer", 1),
        ("q=2001:db8", 1),
        ("q=network", 0),
        ("namespace=nobody", 0),
    ] {
        let found = site.json(&format!("/api/v1/leases?{filter}"));
        assert_eq!(found["leases"].as_array().unwrap().len(), count, "{filter}: {found}");
        assert_eq!(found["total"], 5);
    }
    for (path, status) in [
        ("/api/v1/leases?network=nope", 404),
        ("/api/v1/leases?node=nope", 404),
        ("/api/v1/cooling?network=nope", 404),
        ("/api/v1/leases?after=10.1.2.3,nope", 410),
        ("/api/v1/leases?limit=0", 400),
    ] {
        assert_eq!(site.get(path).0, status, "{path}");
    }
    for path in ["/api/v1/leases", "/app.js"] {
        let etag = site.get(path).1["etag"].clone();
        let line =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nIf-None-Match: {etag}\r\n\r\n", site.at);
        let (status, headers, body) = site.ask(&line);
        assert_eq!((status, headers["etag"] == etag, body.as_str()), (304, true, ""), "{path}");
    }
}

/// A client that accepts gzip must get the same content in compressed form. The compressed response must have
/// a different `ETag`.
#[test]
fn answers_are_compressed_for_clients_that_accept_it() {
    let site = Site::over(&[], |lab| import(lab, &lines(500, |_| json!({}))));
    for path in ["/", "/app.js", "/api/v1/leases", "/metrics"] {
        let raw = |more: &str| {
            let mut stream = TcpStream::connect(&site.at).unwrap();
            let line = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
            stream.write_all(line.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
            (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
        };
        let (head, packed) = raw("Accept-Encoding: deflate, gzip, br\r\n");
        assert!(
            head.contains("\r\ncontent-encoding: gzip") && head.contains("\r\nvary: "),
            "{head}"
        );
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        let (plain_head, plain) = raw("");
        assert!(!plain_head.contains("content-encoding"), "{plain_head}");
        assert!(plain.len() > 2 * packed.len(), "{path}: {} to {}", plain.len(), packed.len());
        if path == "/metrics" {
            continue;
        }
        // The contents differ only in the time, so compare the lengths.
        assert_eq!(text.len(), plain.len(), "{path}");
        let tag = |head: &str| {
            head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned()
        };
        let (packed_tag, plain_tag) = (tag(&head), tag(&plain_head));
        assert_ne!(packed_tag, plain_tag);
        let (again, body) =
            raw(&format!("Accept-Encoding: gzip\r\nIf-None-Match: \"x\", {packed_tag}\r\n"));
        assert!(again.starts_with("HTTP/1.1 304") && body.is_empty(), "{again}");
    }
}

/// The API and `sublet history --at` must report the same holders of addresses at a given time. The pages of
/// the API's list must add up to the whole list.
#[test]
fn holders_of_a_time_are_the_command_lines() {
    let site = Site::over(&[], |lab| {
        scene(lab);
        rising(lab);
    });
    let store = site.daemon.store().display().to_string();
    let now = sublet::sys::host::facts(&|_| None).context().now;
    for (ago, count) in [(0, 28), (900 * 6 + 450, 12), (900 * 13, 0)] {
        let at = sublet::rows::Time(now + 60 - ago).to_string();
        let call =
            Call::sublet().args(&["history", "--at", &at, "--json", "--store", &store]).run();
        let mut listed: Vec<Value> = serde_json::from_str(&call.stdout).unwrap();
        listed.sort_by_key(|row| (row["network"].to_string(), row["address"].to_string()));
        let mut rows: Vec<Value> = Vec::new();
        let mut path = format!("/api/v1/history?at={at}&limit=5");
        loop {
            let page = site.json(&path);
            assert_eq!(page["at"], at);
            rows.extend(page["events"].as_array().unwrap().iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/v1/history?at={at}&limit=5&after={next}");
        }
        rows.sort_by_key(|row| (row["network"].to_string(), row["address"].to_string()));
        assert_eq!(rows, listed, "{at}");
        assert_eq!(rows.len(), count, "{at}: {rows:?}");
    }
    let at = sublet::rows::Time(now + 60).to_string();
    let found = site.json(&format!("/api/v1/history?at={at}&network=mynet"));
    assert_eq!(found["events"].as_array().unwrap().len(), 2, "{found}");
}

/// Returns the peak memory of a process, in KiB.
fn peak(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns `count` leases of a network as JSON lines. `more(n)` returns additional fields of lease `n`.
fn lines(count: u32, more: impl Fn(u32) -> Value) -> String {
    let mut text = format!("{}\n", json!({ "sublet": env!("CARGO_PKG_VERSION"), "format": 2 }));
    for n in 0..count {
        let mut row = json!({
            "record": "lease", "persist": "disk", "network": "many", "kind": "dynamic",
            "address": std::net::Ipv4Addr::from(0x0a00_0002 + n), "prefix": 8, "rangeKey": "10.0.0.1",
            "containerID": format!("{n:064x}"), "ifname": "eth0", "time": "2026-11-21T10:31:05Z",
        });
        for (key, value) in more(n).as_object().unwrap() {
            row[key] = value.clone();
        }
        let _ = writeln!(text, "{row}");
    }
    text
}

fn import(lab: &Lab, lines: &str) {
    let file = lab.join("leases.jsonl");
    fs::write(&file, lines).unwrap();
    let store = lab.join("store/leases.redb").display().to_string();
    let file = file.display().to_string();
    let call = Call::sublet().args(&["import", "jsonl", &file, "--store", &store]).run();
    assert_eq!(call.code, Some(0), "{call:?}");
}

/// Idle clients, and clients that do not read their responses, must neither delay other clients nor use much
/// memory. In an earlier version, 32 idle connections blocked the page for 30 s.
#[test]
fn idle_clients_and_slow_readers_stall_nobody() {
    let pods =
        |n| json!({ "podNamespace": "shop", "podName": format!("web-{n}-{n}"), "node": "host1" });
    let site = Site::over(&[], |lab| import(lab, &lines(12_000, pods)));
    let prompt = |path: &str| {
        let began = Instant::now();
        assert_eq!(site.get(path).0, 200);
        assert!(began.elapsed() < Duration::from_secs(15), "{path}: {:?}", began.elapsed());
    };
    assert_eq!(site.get("/api/v1/leases").0, 200);
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&site.at).unwrap()).collect();
    prompt("/metrics");
    prompt("/healthz");
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(&site.at).unwrap();
            let line = "GET /api/v1/leases?limit=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let _ = stream.write_all(line.as_bytes());
            stream
        })
        .collect();
    prompt("/api/v1/status");
    prompt("/metrics");
    prompt("/app.js");
    let peak = peak(site.daemon.pid());
    assert!(peak < 64 << 10, "{peak} KiB");
    drop((idle, slow));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000));
    let mut stream = TcpStream::connect(&site.at).unwrap();
    let _ = stream.write_all(long.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    prompt("/");
}

/// Returns the entries of the field `attention` in the status, in the form `KIND LEVEL`.
fn attention(site: &Site) -> Vec<String> {
    let status = site.json("/api/v1/status");
    let items = status["attention"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let is_worst = items.first().map_or(json!("ok"), |item| item["level"].clone());
    assert!(status["state"] == is_worst || status["state"] == "unknown", "{status}");
    items.iter().map(|item| format!("{} {}", text(&item["kind"]), text(&item["level"]))).collect()
}

fn fill(lab: &Lab, name: &str, subnet: &str, count: usize) {
    let conf = conf(lab, name, &json!({ "subnet": subnet }));
    for n in 0..count {
        Call::cni("ADD", &format!("{name}{n}"), &conf).env("NODE_ID", "host1").run().ok();
    }
}

#[test]
fn ranges_that_are_full_need_attention() {
    let site = Site::over(&[], |lab| {
        fill(lab, "full", "10.1.2.0/29", 5);
        fill(lab, "near", "10.1.3.0/29", 4);
        fill(lab, "calm", "10.1.4.0/29", 2);
    });
    until("the first look", || !attention(&site).is_empty());
    assert_eq!(attention(&site), ["full error", "nearlyFull warning"]);
    let status = site.json("/api/v1/status");
    let item = &status["attention"][0];
    assert_eq!((&item["network"], &item["first"]), (&json!("full"), &json!("10.1.2.1")), "{item}");
}

#[test]
fn it_is_well_only_if_that_was_checked() {
    let site = Site::over(&[], |lab| fill(lab, "calm", "10.1.4.0/29", 2));
    until("the first look", || site.json("/api/v1/status")["state"] == "ok");
    let status = site.json("/api/v1/status");
    assert!(status["read"].is_string() && status["looked"].is_string(), "{status}");
    assert_eq!((site.get("/healthz").0, attention(&site)), (200, Vec::new()));
}

/// The status page must report a lease if its network namespace existed once but no longer does.
#[test]
fn a_stale_lease_needs_attention() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mounts = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    let mounts: u64 = mounts.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let site = Site::over(&[], |lab| {
        let gone = |_| {
            json!({
                "persist": "boot", "bootID": read("/proc/sys/kernel/random/boot_id"),
                "machineID": read("/etc/machine-id"), "node": "host1", "netns": "/run/netns/no-such",
                "netnsInode": [4, 1], "mountNamespace": mounts,
            })
        };
        import(lab, &lines(3, gone));
    });
    until("the problems", || attention(&site) == ["stale warning"]);
    assert_eq!(site.json("/api/v1/problems")["total"], 3);
    // The response about the address must contain the evidence that the lease is stale.
    let address = site.json("/api/v1/history/10.0.0.2");
    let found = &address["evidence"][0];
    assert_eq!(
        (&found["container"], &found["next"]),
        (&json!("gone"), &json!("sublet gc --network many"))
    );
    assert_eq!(found["reason"], "the container's network namespace /run/netns/no-such is gone");
    let text = site.get("/metrics").2;
    assert!(text.contains("\nsublet_problems{level=\"warning\"} 3\n"), "{text}");
}

/// A file that an interrupted process has left behind must be reported as a problem that can be repaired. It
/// must not count as damage, because all records are intact.
#[test]
fn a_leftover_file_is_no_damage() {
    let site = Site::over(&[], |lab| {
        fill(lab, "calm", "10.1.4.0/29", 2);
        fs::write(lab.join("store/leases.redb.new"), "").unwrap();
    });
    until("the problems", || attention(&site) == ["problem warning"]);
    let problem = &site.json("/api/v1/problems")["problems"][0];
    assert_eq!((&problem["level"], &problem["repairable"]), (&json!("warning"), &json!(true)));
    let text = site.get("/metrics").2;
    assert!(text.contains("\nsublet_problems{level=\"error\"} 0\n"), "{text}");
    let store = site.daemon.store().display().to_string();
    let found = Call::sublet().args(&["doctor", "--json", "--store", &store]).run();
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(report["problems"][0]["level"], "warning", "{report}");
    assert_eq!(report["checked"]["leases"], 2, "{report}");
}

/// While another process holds the lock of the store, the page must report the lock, and must show the data
/// that it read earlier. A request for the metrics must not wait for the lock.
#[test]
fn a_locked_store_is_reported_and_delays_no_scrape() {
    let site = Site::over(&[], |lab| fill(lab, "calm", "10.1.4.0/29", 2));
    assert_eq!(attention(&site), Vec::<String>::new());
    let folder = site.daemon.lab.join("store");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let locks: Vec<fs::File> = names.map(|path| fs::File::open(path).unwrap()).collect();
    for lock in &locks {
        lock.lock().unwrap();
    }
    until("stale numbers", || attention(&site).first().is_some_and(|item| item == "locked error"));
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(site.get("/metrics").0, 200);
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    let status = site.json("/api/v1/status");
    assert_eq!(status["pools"][0]["used"], 2, "{status}");
    assert_eq!(site.get("/healthz").0, 503);
    drop(locks);
    until("the lock to be free", || attention(&site).is_empty() && site.get("/healthz").0 == 200);
}

#[test]
fn a_cluster_that_does_not_answer_needs_attention() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let store =
        json!({ "etcd": { "endpoints": [format!("http://127.0.0.1:{port}")] } }).to_string();
    let page = Alone::start(&["--store", &store, "--node", "host1"]);
    until("no answer", || {
        let status = page.json("/api/v1/status");
        status["attention"][0]["kind"] == "unavailable" && status["state"] == "error"
    });
    assert_eq!(page.get("/api/v1/pools").0, 503);
    assert!(page.get("/metrics").2.contains("\nsublet_store_readable 0\n"));
}

/// A subletd that serves only the status page, without the Docker driver.
struct Alone {
    site: String,
    child: std::process::Child,
    lab: Lab,
}

impl Alone {
    fn start(args: &[&str]) -> Alone {
        let lab = Lab::new();
        let log = fs::File::create(lab.join("log")).unwrap();
        let mut command = subletd(&["--no-docker", "--http", "127.0.0.1:0"]);
        let child = command.args(args).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let read = || fs::read_to_string(lab.join("log")).unwrap();
        until("the page", || read().contains("info: ready"));
        let log = read();
        let (_, after) = log.split_once("serving the status page at http://").expect("a page");
        Alone { site: after.split('/').next().unwrap().to_owned(), child, lab }
    }

    fn get(&self, path: &str) -> Got {
        get(&self.site, path)
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).2).unwrap()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_runs_without_the_driver() {
    let lab = Lab::new();
    fill(&lab, "mynet", "10.1.2.0/29", 1);
    let store = lab.join("store/leases.redb").display().to_string();
    let mut page = Alone::start(&["--store", &store]);
    assert_eq!((page.get("/healthz").0, page.get("/").0), (200, 200));
    assert_eq!(page.json("/api/v1/pools")["pools"][0]["network"], "mynet");
    let log = fs::read_to_string(page.lab.join("log")).unwrap();
    assert!(!log.contains("listening on"), "{log}");
    crate::lab::signal(&page.child, "TERM");
    assert!(page.child.wait().unwrap().success());
    for args in [&["--no-docker"][..], &["--no-docker", "--http", "127.0.0.1:0", "--socket", "/x"]]
    {
        assert_eq!(subletd(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
}

/// If subletd serves several stores, the API must cover all of them, and the metrics must have a label for
/// each.
#[test]
fn several_stores_are_shown() {
    let lab = Lab::new();
    fill(&lab, "mynet", "10.1.2.0/29", 1);
    let other = Lab::new();
    fill(&other, "mynet", "10.1.2.0/29", 5);
    let store = |lab: &Lab| lab.join("store/leases.redb").display().to_string();
    let (one, two) = (store(&lab), store(&other));
    let page = Alone::start(&["--store", &one, "--store", &two]);
    until("the first look", || {
        let stores = page.json("/api/v1/stores");
        stores["stores"][1]["attention"][0]["kind"] == "full"
            && stores["stores"][0]["state"] == "ok"
    });
    let encoded = sublet::sys::percent::encode(&two);
    for (query, name, count) in [("", &one, 1), (&*format!("?store={encoded}"), &two, 5)] {
        let status = page.json(&format!("/api/v1/status{query}"));
        assert_eq!(
            (&status["store"], &status["leases"]),
            (&json!(name), &json!(count)),
            "{status}"
        );
        assert_eq!(page.json(&format!("/api/v1/leases{query}"))["total"], count);
    }
    assert_eq!(page.get("/api/v1/pools?store=nope").0, 404);
    let text = page.get("/metrics").2;
    for (name, count) in [(&one, 1), (&two, 5)] {
        assert!(text.contains(&format!("\nsublet_leases{{store=\"{name}\"}} {count}\n")), "{text}");
    }
    assert_eq!(text.matches("# TYPE sublet_leases ").count(), 1);
    // If one store cannot be read, the whole daemon must count as unhealthy.
    assert_eq!(page.get("/healthz").0, 200);
    fs::write(&two, "garbage").unwrap();
    until("the damage", || page.get("/healthz").0 == 503);
    assert_eq!(page.get("/api/v1/pools").0, 200);
    for (args, code) in [
        (&["--no-docker", "--http", "127.0.0.1:0", "--store", &one, "--store", &one][..], 1),
        (&["--socket", "/x", "--store", &one, "--store", &two], 1),
        (&["cleanup", "--store", &one, "--store", &two], 1),
    ] {
        assert_eq!(subletd(args).output().unwrap().status.code(), Some(code), "{args:?}");
    }
}

/// Fills a range in which two addresses were reserved every 15 minutes during the last three hours.
fn rising(lab: &Lab) {
    fill(lab, "rising", "10.1.6.0/26", 1);
    let cx = sublet::sys::host::facts(&|_| None).context();
    let store = StoreSpec::Embedded {
        path: lab.join("store/leases.redb"),
        persist: Persist::Disk,
        wait: Wait::Forever,
        history: History::Standing,
    };
    let mut store = sublet::store::open(&store).unwrap();
    for n in 0..12_u8 {
        let addr = |last: u8| sublet::net::Addr::from(std::net::IpAddr::from([10, 1, 6, last]));
        let reserve = Command::Reserve(Reserve {
            set: SetName("rising".to_owned()),
            addrs: vec![addr(30 + 2 * n), addr(31 + 2 * n)],
            note: None,
            holder: None,
            name: None,
        });
        let cx = Context { now: cx.now - 900 * u64::from(12 - n), ..cx.clone() };
        store.apply(&reserve, &cx).map_err(|e| e.to_string()).unwrap();
    }
}

#[test]
fn a_range_that_fills_up_needs_attention() {
    let site = Site::over(&[], rising);
    until("the first look", || attention(&site) == ["filling warning"]);
    let status = site.json("/api/v1/status");
    assert_eq!(status["attention"][0]["network"], "rising", "{status}");
    // 25 of 61 addresses are in use. At 8 addresses per hour, the other 36 last for 36 / 8 hours.
    let full_in = site.json("/api/v1/trends")["pools"][0]["fullIn"].as_u64().unwrap();
    assert!((15_000..18_000).contains(&full_in), "{full_in}");
    let text = site.get("/metrics").2;
    let name = "\nsublet_pool_full_in_seconds{network=\"rising\",range=\"10.1.6.0/26\"} 1";
    assert!(text.contains(name), "{text}");
}

/// The trends must match the history of one day.
#[test]
fn trends_are_those_of_the_history() {
    let site = Site::over(&[], |lab| fill(lab, "calm", "10.1.4.0/27", 5));
    let conf = conf(&site.daemon.lab, "calm", &json!({ "subnet": "10.1.4.0/27" }));
    assert_eq!(Call::cni("DEL", "calm0", &conf).env("NODE_ID", "host1").run().code, Some(0));
    let trends = site.json("/api/v1/trends");
    let trend = &trends["pools"][0];
    let list = |name: &str| trend[name].as_array().unwrap().clone();
    let sum = |name| list(name).iter().map(|count| count.as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("allocated"), sum("released")), (5, 1), "{trend}");
    let used = list("used");
    assert_eq!((used.len(), &used[95], &used[0]), (96, &json!(4), &json!(0)), "{trend}");
}

/// If the store cannot be read, the page and the metrics must report it.
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
        // The plugin runs in processes of its own, so subletd knows its requests only from the counters in
        // the store.
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

/// The log must have one line for each event, as text or as JSON. After the log file has been rotated, the
/// daemon must no longer write to the old file.
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

/// The plugin's log file must contain the container, command, address, duration and outcome of each call.
#[test]
fn the_plugin_logs_each_call_once() {
    for format in ["text", "json"] {
        let lab = Lab::new();
        let file = lab.join("log").display().to_string();
        let mut conf = crate::lab::conf(&lab.data_dir(), "10.4.0.0/30");
        conf["ipam"]["logFile"] = json!(file);
        conf["ipam"]["logFormat"] = json!(format);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        Call::cni("ADD", "one", &conf).env("TRACEPARENT", &parent).run().ok();
        let full = Call::cni("ADD", "two", &conf).run();
        assert_eq!(full.error().0, 100);
        assert_eq!(Call::cni("DEL", "one", &conf).run().code, Some(0));
        let text = fs::read_to_string(lab.join("log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let traced = lines.iter().map(|line| line.contains(trace));
        assert!(traced.eq([true, false, false]), "{text}");
        let store = lab.store().display().to_string();
        let events =
            Call::sublet().args(&["history", "-o", "json", "--store", &store]).run().rows();
        let recorded: Vec<_> = events.iter().map(|event| event["trace"].as_str()).collect();
        assert_eq!(recorded, [Some(trace), None], "{events:?}");
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

/// Tests that need promtool.
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
        // Also check the metrics of a daemon with two stores. Both stores have all metrics.
        let labs = [Lab::new(), Lab::new()];
        let [one, two] = labs.each_ref().map(|lab| {
            fill(lab, "mynet", "10.1.2.0/29", 2);
            lab.join("store/leases.redb").display().to_string()
        });
        let page = Alone::start(&["--store", &one, "--store", &two]);
        let metrics = || page.get("/metrics").2;
        until("both stores are read", || metrics().matches("\nsublet_problems{").count() == 4);
        assert_eq!(promtool(&["check", "metrics"], &metrics()), "");
        // Also check the metrics for the node exporter's textfile collector.
        let store = site.daemon.store().display().to_string();
        let out = Call::sublet().arg("stats").arg("--prometheus").arg("--store").arg(&store).run();
        assert_eq!(out.code, Some(0), "{out:?}");
        assert_eq!(promtool(&["check", "metrics"], &out.stdout), "");
    }

    /// Prometheus must be able to evaluate each query of the dashboard, with metrics that it has scraped from
    /// a daemon.
    #[test]
    fn prometheus_evaluates_the_dashboards_queries() {
        let site = Site::over(&[], |lab| {
            scene(lab);
            rising(lab);
        });
        docker(&site);
        until("a trend", || site.get("/metrics").2.contains("\nsublet_pool_full_in_seconds{"));
        let lab = Lab::new();
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: sublet, static_configs: \
             [{{targets: [\"{}\"]}}]}}]\n",
            site.at
        );
        fs::write(lab.join("prometheus.yml"), config).unwrap();
        let at =
            std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = fs::File::create(lab.join("log")).unwrap();
        let mut server = Command::new("prometheus")
            .arg(format!("--config.file={}", lab.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", lab.join("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus, of Debian");
        let query = |text: &str| -> Value {
            let path = format!("/api/v1/query?query={}", sublet::sys::percent::encode(text));
            let line = format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n");
            serde_json::from_str(&ask(&at, &line).2).unwrap_or_default()
        };
        let has = |found: &Value| found["data"]["result"].as_array().is_some_and(|r| !r.is_empty());
        until("Prometheus", || TcpStream::connect(&at).is_ok());
        until("two scrapes", || {
            has(&query("rate(sublet_requests_total[1m]) >= 0 and on() count_over_time(up[1m]) > 2"))
        });
        let path = root().join("packaging/grafana/sublet.json");
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        let mut faults = Vec::new();
        for target in targets {
            let text = target["expr"].as_str().unwrap();
            let asked = text.replace("$__rate_interval", "1m").replace("$instance", ".*");
            let found = query(&asked);
            // No request has failed, so the panel that shows failures may be empty.
            if found["status"] != "success" || (!has(&found) && !text.contains("outcome!=")) {
                faults.push(format!("{asked}: {found}"));
            }
        }
        let _ = server.kill();
        let _ = server.wait();
        assert!(panels.len() > 10 && faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn the_alert_rules_fire_when_they_should() {
        let told = promtool(&["check", "rules", "sublet.rules.yml"], "");
        assert!(told.contains("SUCCESS"), "{told}");
        let told = promtool(&["test", "rules", "sublet.test.yml"], "");
        assert!(told.contains("SUCCESS"), "{told}");
        // The alert rules may use only metrics that /metrics contains.
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
