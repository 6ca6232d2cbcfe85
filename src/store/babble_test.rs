//! Servers that answer nonsense, or slowly: an error in time, never a panic, a lease or "there is
//! nothing".

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::contract::{add, at, del, dual};
use super::{Store, open};
use crate::alloc::Command;
use crate::error::{Error, StoreError};
use crate::model::{Consul, Etcd, Persist, Servers, StoreSpec};

/// A server that gives everybody this answer, byte by byte if it is `slow`.
fn babbler(answer: Vec<u8>, slow: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        // It ends with the tests.
        for client in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || drop(answer_one(client.unwrap(), &answer, slow)));
        }
    });
    format!("http://127.0.0.1:{port}")
}

fn answer_one(mut client: TcpStream, answer: &[u8], slow: bool) -> std::io::Result<()> {
    let mut request = BufReader::new(client.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    request.read_exact(&mut vec![0; length])?;
    for byte in answer.chunks(if slow { 1 } else { usize::MAX }) {
        client.write_all(byte)?;
        if slow {
            thread::park_timeout(Duration::from_millis(40));
        }
    }
    Ok(())
}

fn stores(endpoint: &str, timeout: Duration) -> [StoreSpec; 2] {
    let servers = Servers {
        endpoints: vec![endpoint.to_owned()],
        prefix: "sublet".to_owned(),
        ca: None,
        identity: None,
        timeout,
        persist: Persist::Boot,
        // Nothing is noted there.
        notes: "/proc/nowhere".into(),
    };
    [
        StoreSpec::Etcd(Box::new(Etcd { servers: servers.clone(), login: None })),
        StoreSpec::Consul(Box::new(Consul { servers, dc: None, token: None })),
    ]
}

fn fails(what: &str, store: &mut dyn Store) {
    let errors = [
        store.apply(&Command::Add(add("c1", &dual())), &at(1)).unwrap_err(),
        store.apply(&del("c1"), &at(1)).unwrap_err(),
        store.list(&at(1), &mut |_| {}).unwrap_err().into(),
        store.pools().unwrap_err().into(),
    ];
    for error in errors {
        let store = matches!(
            error,
            Error::Store(StoreError::Unavailable { .. } | StoreError::Unanswered { .. })
        );
        let text = error.to_string();
        assert!(store && text.len() < 1000 && !text.contains('\n'), "{what}: {text}");
    }
}

#[test]
fn nonsense_is_an_error() {
    let http = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let deep = "[".repeat(100_000);
    let kv = r#"{"key":"AAA","value":"AAA","mod_revision":"x"}"#;
    let key = r#"{"KV":{"Key":"elsewhere","Value":"AAA","ModifyIndex":1}}"#;
    let found = format!(r#"{{"kvs":[{kv}],"responses":[{{"response_range":{{"kvs":[{kv}]}}}}]}}"#);
    let answers = [
        ("nothing", Vec::new()),
        ("noise", (0..4096_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect()),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("an empty body", http("200 OK", "")),
        ("a page", http("200 OK", "<html><body>Sign in</body></html>")),
        ("an object without anything", http("200 OK", "{}")),
        ("null", http("200 OK", "null")),
        ("a number", http("200 OK", "17")),
        ("a list", http("200 OK", "[]")),
        ("too few answers", http("200 OK", r#"{"succeeded":false,"responses":[]}"#)),
        ("records of somebody else", http("200 OK", &found)),
        ("keys of somebody else", http("200 OK", &format!(r#"{{"Results":[{key}]}}"#))),
        ("a deep one", http("200 OK", &deep)),
        ("half of one", http("200 OK", r#"{"succeeded":true}"#)[..50].to_vec()),
        ("more than was said", b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n{}".to_vec()),
        (
            "an absurd length",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}".to_vec(),
        ),
        ("a conflict that names nothing", http("409 Conflict", r#"{"Errors":[]}"#)),
        (
            "a redirection",
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
                .to_vec(),
        ),
        ("a proxy's error", http("502 Bad Gateway", "<html>\u{e4}</html>")),
        ("teapot", http("418 I'm a teapot", "")),
    ];
    for (what, answer) in answers {
        let endpoint = babbler(answer, false);
        for spec in stores(&endpoint, Duration::from_millis(600)) {
            fails(&format!("{what}, {spec:?}"), &mut *open(&spec).unwrap());
        }
    }
}

/// It says something now and then, so no single wait is long.
#[test]
fn slowness_is_bounded() {
    let slow = babbler(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n".repeat(9), true);
    for spec in stores(&slow, Duration::from_millis(500)) {
        let begin = Instant::now();
        let outcome = open(&spec).unwrap().apply(&Command::Add(add("c1", &dual())), &at(1));
        assert!(matches!(outcome, Err(Error::Store(StoreError::Unanswered { .. }))), "{outcome:?}");
        assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    }
}
