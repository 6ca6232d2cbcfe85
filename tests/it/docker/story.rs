//! Runs the golden folders in testdata/docker/. Each of them is a list of calls and their expected responses.
//!
//! A call is `METHOD BODY` or `METHOD*TIMES BODY`. The latter makes TIMES calls, whose responses must all
//! differ; the last one is compared. The next line is the expected response: `= JSON` (status 200 and exactly
//! this JSON), `=` (any success), `! TEXT` (a failure with this text), `!` (any failure) or `!STATUS TEXT`.
//! The line `fresh` starts with a new store.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use sublet::docker::{Driver, Settings, block, handle, supernet};
use sublet::model::{History, Persist, StoreSpec, Wait};
use sublet::store;
use sublet::store::Store;
use sublet::sys::host;
use tempfile::TempDir;

use super::daemon::Daemon;
use crate::lab::testdata;

pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.set_spaces("L,G").unwrap();
    settings.v4 = vec![block(supernet("10.80.0.0/12").unwrap(), 24).unwrap()];
    settings.v6 = vec![block(supernet("fd00:1::/48").unwrap(), 64).unwrap()];
    settings
}

/// Handles requests by calling the function `handle` with its own store, without a daemon.
pub struct Pure {
    pub driver: Driver,
    pub store: Box<dyn Store>,
    _folder: TempDir,
}

impl Pure {
    pub fn new() -> Pure {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.redb");
        let spec = StoreSpec::Embedded {
            path,
            persist: Persist::Disk,
            wait: Wait::Forever,
            history: History::Standing,
        };
        let driver = Driver { settings: settings(), routes: Vec::new };
        Pure { driver, store: store::open(&spec).unwrap(), _folder: folder }
    }

    pub fn call(&mut self, path: &str, body: &str) -> (u16, Value) {
        let cx = host::facts(&|_| None).context();
        let reply = handle(&self.driver, &mut *self.store, &cx, path, body.as_bytes());
        (reply.status, serde_json::from_str(&reply.body).unwrap())
    }
}

pub type Call<'a> = dyn FnMut(&str, &str) -> (u16, Value) + 'a;

fn stories() -> Vec<(String, String)> {
    let folders = fs::read_dir(testdata().join("docker")).unwrap();
    let mut paths: Vec<PathBuf> = folders.map(|f| f.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(path.join("calls")).unwrap();
        (path.file_name().unwrap().display().to_string(), text)
    };
    let all: Vec<_> = paths.into_iter().map(read).collect();
    assert!(all.len() >= 50, "testdata/docker/ has {} stories", all.len());
    all
}

/// Returns the HTTP path of a method. For example, the path of `RequestPool` is `/IpamDriver.RequestPool`.
fn path(method: &str) -> String {
    if method.starts_with('/') { method.to_owned() } else { format!("/IpamDriver.{method}") }
}

/// Runs one case. `begin` makes a driver with an empty store, and returns a function that calls it.
fn tell(name: &str, text: &str, begin: &mut dyn FnMut() -> Box<Call<'static>>) {
    let mut call = begin();
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.starts_with('#') && !l.is_empty());
    while let Some((number, line)) = lines.next() {
        if line == "fresh" {
            call = begin();
            continue;
        }
        let place = format!("testdata/docker/{name}/calls:{}: {line}", number + 1);
        let (method, body) = line.split_once(' ').unwrap_or((line, ""));
        let (method, times) = match method.split_once('*') {
            Some((method, times)) => (method, times.parse().unwrap()),
            None => (method, 1),
        };
        let mut seen = BTreeSet::new();
        let mut last = (0, Value::Null);
        for _ in 0..times {
            last = call(&path(method), body);
            let fresh = seen.insert(last.1.to_string());
            assert!(fresh, "{place}\n  {} was answered twice", last.1);
        }
        let (_, expected) = lines.next().expect(&place);
        check(&place, expected, &last);
    }
}

fn check(place: &str, expected: &str, (status, answer): &(u16, Value)) {
    let error = answer["Error"].as_str();
    let shown = format!("{place}\n  expected {expected}\n  answered {status} {answer}");
    match expected.split_at(1) {
        ("=", "") => assert!(*status == 200 && error.is_none(), "{shown}"),
        ("=", json) => {
            let json: Value = serde_json::from_str(json).expect(place);
            assert!(*status == 200 && *answer == json, "{shown}");
        }
        ("!", rest) => {
            let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(code.is_empty() || code.parse() == Ok(*status), "{shown}");
            // A failure must have both keys, `Err` and `Error`, because dockerd reads one or the other
            // depending on the status.
            assert!(error.is_some() && answer["Err"] == answer["Error"], "{shown}");
            assert!(text.is_empty() || error == Some(text), "{shown}");
        }
        _ => panic!("{shown}"),
    }
}

#[test]
fn told_to_the_pure_driver() {
    for (name, text) in stories() {
        tell(&name, &text, &mut || {
            let mut pure = Pure::new();
            Box::new(move |path, body| pure.call(path, body))
        });
    }
}

#[test]
fn told_over_the_socket() {
    for (name, text) in stories() {
        tell(&name, &text, &mut || {
            let daemon = Daemon::start();
            let mut client = daemon.client();
            Box::new(move |path, body| {
                let _alive = &daemon;
                client.call(path, body)
            })
        });
    }
}
