//! etcd, by the JSON gateway of its v3 API.
//!
//! Owns: how paths and values are written there, transactions, the token of a user. Does not own: the
//! connection (`http`), what is kept (`cas`).
//! Invariant: a transaction that fails answers with all compared records in the same trip, so a lost
//! race costs no further look.
//!
//! The gateway leaves out what is false, 0 or empty, and writes 64-bit numbers as text.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cas::{Commit, Engine, Entry, Expect, Step, Truths, Write};
use super::http::{Client, Failure, Reply, Request, Secret};
use crate::error::StoreError;
use crate::model::Etcd as Spec;

/// Operations of one transaction (`--max-txn-ops`).
const ROOM: usize = 128;
/// Records of one answer of a listing.
const PAGE: usize = 4096;
/// gRPC's code for a caller whom the server does not know, or no longer.
const UNAUTHENTICATED: u64 = 16;

/// A client of one store on one cluster.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    prefix: String,
    login: Option<(String, Secret)>,
    /// Got for the login; the server forgets it after a while.
    token: RefCell<Option<Secret>>,
}

#[derive(Deserialize)]
struct Kv {
    key: String,
    #[serde(default)]
    value: String,
    mod_revision: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    revision: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RangeReply {
    header: Header,
    kvs: Vec<Kv>,
    more: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TxnReply {
    succeeded: bool,
    responses: Vec<OneReply>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OneReply {
    response_range: Option<RangeReply>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
    code: u64,
}

/// Why a call has no result.
enum Trouble {
    /// Nothing was done.
    Undone(String),
    /// Something may have been done.
    Unknown(String),
}

impl Etcd {
    /// A client; reads files, connects nowhere.
    pub fn new(spec: &Spec) -> Result<Etcd, StoreError> {
        let login = match &spec.login {
            Some((user, file)) => Some((user.clone(), Secret::read(file)?)),
            None => None,
        };
        Ok(Etcd {
            client: Client::new(&spec.servers)?,
            prefix: format!("{}/", spec.servers.prefix),
            login,
            token: RefCell::new(None),
        })
    }

    /// A token that no server has given.
    #[cfg(test)]
    pub fn forge_token(&self, text: &str) {
        *self.token.borrow_mut() = Some(Secret::new(text.to_owned()));
    }

    fn key(&self, path: &str) -> String {
        BASE64.encode(format!("{}{path}", self.prefix))
    }

    /// One call. A token that the server no longer knows is renewed once: a call that is refused for
    /// it has done nothing.
    fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        repeatable: bool,
        until: Instant,
    ) -> Result<T, Trouble> {
        let undone = |e: serde_json::Error| Trouble::Undone(e.to_string());
        let body = serde_json::to_vec(body).map_err(undone)?;
        for first in [true, false] {
            self.log_in(until)?;
            let token = self.token.borrow().clone();
            let secret = token.as_ref().map(|token| ("authorization", token));
            let request =
                Request { method: "POST", path, body: &body, secret, repeatable, hopeless: "" };
            let reply = self.send(request, until)?;
            if reply.status == 200 {
                return parse(&reply);
            }
            let refusal: Refusal = serde_json::from_slice(&reply.body).unwrap_or_default();
            let stale = reply.status == 401 || refusal.code == UNAUTHENTICATED;
            if stale && first && self.login.is_some() {
                self.token.borrow_mut().take();
                continue;
            }
            return Err(refused(&reply, &refusal));
        }
        Err(Trouble::Undone("the token is refused as soon as it is given".to_owned()))
    }

    fn log_in(&self, until: Instant) -> Result<(), Trouble> {
        let Some((user, password)) = self.login.as_ref().filter(|_| self.token.borrow().is_none())
        else {
            return Ok(());
        };
        let body = json!({ "name": user, "password": password.expose() }).to_string();
        let request = Request {
            method: "POST",
            path: "/v3/auth/authenticate",
            body: body.as_bytes(),
            secret: None,
            repeatable: true,
            hopeless: "",
        };
        let reply = self.send(request, until)?;
        if reply.status != 200 {
            let refusal: Refusal = serde_json::from_slice(&reply.body).unwrap_or_default();
            return Err(refused(&reply, &refusal));
        }
        let Token { token } = parse(&reply)?;
        *self.token.borrow_mut() = Some(Secret::new(token));
        Ok(())
    }

    fn send(&self, request: Request<'_>, until: Instant) -> Result<Reply, Trouble> {
        self.client.send(request, until).map_err(|failure| match failure {
            Failure::Unsent(why) => Trouble::Undone(why),
            Failure::Unanswered(why) => Trouble::Unknown(why),
        })
    }

    fn unavailable(&self, doing: &str, trouble: Trouble) -> StoreError {
        let (Trouble::Undone(why) | Trouble::Unknown(why)) = trouble;
        StoreError::Unavailable { doing: doing.to_owned(), place: self.place(), source: why.into() }
    }

    /// What the ranges of a transaction found, of just these paths.
    fn truths<'p>(
        &self,
        paths: impl Iterator<Item = &'p str>,
        replies: Vec<OneReply>,
    ) -> Result<Truths, Trouble> {
        let mut truths: Truths = paths.map(|path| (path.to_owned(), None)).collect();
        for kv in replies.into_iter().filter_map(|r| r.response_range).flat_map(|r| r.kvs) {
            let (path, entry) = self.entry(&kv)?;
            truths.insert(path, Some(entry));
        }
        Ok(truths)
    }

    fn entry(&self, kv: &Kv) -> Result<(String, Entry), Trouble> {
        let bad = || Trouble::Unknown("an answer that makes no sense".to_owned());
        let key = BASE64.decode(&kv.key).ok().and_then(|key| String::from_utf8(key).ok());
        let path = key.as_deref().and_then(|key| key.strip_prefix(&self.prefix)).ok_or_else(bad)?;
        let version = kv.mod_revision.parse().map_err(|_| bad())?;
        let value = BASE64.decode(&kv.value).map_err(|_| bad())?;
        Ok((path.to_owned(), Entry { version, value }))
    }
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, Trouble> {
    serde_json::from_slice(&reply.body)
        .map_err(|e| Trouble::Unknown(format!("an answer that is not etcd's: {e}")))
}

/// What a status other than 200 means: below 500 the request was looked at and turned down; above, it
/// may be carried out yet.
fn refused(reply: &Reply, refusal: &Refusal) -> Trouble {
    let why = if refusal.error.is_empty() { reply.text() } else { refusal.error.trim().to_owned() };
    let why = format!("{} {why}", reply.status);
    if reply.status < 500 { Trouble::Undone(why) } else { Trouble::Unknown(why) }
}

impl Engine for Etcd {
    fn place(&self) -> String {
        format!("etcd at {}", self.client.place())
    }

    fn room(&self) -> usize {
        ROOM
    }

    fn get(&self, paths: &[&str], until: Instant) -> Result<Truths, StoreError> {
        let success: Vec<Value> =
            paths.iter().map(|p| json!({ "request_range": { "key": self.key(p) } })).collect();
        self.call::<TxnReply>("/v3/kv/txn", &json!({ "success": success }), true, until)
            .and_then(|reply| self.truths(paths.iter().copied(), reply.responses))
            .map_err(|trouble| self.unavailable("read from", trouble))
    }

    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        let read = || {
            let mut found = BTreeMap::new();
            let mut from = self.key(prefix);
            // "0" follows the slash that every prefix ends in.
            let end = self.key(&format!("{}0", prefix.trim_end_matches('/')));
            // All pages as of one moment.
            let mut revision = "0".to_owned();
            loop {
                let body = json!({
                    "key": from, "range_end": end, "limit": PAGE.to_string(), "revision": revision,
                });
                let page: RangeReply = self.call("/v3/kv/range", &body, true, until)?;
                for kv in &page.kvs {
                    let (path, entry) = self.entry(kv)?;
                    found.insert(path, entry);
                }
                match found.last_key_value() {
                    // The smallest key behind the last one.
                    Some((last, _)) if page.more => from = self.key(&format!("{last}\0")),
                    _ => return Ok(found),
                }
                revision = page.header.revision;
            }
        };
        read().map_err(|trouble| self.unavailable("list the leases of", trouble))
    }

    fn commit(&self, steps: &[Step], until: Instant) -> Result<Commit, StoreError> {
        let mut compare = Vec::new();
        let mut success = Vec::new();
        let mut failure = Vec::new();
        for step in steps {
            let key = self.key(&step.path);
            let expected = match step.expect {
                Expect::Anything => None,
                Expect::Absent => Some(("EQUAL", 0)),
                Expect::Present => Some(("GREATER", 0)),
                Expect::Version(version) => Some(("EQUAL", version)),
            };
            if let Some((result, version)) = expected {
                compare.push(json!({
                    "key": key, "target": "MOD", "result": result,
                    "mod_revision": version.to_string(),
                }));
                failure.push(json!({ "request_range": { "key": key } }));
            }
            match &step.write {
                Write::Keep => {}
                Write::Put(value) => {
                    let value = BASE64.encode(value);
                    success.push(json!({ "request_put": { "key": key, "value": value } }));
                }
                Write::Delete => {
                    success.push(json!({ "request_delete_range": { "key": key } }));
                }
            }
        }
        let body = json!({ "compare": compare, "success": success, "failure": failure });
        let compared = || {
            let compared = steps.iter().filter(|step| step.expect != Expect::Anything);
            compared.map(|step| step.path.as_str())
        };
        match self.call::<TxnReply>("/v3/kv/txn", &body, false, until) {
            Ok(reply) if reply.succeeded => Ok(Commit::Done),
            Ok(reply) => self
                .truths(compared(), reply.responses)
                .map(Commit::Conflict)
                .map_err(|trouble| self.unavailable("commit to", trouble)),
            Err(Trouble::Unknown(why)) => Ok(Commit::Lost(StoreError::Unanswered {
                doing: "commit to".to_owned(),
                place: self.place(),
                source: why.into(),
            })),
            Err(undone) => Err(self.unavailable("commit to", undone)),
        }
    }
}
