//! Tests with servers that send malformed or slow responses. Each command must fail with an error within the
//! time limit. It must never panic, lease an address, or conclude that nothing is leased.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::contract::{add, at, del, dual_stack};
use crate::alloc::Command;
use crate::error::{Error, StoreError};
use crate::model::{Consul, Etcd, History, Persist, Servers, StoreSpec};
use crate::store::cluster::server::{Commit, Expect, Operation, Server, Write};
use crate::store::{Store, open};

/// Starts a server that answers every request with `answer`, one byte at a time if `slow` is set. Returns the
/// server's URL.
fn server_of(answer: Vec<u8>, slow: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        // Nothing stops this thread: it ends with the test process.
        for client in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || drop(answer_one(client.unwrap(), &answer, slow)));
        }
    });
    format!("http://127.0.0.1:{port}")
}

/// Reads an HTTP request, and returns its body.
fn read_request(request: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
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
    let mut body = vec![0; length];
    request.read_exact(&mut body)?;
    Ok(body)
}

fn answer_one(mut client: TcpStream, answer: &[u8], slow: bool) -> std::io::Result<()> {
    read_request(&mut BufReader::new(client.try_clone()?))?;
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
        history: History::Standing,
        // No folder can be created in /proc, so these stores have no local cache.
        notes: "/proc/nowhere".into(),
    };
    [
        StoreSpec::Etcd(Box::new(Etcd { servers: servers.clone(), login: None })),
        StoreSpec::Consul(Box::new(Consul { servers, dc: None, token: None })),
    ]
}

fn fails(what: &str, store: &mut dyn Store) {
    let errors = [
        store.apply(&Command::Add(add("c1", &dual_stack())), &at(1)).unwrap_err(),
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
fn malformed_responses_are_errors() {
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
        ("records of another path", http("200 OK", &found)),
        ("keys of another path", http("200 OK", &format!(r#"{{"Results":[{key}]}}"#))),
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
        let endpoint = server_of(answer, false);
        for spec in stores(&endpoint, Duration::from_millis(600)) {
            fails(&format!("{what}, {spec:?}"), &mut *open(&spec).unwrap());
        }
    }
}

/// The time limit applies to the whole response, even if each wait for the next byte is short.
#[test]
fn a_slow_response_fails_in_time() {
    let slow = server_of(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n".repeat(9), true);
    for spec in stores(&slow, Duration::from_millis(500)) {
        let begin = Instant::now();
        let outcome = open(&spec).unwrap().apply(&Command::Add(add("c1", &dual_stack())), &at(1));
        let failed = matches!(
            outcome,
            Err(Error::Store(StoreError::Unavailable { .. } | StoreError::Unanswered { .. }))
        );
        assert!(failed, "{outcome:?}");
        assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    }
}

/// Starts a server that answers each request with the next response in `answers`. Returns the server's URL,
/// and a receiver of the bodies of the requests.
fn scripted(answers: Vec<(&'static str, String)>) -> (String, mpsc::Receiver<serde_json::Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sent, asked) = mpsc::channel();
    thread::spawn(move || {
        for (status, body) in answers {
            let mut client = listener.accept().unwrap().0;
            let request = read_request(&mut BufReader::new(client.try_clone().unwrap())).unwrap();
            sent.send(serde_json::from_slice(&request).unwrap()).unwrap();
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}");
            client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    (endpoint, asked)
}

fn an_etcd(endpoint: &str) -> crate::store::cluster::etcd::Etcd {
    match &stores(endpoint, Duration::from_secs(10))[0] {
        StoreSpec::Etcd(spec) => crate::store::cluster::etcd::Etcd::new(spec).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Makes one page of an etcd listing. The page has a single record, at `path`, and reports `revision` as the
/// store's latest revision. If `more` is set, the page announces that another page follows.
fn page(path: &str, revision: u32, more: bool) -> (&'static str, String) {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(format!("sublet/{path}"));
    let kv = format!(r#"{{"key":"{key}","value":"AAAA","mod_revision":"3"}}"#);
    let header = format!(r#""header":{{"revision":"{revision}"}}"#);
    ("200 OK", format!(r#"{{{header},"kvs":[{kv}],"more":{more},"count":"3"}}"#))
}

#[test]
fn a_listing_is_read_page_by_page() {
    let answers = vec![
        page("ip/a", 7, true),
        page("ip/b", 9, true),
        page("ip/c", 10, false),
        page("ip/a", 11, true),
        ("400 Bad Request", r#"{"error":"stop","code":11}"#.to_owned()),
    ];
    let (endpoint, asked) = scripted(answers);
    let until = Instant::now() + Duration::from_secs(10);
    let etcd = an_etcd(&endpoint);
    let paths = |page: Result<Vec<_>, _>| page.unwrap().into_iter().map(|(path, _)| path).collect();
    let pages: Vec<Vec<String>> = etcd.pages("ip/", until).map(paths).collect();
    assert_eq!(pages, [["ip/a"], ["ip/b"], ["ip/c"]]);
    let starts: Vec<String> =
        asked.try_iter().map(|body| body["key"].as_str().unwrap().to_owned()).collect();
    // Each page starts after the last record of the previous page: "sublet/ip/", "sublet/ip/a\0",
    // "sublet/ip/b\0".
    assert_eq!(starts, ["c3VibGV0L2lwLw==", "c3VibGV0L2lwL2EA", "c3VibGV0L2lwL2IA"]);
    // A page that cannot be read is an error, not the end of the listing.
    let error = etcd.list("ip/", until).unwrap_err().to_string();
    assert!(error.contains("stop"), "{error}");
}

#[test]
fn messages_never_contain_an_echoed_password_or_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "se-cret").unwrap();
    for (status, body) in [
        ("400 Bad Request", r#"you said {"name":"u","password":"se-cret"}"#),
        ("400 Bad Request", r#"{"error":"no user with se-cret","code":3}"#),
        ("200 OK", r#""se-cret""#),
    ] {
        let (endpoint, _asked) = scripted(vec![(status, body.to_owned())]);
        let StoreSpec::Etcd(mut spec) = stores(&endpoint, Duration::from_secs(10))[0].clone()
        else {
            panic!("the first is etcd");
        };
        spec.login = Some(("u".to_owned(), file.clone()));
        let until = Instant::now() + Duration::from_secs(10);
        let error = crate::store::cluster::etcd::Etcd::new(&spec)
            .unwrap()
            .get(&["ip/a"], until)
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("se-cret"), "{text}");
    }
}

#[test]
fn a_commit_with_an_inconclusive_response_is_unknown() {
    let write = Write::Put(b"x".to_vec());
    let operation = Operation { path: "ip/a".to_owned(), expect: Expect::Absent, write };
    let deep = r#"{"responses":[{"response_txn":{"succeeded":true}}]}"#;
    for (status, body) in [
        ("200 OK", "{}"),
        ("200 OK", deep),
        ("408 Request Timeout", r#"{"error":"grpc: the client connection is closing","code":1}"#),
        ("499 Client Closed", r#"{"error":"context canceled","code":1}"#),
        ("503 Service Unavailable", r#"{"error":"etcdserver: leader changed","code":14}"#),
    ] {
        let (endpoint, _asked) = scripted(vec![(status, body.to_owned())]);
        let until = Instant::now() + Duration::from_secs(10);
        let outcome = an_etcd(&endpoint).commit(std::slice::from_ref(&operation), until);
        assert!(matches!(outcome, Ok(Commit::Unknown(_))), "{status} {body}: {outcome:?}");
    }
}
