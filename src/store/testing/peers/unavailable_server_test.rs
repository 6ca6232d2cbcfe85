//! Tests of servers that are down, that do not respond, or that reject a client.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::contract::{add, added, at, del, dual_stack};
use super::fake_cluster::no_cache;
use super::servers;
use super::servers::Running;
use crate::alloc::{Command as Ask, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Etcd as EtcdSpec, Persist, StoreSpec};
use crate::store::cluster::backoff::pause;
use crate::store::cluster::consul::Consul;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::http::{Client, Failure, Request, Secret};
use crate::store::cluster::server::{Commit, Expect, Operation, Write};
use crate::store::cluster::{ClusterStore, Server};
use crate::store::{Store, open};

fn post(
    server: &Running,
    path: &str,
    secret: Option<(&'static str, &Secret)>,
    body: &Value,
) -> Value {
    let client = Client::new("server", None, &server.servers("x")).unwrap();
    let body = body.to_string();
    let method = if path.starts_with("/v1/") { "PUT" } else { "POST" };
    let request = Request { method, path, body: body.as_bytes(), secret, retryable: false };
    let reply = client.send(request, Instant::now() + Duration::from_secs(20)).unwrap();
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Checks that an ADD, a DEL and a listing fail with an error that contains `why`. None of them may report
/// that there are no leases.
fn is_unavailable(mut store: Box<dyn Store>, why: &str) {
    let add = store.apply(&Ask::Add(add("c9", &dual_stack())), &at(1));
    let del = store.apply(&del("c1"), &at(1));
    let list = store.list(&at(1), &mut |_| {});
    for error in [add.unwrap_err(), del.unwrap_err(), list.unwrap_err().into()] {
        let text = error.to_string();
        // If a server closes the connection during a commit, the client cannot know the outcome, so the error
        // may be `Unanswered`.
        let failed = matches!(
            error,
            Error::Store(StoreError::Unavailable { .. } | StoreError::Unanswered { .. })
        );
        assert!(failed, "{text}");
        assert!(text.contains(why) && !text.contains("geheim"), "{text}");
    }
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    let tokens: Vec<_> = files.iter().filter(|f| f.to_string_lossy().contains("etcd-")).collect();
    assert_eq!(tokens.len(), 1, "{files:?}");
    tokens[0].clone()
}

fn works(store: &mut dyn Store) {
    assert_eq!(added(store, &add("c1", &dual_stack()), &at(1)).len(), 2);
}

#[test]
fn etcd_with_users() {
    use base64::Engine as _;
    let key = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let server = servers::ready_etcd();
    for (user, password) in [("root", "r"), ("sublet", "geheim"), ("guest", "geheim")] {
        post(&server, "/v3/auth/role/add", None, &json!({ "name": user }));
        post(&server, "/v3/auth/user/add", None, &json!({ "name": user, "password": password }));
        post(&server, "/v3/auth/user/grant", None, &json!({ "user": user, "role": user }));
    }
    let perm =
        json!({ "permType": "READWRITE", "key": key("sublet/"), "range_end": key("sublet0") });
    post(&server, "/v3/auth/role/grant", None, &json!({ "name": "sublet", "perm": perm }));
    post(&server, "/v3/auth/enable", None, &json!({}));
    let folder = tempfile::tempdir().unwrap();
    let right = file(folder.path(), "right", "geheim\n");
    let wrong = file(folder.path(), "wrong", "geheimer");
    let spec = server.etcd("sublet");
    let login = |user: &str, file: &Path| {
        let login = Some((user.to_owned(), file.to_owned()));
        EtcdSpec { login, ..spec.clone() }
    };
    let etcd = Etcd::new(&login("sublet", &right)).unwrap();
    // If its token has expired, the client logs in again and gets a new one.
    etcd.forge_token("nonsense.1");
    works(&mut ClusterStore::new(etcd, Duration::from_secs(10), Persist::Boot, no_cache()));
    let open = |spec: EtcdSpec| open(&StoreSpec::Etcd(Box::new(spec))).unwrap();
    // The token is kept in a file that only its owner can read. With this token, the next process needs no
    // password, so even a wrong password works.
    let kept = only_file(&spec.servers.notes);
    let token = fs::read_to_string(&kept).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
    works(&mut *open(login("sublet", &wrong)));
    assert_eq!(fs::read_to_string(&kept).unwrap(), token);
    // If the server rejects the token in the file, the client logs in and replaces the token.
    let whose = token.lines().next().unwrap();
    fs::write(&kept, format!("{whose}\nnonsense.1\n")).unwrap();
    works(&mut *open(login("sublet", &right)));
    let renewed = fs::read_to_string(&kept).unwrap();
    assert!(renewed.starts_with(whose) && !renewed.contains("nonsense"), "{renewed}");
    // A token of another cluster is never sent to this cluster. Commands also work if the token file cannot
    // be written.
    fs::write(&kept, renewed.replacen("127.0.0.1", "127.0.0.2", 1)).unwrap();
    works(&mut *open(login("sublet", &right)));
    assert_eq!(fs::read_to_string(&kept).unwrap().lines().next(), Some(whose));
    let mut nowhere = login("sublet", &right);
    nowhere.servers.notes = "/proc/nowhere".into();
    works(&mut *open(nowhere));
    fs::remove_file(&kept).unwrap();
    is_unavailable(open(server.etcd("sublet")), "user name is empty");
    is_unavailable(open(login("guest", &right)), "permission denied");
    is_unavailable(open(login("sublet", &wrong)), "invalid user ID or password");
}

#[test]
fn consul_with_tokens() {
    let root = "5a3e4b3c-7f0d-4c6e-9a53-0d2f1f6f8a01";
    let server = servers::consul(&format!(
        "acl {{ enabled = true\n default_policy = \"deny\"\n tokens {{ master = \"{root}\" }} }}"
    ));
    let folder = tempfile::tempdir().unwrap();
    let with = |server: &Running, token: &str| {
        let token = Some(file(folder.path(), &token[..4], token));
        crate::model::Consul { token, ..server.consul("sublet") }
    };
    let probe = Consul::new(&with(&server, root)).unwrap();
    let server = server.await_ready(&probe);
    let master = Secret::new(root.to_owned());
    let token = |name: &str, rules: &str| {
        let secret = Some(("x-consul-token", &master));
        post(&server, "/v1/acl/policy", secret, &json!({ "Name": name, "Rules": rules }));
        let made =
            post(&server, "/v1/acl/token", secret, &json!({ "Policies": [{ "Name": name }] }));
        made["SecretID"].as_str().unwrap().to_owned()
    };
    let write = token("write", "key_prefix \"sublet/\" { policy = \"write\" }");
    let read = token("read", "key_prefix \"sublet/\" { policy = \"read\" }");
    let open = |spec| open(&StoreSpec::Consul(Box::new(spec))).unwrap();
    works(&mut *open(with(&server, &write)));
    // A client whose token has only read permission can list leases and read history, but cannot change
    // anything.
    let mut reader = open(with(&server, &read));
    let mut seen = 0;
    reader.list(&at(1), &mut |_| seen += 1).unwrap();
    assert_eq!((seen, reader.networks(&at(1)).unwrap().len()), (2, 1));
    assert_eq!(reader.history(&at(1), &mut |_| true).unwrap().len(), 2);
    reader.problems(&at(1), &mut |problem| panic!("{problem:?}")).unwrap();
    for ask in [Ask::Add(add("c9", &dual_stack())), del("c1")] {
        let error = reader.apply(&ask, &at(1)).unwrap_err().to_string();
        assert!(error.contains("ermission denied"), "{error}");
    }
    is_unavailable(open(server.consul("sublet")), "ermission denied");
    is_unavailable(open(with(&server, "0000-geheim")), "ACL not found");
    let elsewhere =
        crate::model::Consul { dc: Some("n\u{fc}rgends".into()), ..with(&server, &write) };
    is_unavailable(open(elsewhere), "No path to datacenter");
}

/// Makes a certificate authority, and a certificate for 127.0.0.1 that this authority has signed. Returns the
/// paths of `NAME.ca.pem` (the authority), `NAME.pem` (the certificate) and `NAME.key` (its key).
fn certificate(folder: &Path, name: &str) -> [PathBuf; 3] {
    let script = r#"set -e
        cd "$1"
        new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$2"
        $new -x509 -keyout "$2.ca.key" -out "$2.ca.pem" -days 2
        $new -keyout "$2.key" -out "$2.csr"
        printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > "$2.ext"
        openssl x509 -req -in "$2.csr" -CA "$2.ca.pem" -CAkey "$2.ca.key" -CAcreateserial \
            -days 2 -extfile "$2.ext" -out "$2.pem""#;
    let folder_text = folder.to_str().unwrap();
    let done = Command::new("bash").args(["-c", script, "bash", folder_text, name]).output();
    let done = done.unwrap();
    assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
    ["ca.pem", "pem", "key"].map(|end| folder.join(format!("{name}.{end}")))
}

#[test]
fn etcd_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let [ca, cert, key] = certificate(folder.path(), "ours");
    let [other_ca, other_cert, other_key] = certificate(folder.path(), "theirs");
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let flags = [
        flag("trusted-ca-file", &ca),
        flag("cert-file", &cert),
        flag("key-file", &key),
        "--client-cert-auth".to_owned(),
    ];
    let server = servers::etcd_by("https", &flags.each_ref().map(String::as_str));
    let with = |ca: &Path, identity: Option<(&Path, &Path)>, server: &Running| {
        let mut spec = server.etcd("sublet");
        spec.servers.ca = Some(ca.to_owned());
        spec.servers.identity = identity.map(|(c, k)| (c.to_owned(), k.to_owned()));
        spec
    };
    let good = with(&ca, Some((&cert, &key)), &server);
    let probe = Etcd::new(&good).unwrap();
    let server = server.await_ready(&probe);
    let open = |spec| open(&StoreSpec::Etcd(Box::new(spec))).unwrap();
    works(&mut *open(good));
    let begin = Instant::now();
    is_unavailable(open(with(&other_ca, Some((&cert, &key)), &server)), "certificate");
    is_unavailable(open(with(&ca, None, &server)), "ertificate");
    is_unavailable(open(with(&ca, Some((&other_cert, &other_key)), &server)), "ertificate");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // If a certificate file is missing or contains no certificate, the error names the file.
    for (bad, why) in [(&key, "no certificate"), (&folder.path().join("nope"), "No such file")] {
        let spec = StoreSpec::Etcd(Box::new(with(bad, None, &server)));
        let error = crate::store::open(&spec).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains(bad.to_str().unwrap()), "{error}");
    }
}

/// Starts a proxy for TLS connections to a server, and returns its URL. While `breaks` is set, the proxy
/// sends a TLS alert to the client instead of the server's response.
fn proxy(server: &Running, breaks: &'static AtomicBool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("https://{}", listener.local_addr().unwrap());
    let to = server.endpoint.trim_start_matches("https://").to_owned();
    std::thread::spawn(move || {
        // The threads end with the test process.
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            let both =
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            let requested = Arc::new(AtomicBool::new(false));
            for (number, (mut from, mut to)) in both.into_iter().enumerate() {
                let (requested, mut bytes) = (requested.clone(), vec![0; 65536]);
                std::thread::spawn(move || {
                    let mut reads = 0;
                    while let Ok(length @ 1..) = from.read(&mut bytes) {
                        reads += 1;
                        if number == 0 && reads > 1 {
                            requested.store(true, Ordering::Relaxed);
                        }
                        if number == 1
                            && requested.load(Ordering::Relaxed)
                            && breaks.load(Ordering::Relaxed)
                        {
                            pause(
                                Duration::from_millis(300),
                                Instant::now() + Duration::from_secs(1),
                            );
                            let _ = to.write_all(&[21, 3, 3, 0, 2, 2, 80]);
                            break;
                        }
                        if to.write_all(&bytes[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    proxy
}

/// A proxy sends a TLS alert after the client has written its request. The client must not conclude that the
/// request failed, because the server may have applied it.
#[test]
fn a_tls_alert_after_the_request_does_not_mean_that_nothing_was_done() {
    static BREAKS: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    let [ca, cert, key] = certificate(folder.path(), "ours");
    let flags =
        [format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())];
    let server = servers::etcd_by("https", &flags.each_ref().map(String::as_str));
    let mut spec = server.etcd("sublet");
    spec.servers.ca = Some(ca);
    let probe = Etcd::new(&spec).unwrap();
    let server = server.await_ready(&probe);
    let proxy = proxy(&server, &BREAKS);
    // If the client concluded that the server had not received the request, it would repeat the request at
    // the next endpoint. There the request would fail, because the record already exists.
    spec.servers.endpoints = vec![proxy, server.endpoint.clone()];
    let write = Write::Put(vec![1; 20]);
    let operation = Operation { path: "ip/a".to_owned(), expect: Expect::Absent, write };
    let until = Instant::now() + Duration::from_secs(20);
    let mut clients = (0..99).map(|_| Etcd::new(&spec).unwrap());
    let etcd = clients.find(|etcd| etcd.asks_first() == spec.servers.endpoints[0]).unwrap();
    BREAKS.store(true, Ordering::Relaxed);
    let outcome = etcd.commit(&[operation], until);
    assert!(matches!(outcome, Ok(Commit::Unknown(_))), "{outcome:?}");
    BREAKS.store(false, Ordering::Relaxed);
    assert!(probe.get(&["ip/a"], until).unwrap()["ip/a"].is_some(), "the server has applied it");
}

/// One process finds that a server does not respond. The next process must therefore not ask this server
/// first, although it would otherwise choose its first server at random.
#[test]
fn a_server_that_hangs_is_remembered() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_at = format!("http://{}", hangs.local_addr().unwrap());
    let server = servers::ready_consul();
    for endpoints in [[&hangs_at, &server.endpoint], [&server.endpoint, &hangs_at]] {
        let notes = tempfile::tempdir().unwrap();
        let mut servers = server.servers("x");
        servers.endpoints = endpoints.map(Clone::clone).to_vec();
        servers.timeout = Duration::from_millis(1500);
        servers.notes = notes.path().to_owned();
        let client = || Client::new("server", None, &servers).unwrap();
        let is_slow = |client: Client| {
            let begin = Instant::now();
            let request = Request {
                method: "GET",
                path: "/v1/kv/x",
                body: &[],
                secret: None,
                retryable: true,
            };
            client.send(request, begin + Duration::from_secs(5)).unwrap();
            begin.elapsed() > Duration::from_millis(400)
        };
        let asking = |first: &str| (0..99).map(|_| client()).find(|c| c.asks_first() == first);
        assert!(!is_slow(asking(&server.endpoint).unwrap()));
        assert!(is_slow(asking(&hangs_at).unwrap()));
        assert!((0..9).all(|_| !is_slow(client())));
    }
}

/// The processes of a node share one login: only one process logs in, even if many processes start at the
/// same moment.
#[test]
fn processes_of_a_node_share_a_login() {
    static LOGINS: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            std::thread::spawn(move || {
                let mut client = client.unwrap();
                let mut text = vec![0; 4096];
                let length = client.read(&mut text).unwrap();
                let text = String::from_utf8_lossy(&text[..length]).into_owned();
                let body = if text.contains("/v3/auth/") {
                    LOGINS.fetch_add(1, Ordering::Relaxed);
                    pause(Duration::from_millis(200), Instant::now() + Duration::from_secs(1));
                    r#"{"token":"t.1"}"#
                } else {
                    assert!(text.contains("t.1"), "{text}");
                    r#"{"header":{"revision":"1"},"responses":[{"response_range":{}}]}"#
                };
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                client.write_all((head + body).as_bytes()).unwrap();
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let servers = crate::model::Servers {
        endpoints: vec![endpoint],
        prefix: "sublet".to_owned(),
        ca: None,
        identity: None,
        timeout: Duration::from_secs(5),
        persist: Persist::Boot,
        history: crate::model::History::Standing,
        notes: folder.path().join("notes"),
    };
    let login = Some(("u".to_owned(), file(folder.path(), "pw", "geheim")));
    let spec = EtcdSpec { servers, login };
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(5);
                Etcd::new(&spec).unwrap().get(&["x"], until).unwrap();
            });
        }
    });
    assert_eq!(LOGINS.load(Ordering::Relaxed), 1);
}

#[test]
fn servers_that_hang_or_are_down_fail_in_time() {
    // This server accepts connections, but never responds.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = (hangs.local_addr().unwrap().port(), hangs);
    let hangs_at = format!("http://127.0.0.1:{}", hangs.0);
    let down = "http://127.0.0.1:1";
    let server = servers::ready_etcd();
    let timed = |endpoints: &[&str], timeout: u64| {
        let mut spec = server.etcd("sublet");
        spec.servers.endpoints = endpoints.iter().map(|e| (*e).to_owned()).collect();
        spec.servers.timeout = Duration::from_millis(timeout);
        let begin = Instant::now();
        let mut store = open(&StoreSpec::Etcd(Box::new(spec))).unwrap();
        let outcome = store.apply(&Ask::Add(add("c1", &dual_stack())), &at(1));
        (outcome, begin.elapsed())
    };
    // If the server is down, the command fails at once. If the server does not respond, the command waits
    // until the time limit, because it must read the node's record.
    let (outcome, took) = timed(&[down], 5000);
    assert!(matches!(outcome, Err(Error::Store(StoreError::Unavailable { .. }))), "{outcome:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let (outcome, took) = timed(&[&hangs_at], 600);
    assert!(matches!(outcome, Err(Error::Store(StoreError::Unavailable { .. }))), "{outcome:?}");
    assert!(took < Duration::from_millis(1600), "{took:?}");
    // If one of the endpoints works, the command succeeds.
    for endpoints in [[down, &hangs_at, &server.endpoint], [&hangs_at, &server.endpoint, down]] {
        let (outcome, took) = timed(&endpoints, 4000);
        assert!(matches!(outcome, Ok(Outcome::Added(_))), "{outcome:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

/// If a client cannot connect to a server, that server has received nothing, so the client sends the request
/// to the next server. A request that a server may have received is never sent again.
#[test]
fn a_request_that_was_not_sent_goes_to_the_next_server() {
    let folder = tempfile::tempdir().unwrap();
    let [ca, ..] = certificate(folder.path(), "ours");
    let server = servers::ready_consul();
    // This listener's queue is full, so the kernel ignores further connection attempts, as if the host were
    // switched off.
    let drops = TcpListener::bind("127.0.0.1:0").unwrap();
    let drops_at = drops.local_addr().unwrap();
    let wait = Duration::from_millis(100);
    let queue: Vec<_> = std::iter::repeat_with(|| TcpStream::connect_timeout(&drops_at, wait))
        .take_while(Result::is_ok)
        .collect();
    assert!(queue.len() < 5000);
    // This server accepts connections, but never responds.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_at = hangs.local_addr().unwrap();
    let ask = |first: &str, spare: usize| {
        let mut servers = server.servers("x");
        servers.endpoints = [vec![first.to_owned()], vec![server.endpoint.clone(); spare]].concat();
        servers.ca = Some(ca.clone());
        servers.timeout = Duration::from_secs(2);
        let request =
            Request { method: "PUT", path: "/v1/kv/x", body: b"1", secret: None, retryable: false };
        let mut clients = (0..99).map(|_| Client::new("server", None, &servers).unwrap());
        let client = clients.find(|client| client.asks_first() == first).unwrap();
        client.send(request, Instant::now() + servers.timeout)
    };
    // This host name is too long to be valid, so the resolver reports an error without sending a DNS request.
    let nameless = format!("http://{}:1", "x".repeat(64));
    for (first, why) in [
        (format!("http://{drops_at}"), "connect"),
        (format!("https://{hangs_at}"), "connect"),
        ("http://127.0.0.1:1".to_owned(), "refused"),
        (nameless, "lookup"),
    ] {
        assert_eq!(ask(&first, 2).unwrap().status, 200, "{first}");
        let failure = ask(&first, 0).unwrap_err();
        let expected = matches!(&failure, Failure::NotApplied(text) if text.contains(why));
        assert!(expected, "{first}: {failure:?}");
    }
    let failure = ask(&format!("http://{hangs_at}"), 2).unwrap_err();
    assert!(matches!(failure, Failure::Unknown(_)), "{failure:?}");
}

/// The client expects one product (etcd or Consul), but the server runs the other one.
#[test]
fn a_server_of_another_kind_is_unavailable() {
    let consul = servers::ready_consul();
    let spec = StoreSpec::Etcd(Box::new(consul.etcd("sublet")));
    is_unavailable(open(&spec).unwrap(), "404");
    let client = Consul::new(&consul.consul("sublet")).unwrap();
    assert!(client.place().contains("127.0.0.1"));
}
