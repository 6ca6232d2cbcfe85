//! etcd, by the JSON gateway of its v3 API.
//!
//! Owns: how paths and values are written there, transactions, when a user's token is got anew. Does not
//! own: the connection (`http`), where a token is kept (`token`), what else is (`cas`).
//! Invariant: a transaction that fails tries the next one, and answers with all compared records if none
//! is left, in the same trip: a lost race costs no further look.
//!
//! The gateway leaves out what is false, 0 or empty, and writes 64-bit numbers as text.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::http::{Client, Failure, Reply, Request, Secret};
use super::login::TokenFile;
use super::{Commit, Conflict, Entries, Entry, Expect, KeyRange, Operation, Server, Write};
use crate::error::StoreError;
use crate::model::Etcd as Spec;

/// Operations of one transaction (`--max-txn-ops`), those of nested ones included.
const MAX_OPERATIONS: usize = 128;
/// Nested transactions, far below what the server takes (42).
const MAX_CANDIDATES: usize = 16;
/// Records of one answer of a listing.
const PAGE: usize = 4096;
/// gRPC's code for a caller whom the server does not know, or no longer.
const UNAUTHENTICATED: u64 = 16;
/// How often a look in several steps is begun: its revision may be compacted away meanwhile.
const MAX_READS: usize = 4;
/// What the server says of such a revision.
const COMPACTED: &str = "required revision has been compacted";
/// What the server says of a token from before users or roles were changed (JWT).
const OUTDATED: &str = "auth store is old";

/// A client of one store on one cluster.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    prefix: String,
    login: Option<Login>,
    /// Got for the login; the server forgets it after a while.
    token: RefCell<Option<Secret>>,
    /// The last one that the server refused.
    refused: RefCell<Option<Secret>>,
}

#[derive(Debug)]
struct Login {
    user: String,
    password: Secret,
    kept: TokenFile,
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
    /// Empty: none.
    count: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TxnReply {
    header: Header,
    succeeded: bool,
    responses: Vec<OneReply>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OneReply {
    response_range: Option<RangeReply>,
    response_txn: Option<TxnReply>,
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
    /// The same: what was looked at is no longer kept.
    Compacted(String),
    /// Something may have been done.
    Unknown(String),
}

impl Etcd {
    /// A client; reads files, connects nowhere.
    pub fn new(spec: &Spec) -> Result<Etcd, StoreError> {
        let servers = &spec.servers;
        let login = match &spec.login {
            Some((user, file)) => Some(Login {
                user: user.clone(),
                password: Secret::read(file)?,
                kept: TokenFile::new(&servers.notes, &servers.endpoints, user),
            }),
            None => None,
        };
        Ok(Etcd {
            client: Client::new(servers)?,
            prefix: format!("{}/", servers.prefix),
            login,
            token: RefCell::new(None),
            refused: RefCell::new(None),
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

    /// The first key behind all that begin with this prefix: "0" follows the slash that it ends in.
    fn behind(&self, prefix: &str) -> String {
        self.key(&format!("{}0", prefix.trim_end_matches('/')))
    }

    /// One call. A token that the server no longer knows is renewed: a call that is refused for it has
    /// done nothing.
    fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        repeatable: bool,
        until: Instant,
    ) -> Result<T, Trouble> {
        let undone = |e: serde_json::Error| Trouble::Undone(e.to_string());
        let body = serde_json::to_vec(body).map_err(undone)?;
        // With the token that was kept, with what another process keeps by now, with a new one.
        for more in [true, true, false] {
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
            let stale = reply.status == 401
                || refusal.code == UNAUTHENTICATED
                || refusal.error.contains(OUTDATED);
            if stale && more && self.login.is_some() {
                *self.refused.borrow_mut() = self.token.borrow_mut().take();
                continue;
            }
            return Err(refused(&reply, &refusal));
        }
        Err(Trouble::Undone("the token is refused as soon as it is given".to_owned()))
    }

    fn log_in(&self, until: Instant) -> Result<(), Trouble> {
        let Some(login) = self.login.as_ref().filter(|_| self.token.borrow().is_none()) else {
            return Ok(());
        };
        if let Some(kept) = login.kept.read()
            && self.refused.borrow().as_ref() != Some(&kept)
        {
            *self.token.borrow_mut() = Some(kept);
            return Ok(());
        }
        let body = json!({ "name": login.user, "password": login.password.expose() }).to_string();
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
            let why = |why: String| why.replace(login.password.expose(), "(password)");
            // Whatever answers there may repeat what it was told.
            return Err(match refused(&reply, &refusal) {
                Trouble::Unknown(text) => Trouble::Unknown(why(text)),
                Trouble::Undone(text) | Trouble::Compacted(text) => Trouble::Undone(why(text)),
            });
        }
        // What is wrong with it is not told: it may be a token.
        let Token { token } = parse(&reply).map_err(|_| malformed())?;
        let token = Secret::parse(&token).ok_or_else(malformed)?;
        // Where it cannot be kept, the next process logs in again.
        let _ = login.kept.write(&token);
        *self.token.borrow_mut() = Some(token);
        Ok(())
    }

    fn send(&self, request: Request<'_>, until: Instant) -> Result<Reply, Trouble> {
        self.client.send(request, until).map_err(|failure| match failure {
            Failure::Unsent(why) => Trouble::Undone(why),
            Failure::Unanswered(why) => Trouble::Unknown(why),
        })
    }

    fn read_of(&self, path: &str) -> Value {
        json!({ "request_range": { "key": self.key(path) } })
    }

    /// What these steps compare and write, and what is to be done instead.
    fn transaction(&self, operations: &[Operation], failure: &Value) -> Value {
        let mut compare = Vec::new();
        let mut success = Vec::new();
        for operation in operations {
            let key = self.key(&operation.path);
            let version = match operation.expect {
                Expect::Anything => None,
                Expect::Absent => Some(("EQUAL", 0)),
                Expect::Present => Some(("GREATER", 0)),
                Expect::Version(version) => Some(("EQUAL", version)),
            };
            if let Some((result, version)) = version {
                compare.push(json!({
                    "key": key, "target": "MOD", "result": result,
                    "mod_revision": version.to_string(),
                }));
            }
            match &operation.write {
                Write::Keep => {}
                Write::Put(value) => {
                    let value = BASE64.encode(value);
                    success.push(json!({ "request_put": { "key": key, "value": value } }));
                }
                Write::Delete => {
                    success.push(json!({ "request_delete_range": { "key": key } }));
                }
                Write::DeleteTree => {
                    let end = self.behind(&operation.path);
                    success
                        .push(json!({ "request_delete_range": { "key": key, "range_end": end } }));
                }
            }
        }
        json!({ "compare": compare, "success": success, "failure": failure })
    }

    fn unavailable(&self, doing: &str, trouble: Trouble) -> StoreError {
        let (Trouble::Undone(why) | Trouble::Compacted(why) | Trouble::Unknown(why)) = trouble;
        StoreError::Unavailable { doing: doing.to_owned(), place: self.place(), source: why.into() }
    }

    /// A look in several steps, all as of one moment: begun anew if that moment is compacted away.
    fn at_one_moment<T>(
        &self,
        doing: &str,
        look: impl Fn() -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let mut found = look();
        for _ in 1..MAX_READS {
            if !matches!(found, Err(Trouble::Compacted(_))) {
                break;
            }
            found = look();
        }
        found.map_err(|trouble| self.unavailable(doing, trouble))
    }

    /// A commit that may have happened.
    fn lost(&self, why: String) -> Commit {
        let (doing, place) = ("commit to".to_owned(), self.place());
        Commit::Unknown(StoreError::Unanswered { doing, place, source: why.into() })
    }

    /// What the ranges of a transaction found, of just these paths.
    fn entries<'p>(
        &self,
        paths: impl Iterator<Item = &'p str>,
        replies: Vec<OneReply>,
    ) -> Result<Entries, Trouble> {
        let paths: Vec<&str> = paths.collect();
        // "Not there" is said by an answer without a record, never by no answer.
        if replies.len() != paths.len() {
            return Err(malformed());
        }
        let mut entries = Entries::new();
        for (path, reply) in paths.into_iter().zip(replies) {
            let kvs = reply.response_range.ok_or_else(malformed)?.kvs;
            let found = kvs.first().map(|kv| self.entry(kv)).transpose()?;
            if found.as_ref().is_some_and(|(of, _)| of != path) {
                return Err(malformed());
            }
            entries.insert(path.to_owned(), found.map(|(_, entry)| entry));
        }
        Ok(entries)
    }

    fn entry(&self, kv: &Kv) -> Result<(String, Entry), Trouble> {
        let key = BASE64.decode(&kv.key).ok().and_then(|key| String::from_utf8(key).ok());
        let path =
            key.as_deref().and_then(|key| key.strip_prefix(&self.prefix)).ok_or_else(malformed)?;
        let version = kv.mod_revision.parse().map_err(|_| malformed())?;
        let value = BASE64.decode(&kv.value).map_err(|_| malformed())?;
        Ok((path.to_owned(), Entry { version, value }))
    }
}

fn malformed() -> Trouble {
    Trouble::Unknown("an answer that makes no sense".to_owned())
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, Trouble> {
    serde_json::from_slice(&reply.body)
        .map_err(|e| Trouble::Unknown(format!("an answer that is not etcd's: {e}")))
}

/// What a status other than 200 means: the request was looked at and turned down, or it may be carried
/// out yet.
fn refused(reply: &Reply, refusal: &Refusal) -> Trouble {
    let why = if refusal.error.is_empty() { reply.text() } else { refusal.error.trim().to_owned() };
    let why = format!("{} {why}", reply.status);
    match reply.is_rejected() {
        true if why.contains(COMPACTED) => Trouble::Compacted(why),
        true => Trouble::Undone(why),
        false => Trouble::Unknown(why),
    }
}

impl Server for Etcd {
    fn place(&self) -> String {
        format!("etcd at {}", self.client.place())
    }

    fn max_operations(&self) -> usize {
        MAX_OPERATIONS
    }

    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        let success: Vec<Value> = paths.iter().map(|path| self.read_of(path)).collect();
        self.call::<TxnReply>("/v3/kv/txn", &json!({ "success": success }), true, until)
            .and_then(|reply| self.entries(paths.iter().copied(), reply.responses))
            .map_err(|trouble| self.unavailable("read from", trouble))
    }

    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        let read = || {
            let mut found = BTreeMap::new();
            let mut from = self.key(prefix);
            let end = self.behind(prefix);
            // The first page's; those behind it tell which is the newest by then.
            let mut revision = None;
            loop {
                let body = json!({
                    "key": from, "range_end": end, "limit": PAGE.to_string(),
                    "revision": revision.as_deref().unwrap_or("0"),
                });
                let page: RangeReply = self.call("/v3/kv/range", &body, true, until)?;
                if page.header.revision.is_empty() {
                    return Err(malformed());
                }
                for kv in &page.kvs {
                    let (path, entry) = self.entry(kv)?;
                    found.insert(path, entry);
                }
                match found.last_key_value() {
                    // The smallest key behind the last one.
                    Some((last, _)) if page.more => from = self.key(&format!("{last}\0")),
                    _ => return Ok(found),
                }
                revision.get_or_insert(page.header.revision);
            }
        };
        self.at_one_moment("list the leases of", read)
    }

    fn count(&self, _: &str, windows: &[KeyRange], until: Instant) -> Result<Vec<u64>, StoreError> {
        let read = || {
            let mut counts = Vec::new();
            let mut revision = None::<String>;
            for some in windows.chunks(MAX_OPERATIONS) {
                let one = |window: &KeyRange| {
                    // The smallest key behind the last one.
                    let end = self.key(&format!("{}\0", window.last));
                    json!({ "request_range": {
                        "key": self.key(&window.first), "range_end": end,
                        "count_only": true, "revision": revision.as_deref().unwrap_or("0"),
                    } })
                };
                let success: Vec<Value> = some.iter().map(one).collect();
                let reply: TxnReply =
                    self.call("/v3/kv/txn", &json!({ "success": success }), true, until)?;
                for found in reply.responses.into_iter().filter_map(|r| r.response_range) {
                    counts.push(if found.count.is_empty() { Ok(0) } else { found.count.parse() });
                }
                revision.get_or_insert(reply.header.revision);
            }
            let counts: Vec<u64> = counts.into_iter().flatten().collect();
            if counts.len() == windows.len() { Ok(counts) } else { Err(malformed()) }
        };
        self.at_one_moment("count the leases of", read)
    }

    fn max_candidates(&self) -> usize {
        MAX_CANDIDATES
    }

    fn commit(&self, tries: &[&[Operation]], until: Instant) -> Result<Commit, StoreError> {
        let operations = tries.iter().flat_map(|operations| operations.iter());
        let compared: BTreeSet<&str> = operations
            .filter(|operation| operation.expect != Expect::Anything)
            .map(|operation| operation.path.as_str())
            .collect();
        let reads: Vec<Value> = compared.iter().map(|path| self.read_of(path)).collect();
        // From the last one outwards.
        let body = tries.iter().rev().fold(None, |inner, operations| {
            let failure = match inner {
                None => json!(reads),
                Some(inner) => json!([{ "request_txn": inner }]),
            };
            Some(self.transaction(operations, &failure))
        });
        let done = self.call::<TxnReply>("/v3/kv/txn", &body, false, until).and_then(|reply| {
            let (depth, reply) = innermost(reply);
            match reply.succeeded {
                true if depth < tries.len() => Ok(Commit::Done(depth)),
                true => Err(malformed()),
                false => self
                    .entries(compared.into_iter(), reply.responses)
                    .map(|entries| Commit::Conflict(Conflict::Current(entries))),
            }
        });
        match done {
            Err(Trouble::Unknown(why)) => Ok(self.lost(why)),
            done => done.map_err(|undone| self.unavailable("commit to", undone)),
        }
    }
}

/// The transaction that happened, or else the last one, and how deep it is nested.
fn innermost(mut reply: TxnReply) -> (usize, TxnReply) {
    let mut depth = 0;
    while !reply.succeeded {
        let Some(inner) = reply.responses.iter_mut().find_map(|r| r.response_txn.take()) else {
            break;
        };
        reply = inner;
        depth += 1;
    }
    (depth, reply)
}
