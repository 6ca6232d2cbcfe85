//! Servers that cannot, may not or do not answer.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::contract::{add, at, del, dual, given};
use super::servers;
use super::servers::Running;
use crate::alloc::{Command as Ask, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Etcd as EtcdSpec, StoreSpec};
use crate::store::cluster::consul::Consul;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::http::{Client, Failure, Request, Secret};
use crate::store::cluster::{ClusterStore, Server};
use crate::store::{Store, open};

fn say(
    server: &Running,
    path: &str,
    secret: Option<(&'static str, &Secret)>,
    body: &Value,
) -> Value {
    let client = Client::new(&server.servers("x")).unwrap();
    let body = body.to_string();
    let method = if path.starts_with("/v1/") { "PUT" } else { "POST" };
    let request =
        Request { method, path, body: body.as_bytes(), secret, repeatable: false, hopeless: "" };
    let reply = client.send(request, Instant::now() + Duration::from_secs(20)).unwrap();
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// ADD, DEL and listing fail, with this in the message, and nobody concludes that nothing is there.
fn refuses(mut store: Box<dyn Store>, why: &str) {
    let add = store.apply(&Ask::Add(add("c9", &dual())), &at(1));
    let del = store.apply(&del("c1"), &at(1));
    let list = store.list(&at(1), &mut |_| {});
    for error in [add.unwrap_err(), del.unwrap_err(), list.unwrap_err().into()] {
        let text = error.to_string();
        // A server that hangs up on a commit may have made it, for all that a client can tell.
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
    assert_eq!(given(store, &add("c1", &dual()), &at(1)).len(), 2);
}

#[test]
fn an_etcd_that_knows_its_users() {
    use base64::Engine as _;
    let key = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let server = servers::etcd(&[]);
    let probe = Etcd::new(&server.etcd("sublet")).unwrap();
    let server = server.await_ready(&probe);
    for (user, password) in [("root", "r"), ("sublet", "geheim"), ("guest", "geheim")] {
        say(&server, "/v3/auth/role/add", None, &json!({ "name": user }));
        say(&server, "/v3/auth/user/add", None, &json!({ "name": user, "password": password }));
        say(&server, "/v3/auth/user/grant", None, &json!({ "user": user, "role": user }));
    }
    let perm =
        json!({ "permType": "READWRITE", "key": key("sublet/"), "range_end": key("sublet0") });
    say(&server, "/v3/auth/role/grant", None, &json!({ "name": "sublet", "perm": perm }));
    say(&server, "/v3/auth/enable", None, &json!({}));
    let folder = tempfile::tempdir().unwrap();
    let right = file(folder.path(), "right", "geheim\n");
    let wrong = file(folder.path(), "wrong", "geheimer");
    let spec = server.etcd("sublet");
    let login = |user: &str, file: &Path| {
        let login = Some((user.to_owned(), file.to_owned()));
        EtcdSpec { login, ..spec.clone() }
    };
    let etcd = Etcd::new(&login("sublet", &right)).unwrap();
    // A token that the server has forgotten is renewed.
    etcd.forge_token("nonsense.1");
    works(&mut ClusterStore::new(etcd, Duration::from_secs(10)));
    let open = |spec: EtcdSpec| open(&StoreSpec::Etcd(Box::new(spec))).unwrap();
    // It is kept for its owner alone, and the next process needs no password.
    let kept = only_file(&spec.servers.notes);
    let token = fs::read_to_string(&kept).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
    works(&mut *open(login("sublet", &wrong)));
    assert_eq!(fs::read_to_string(&kept).unwrap(), token);
    // One that was kept and that the server does not know is got anew, and kept.
    let whose = token.lines().next().unwrap();
    fs::write(&kept, format!("{whose}\nnonsense.1\n")).unwrap();
    works(&mut *open(login("sublet", &right)));
    let renewed = fs::read_to_string(&kept).unwrap();
    assert!(renewed.starts_with(whose) && !renewed.contains("nonsense"), "{renewed}");
    // One of another cluster is sent to nobody; where none can be kept, all works without.
    fs::write(&kept, renewed.replacen("127.0.0.1", "127.0.0.2", 1)).unwrap();
    works(&mut *open(login("sublet", &right)));
    assert_eq!(fs::read_to_string(&kept).unwrap().lines().next(), Some(whose));
    let mut nowhere = login("sublet", &right);
    nowhere.servers.notes = "/proc/nowhere".into();
    works(&mut *open(nowhere));
    fs::remove_file(&kept).unwrap();
    refuses(open(server.etcd("sublet")), "user name is empty");
    refuses(open(login("guest", &right)), "permission denied");
    refuses(open(login("sublet", &wrong)), "invalid user ID or password");
}

#[test]
fn a_consul_that_knows_its_tokens() {
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
        say(&server, "/v1/acl/policy", secret, &json!({ "Name": name, "Rules": rules }));
        let made =
            say(&server, "/v1/acl/token", secret, &json!({ "Policies": [{ "Name": name }] }));
        made["SecretID"].as_str().unwrap().to_owned()
    };
    let write = token("write", "key_prefix \"sublet/\" { policy = \"write\" }");
    let read = token("read", "key_prefix \"sublet/\" { policy = \"read\" }");
    let open = |spec| open(&StoreSpec::Consul(Box::new(spec))).unwrap();
    works(&mut *open(with(&server, &write)));
    refuses(open(with(&server, &read)), "ermission denied");
    refuses(open(server.consul("sublet")), "ermission denied");
    refuses(open(with(&server, "0000-geheim")), "ACL not found");
    let elsewhere =
        crate::model::Consul { dc: Some("n\u{fc}rgends".into()), ..with(&server, &write) };
    refuses(open(elsewhere), "No path to datacenter");
}

/// A CA and a certificate of it for 127.0.0.1, as `NAME.ca.pem`, `NAME.pem` and `NAME.key`.
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
fn an_etcd_behind_tls() {
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
    refuses(open(with(&other_ca, Some((&cert, &key)), &server)), "certificate");
    refuses(open(with(&ca, None, &server)), "ertificate");
    refuses(open(with(&ca, Some((&other_cert, &other_key)), &server)), "ertificate");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // Files that are none are named.
    for (bad, why) in [(&key, "no certificate"), (&folder.path().join("nope"), "No such file")] {
        let spec = StoreSpec::Etcd(Box::new(with(bad, None, &server)));
        let error = crate::store::open(&spec).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains(bad.to_str().unwrap()), "{error}");
    }
}

#[test]
fn servers_that_hang_or_are_down() {
    // It takes connections and never says a word.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = (hangs.local_addr().unwrap().port(), hangs);
    let hangs_at = format!("http://127.0.0.1:{}", hangs.0);
    let down = "http://127.0.0.1:1";
    let server = servers::etcd(&[]);
    let probe = Etcd::new(&server.etcd("sublet")).unwrap();
    let server = server.await_ready(&probe);
    let timed = |endpoints: &[&str], timeout: u64| {
        let mut spec = server.etcd("sublet");
        spec.servers.endpoints = endpoints.iter().map(|e| (*e).to_owned()).collect();
        spec.servers.timeout = Duration::from_millis(timeout);
        let begin = Instant::now();
        let mut store = open(&StoreSpec::Etcd(Box::new(spec))).unwrap();
        let outcome = store.apply(&Ask::Add(add("c1", &dual())), &at(1));
        (outcome, begin.elapsed())
    };
    // Down: told at once. Hanging: within the time; what hangs is the look at the node's record.
    let (outcome, took) = timed(&[down], 5000);
    assert!(matches!(outcome, Err(Error::Store(StoreError::Unavailable { .. }))), "{outcome:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let (outcome, took) = timed(&[&hangs_at], 600);
    assert!(matches!(outcome, Err(Error::Store(StoreError::Unavailable { .. }))), "{outcome:?}");
    assert!(took < Duration::from_millis(1600), "{took:?}");
    // One that works among them is found.
    for endpoints in [[down, &hangs_at, &server.endpoint], [&hangs_at, &server.endpoint, down]] {
        let (outcome, took) = timed(&endpoints, 4000);
        assert!(matches!(outcome, Ok(Outcome::Added(_))), "{outcome:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

/// Who never was connected got nothing, however the connection failed, so that the next one is asked; a
/// request that may have been sent is not sent again.
#[test]
fn what_was_not_sent_is_sent_to_the_next_server() {
    let folder = tempfile::tempdir().unwrap();
    let [ca, ..] = certificate(folder.path(), "ours");
    let server = servers::consul("");
    let probe = Consul::new(&server.consul("sublet")).unwrap();
    let server = server.await_ready(&probe);
    // Its queue is full: further attempts are dropped, as by a host that is switched off.
    let drops = TcpListener::bind("127.0.0.1:0").unwrap();
    let drops_at = drops.local_addr().unwrap();
    let wait = Duration::from_millis(100);
    let queue: Vec<_> = std::iter::repeat_with(|| TcpStream::connect_timeout(&drops_at, wait))
        .take_while(Result::is_ok)
        .collect();
    assert!(queue.len() < 5000);
    // It takes connections and never says a word.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_at = hangs.local_addr().unwrap();
    let ask = |first: &str, spare: usize| {
        let mut servers = server.servers("x");
        servers.endpoints = [vec![first.to_owned()], vec![server.endpoint.clone(); spare]].concat();
        servers.ca = Some(ca.clone());
        servers.timeout = Duration::from_secs(2);
        let request = Request {
            method: "PUT",
            path: "/v1/kv/x",
            body: b"1",
            secret: None,
            repeatable: false,
            hopeless: "",
        };
        Client::new(&servers).unwrap().send(request, Instant::now() + servers.timeout)
    };
    // Longer than a name can be, so that no other host is asked for it.
    let nameless = format!("http://{}:1", "x".repeat(64));
    for (first, why) in [
        (format!("http://{drops_at}"), "connect"),
        (format!("https://{hangs_at}"), "connect"),
        ("http://127.0.0.1:1".to_owned(), "refused"),
        (nameless, "lookup"),
    ] {
        assert_eq!(ask(&first, 2).unwrap().status, 200, "{first}");
        let failure = ask(&first, 0).unwrap_err();
        let told = matches!(&failure, Failure::Unsent(text) if text.contains(why));
        assert!(told, "{first}: {failure:?}");
    }
    let failure = ask(&format!("http://{hangs_at}"), 2).unwrap_err();
    assert!(matches!(failure, Failure::Unanswered(_)), "{failure:?}");
}

/// Something that is no etcd at all.
#[test]
fn a_server_of_another_kind() {
    let consul = servers::consul("");
    let probe = Consul::new(&consul.consul("sublet")).unwrap();
    let consul = consul.await_ready(&probe);
    let spec = StoreSpec::Etcd(Box::new(consul.etcd("sublet")));
    refuses(open(&spec).unwrap(), "404");
    assert!(probe.place().contains("127.0.0.1"));
}
