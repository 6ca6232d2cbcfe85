//! The etcd client. It uses the JSON gateway of etcd's v3 API.
//!
//! This module defines how paths, values and transactions are encoded, and when a login token is renewed.
//! [`super::http`] handles the connection, and [`super::cache`] handles the file with the token.
//! Invariant: if the comparisons of a transaction fail, the response contains all compared records. So a
//! client needs no further round trip to read the current records. The gateway omits fields that are false, 0
//! or empty, and encodes 64-bit numbers as strings.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cache::TokenFile;
use super::http::{Client, Failure, Reply, Request, Secret};
use super::server::{
    Commit, Conflict, Entries, Entry, Expect, KeyRange, Operation, Pages, Server, Write,
};
use crate::error::StoreError;
use crate::model::Etcd as Spec;

/// The maximum number of operations in a transaction (etcd's default for `--max-txn-ops`).
const MAX_OPERATIONS: usize = 128;
/// The number of records in one page of a listing.
const PAGE: usize = 1024;
/// gRPC's status code for an unknown or expired login.
const UNAUTHENTICATED: u64 = 16;
/// etcd's error text for a token that was issued before the last change of users or roles. (etcd sends it
/// only for JWT tokens.)
const OUTDATED: &str = "auth store is old";
/// etcd's error text when its storage quota is used up.
const FULL: &str = "database space exceeded";

/// A client for one store on one etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    prefix: String,
    login: Option<Login>,
    /// The login token that is in use. The token expires after a time that the server chooses.
    token: RefCell<Option<Secret>>,
}

#[derive(Debug)]
struct Login {
    user: String,
    password: Secret,
    file: TokenFile,
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
    /// The number of records. The gateway omits this field if it is 0.
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
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
    code: u64,
}

impl Refusal {
    fn of(reply: &Reply) -> Refusal {
        serde_json::from_slice(&reply.body).unwrap_or_default()
    }
}

impl Etcd {
    /// Makes a client. Reads certificates and secrets from files, but does not connect to a server.
    pub fn new(spec: &Spec) -> Result<Etcd, StoreError> {
        let servers = &spec.servers;
        let login = match &spec.login {
            Some((user, file)) => Some(Login {
                user: user.clone(),
                password: Secret::read(file)?,
                file: TokenFile::new(&servers.notes, &servers.endpoints, user),
            }),
            None => None,
        };
        Ok(Etcd {
            client: Client::new("etcd", None, servers)?,
            prefix: format!("{}/", servers.prefix),
            login,
            token: RefCell::new(None),
        })
    }

    /// Returns the endpoint that the next request tries first.
    #[cfg(test)]
    pub fn asks_first(&self) -> String {
        self.client.asks_first()
    }

    /// Replaces the token with a token that no server has issued.
    #[cfg(test)]
    pub fn forge_token(&self, text: &str) {
        *self.token.borrow_mut() = Some(Secret::new(text.to_owned()));
    }

    fn key(&self, path: &str) -> String {
        BASE64.encode(format!("{}{path}", self.prefix))
    }

    /// Returns the first key after all keys that start with this prefix. The prefix ends in `/`, and the next
    /// character in ASCII is `0`.
    fn prefix_end(&self, prefix: &str) -> String {
        self.key(&format!("{}0", prefix.trim_end_matches('/')))
    }

    /// Returns the first possible key after this key.
    fn key_after(&self, path: &str) -> String {
        self.key(&format!("{path}\0"))
    }

    /// Sends one request. If the server rejects the login token, renews the token and sends the request
    /// again. Sending the request again is safe, because a rejected request has changed nothing.
    fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        retryable: bool,
        until: Instant,
    ) -> Result<T, Failure> {
        let body = body.to_string();
        // Try three tokens: the token in the file, the token that another process may have written to the
        // file since then, and a new token.
        let mut rejected = None;
        for may_renew in [true, true, false] {
            self.log_in(rejected.as_ref(), until)?;
            let token = self.token.borrow().clone();
            let reply = self.post(path, &body, token.as_ref(), retryable, until)?;
            if reply.status == 200 {
                return self.client.parse(&reply);
            }
            let refusal = Refusal::of(&reply);
            let is_stale = reply.status == 401
                || refusal.code == UNAUTHENTICATED
                || refusal.error.contains(OUTDATED);
            if !(is_stale && may_renew && self.login.is_some()) {
                return Err(self.refused(&reply, &refusal));
            }
            rejected = self.token.borrow_mut().take();
        }
        Err(Failure::NotApplied(
            "etcd rejected a token that etcd issued a moment ago; check the clocks and the \
             `--auth-token` setting of the etcd servers"
                .to_owned(),
        ))
    }

    /// Gets a new token, unless a token other than `rejected` is already in use.
    fn log_in(&self, rejected: Option<&Secret>, until: Instant) -> Result<(), Failure> {
        let Some(login) = self.login.as_ref().filter(|_| self.token.borrow().is_none()) else {
            return Ok(());
        };
        // The processes of a node share one login, because each login is slow: the server must hash the
        // password.
        let mut _lock = None;
        for is_locked in [false, true] {
            if let Some(token) = login.file.read()
                && rejected != Some(&token)
            {
                *self.token.borrow_mut() = Some(token);
                return Ok(());
            }
            if !is_locked {
                _lock = login.file.lock(until);
            }
        }
        let body = json!({ "name": login.user, "password": login.password.expose() }).to_string();
        let reply = self.post("/v3/auth/authenticate", &body, None, true, until)?;
        if reply.status != 200 {
            // The response may quote the request, which contains the password.
            let mask = |why: &str| why.replace(login.password.expose(), "(password)");
            return Err(self.refused(&reply, &Refusal::of(&reply)).map(mask));
        }
        // The error must not quote the response, which may contain a token.
        let reply = self.client.parse::<Value>(&reply).ok();
        let token = reply.and_then(|reply| Secret::parse(reply["token"].as_str()?));
        let token = token.ok_or_else(Failure::malformed)?;
        // If the token cannot be stored, the next process logs in again.
        let _ = login.file.write(&token);
        *self.token.borrow_mut() = Some(token);
        Ok(())
    }

    fn post(
        &self,
        path: &str,
        body: &str,
        token: Option<&Secret>,
        retryable: bool,
        until: Instant,
    ) -> Result<Reply, Failure> {
        let secret = token.map(|token| ("authorization", token));
        let body = body.as_bytes();
        self.client.send(Request { method: "POST", path, body, secret, retryable }, until)
    }

    fn refused(&self, reply: &Reply, refusal: &Refusal) -> Failure {
        match refusal.error.trim() {
            "" => self.client.failure(reply, &reply.text()),
            error => self.client.failure(reply, error),
        }
    }

    /// Runs these reads on the server in one transaction.
    fn read(&self, success: &[Value], until: Instant) -> Result<TxnReply, Failure> {
        self.call("/v3/kv/txn", &json!({ "success": success }), true, until)
    }

    fn read_of(&self, path: &str) -> Value {
        json!({ "request_range": { "key": self.key(path) } })
    }

    /// Encodes these operations as a transaction. If a comparison fails, the server reads the records at the
    /// paths `compared` instead of writing.
    fn transaction(&self, operations: &[Operation], compared: &[&str]) -> Value {
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
            success.extend(match &operation.write {
                Write::Keep => None,
                Write::Put(value) => {
                    let value = BASE64.encode(value);
                    Some(json!({ "request_put": { "key": key, "value": value } }))
                }
                Write::Delete => Some(json!({ "request_delete_range": { "key": key } })),
            });
        }
        let failure: Vec<Value> = compared.iter().map(|path| self.read_of(path)).collect();
        json!({ "compare": compare, "success": success, "failure": failure })
    }

    /// Returns the records that a transaction read at these paths.
    fn entries(&self, paths: &[&str], replies: Vec<OneReply>) -> Result<Entries, Failure> {
        // For a record that does not exist, the server sends an empty reply. A missing reply is an error.
        if replies.len() != paths.len() {
            return Err(Failure::malformed());
        }
        let mut entries = Entries::new();
        for (path, reply) in paths.iter().zip(replies) {
            let kvs = reply.response_range.ok_or_else(Failure::malformed)?.kvs;
            let found = kvs.first().map(|kv| self.entry(kv)).transpose()?;
            if found.as_ref().is_some_and(|(of, _)| of != path) {
                return Err(Failure::malformed());
            }
            entries.insert((*path).to_owned(), found.map(|(_, entry)| entry));
        }
        Ok(entries)
    }

    fn entry(&self, kv: &Kv) -> Result<(String, Entry), Failure> {
        let read = || {
            let key = String::from_utf8(BASE64.decode(&kv.key).ok()?).ok()?;
            let path = key.strip_prefix(&self.prefix)?.to_owned();
            let version = kv.mod_revision.parse().ok()?;
            Some((path, Entry { version, value: BASE64.decode(&kv.value).ok()? }))
        };
        read().ok_or_else(Failure::malformed)
    }
}

impl Server for Etcd {
    fn place(&self) -> String {
        self.client.place()
    }

    fn max_operations(&self) -> usize {
        MAX_OPERATIONS
    }

    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        let reads: Vec<Value> = paths.iter().map(|path| self.read_of(path)).collect();
        self.read(&reads, until)
            .and_then(|reply| self.entries(paths, reply.responses))
            .map_err(|failure| self.client.unavailable("read from", failure))
    }

    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        let pages: Vec<_> = self.pages(prefix, until).collect::<Result<_, _>>()?;
        Ok(pages.into_iter().flatten().collect())
    }

    fn pages(&self, prefix: &str, until: Instant) -> Pages<'_> {
        let (mut from, end) = (Some(self.key(prefix)), self.prefix_end(prefix));
        Box::new(std::iter::from_fn(move || {
            let body = json!({ "key": from.take()?, "range_end": end, "limit": PAGE.to_string() });
            let page: Result<RangeReply, _> = self.call("/v3/kv/range", &body, true, until);
            let page = page.and_then(|page| {
                if page.header.revision.is_empty() {
                    return Err(Failure::malformed());
                }
                let found: Vec<_> =
                    page.kvs.iter().map(|kv| self.entry(kv)).collect::<Result<_, _>>()?;
                from = found.last().filter(|_| page.more).map(|(path, _)| self.key_after(path));
                Ok(found)
            });
            Some(page.map_err(|failure| self.client.unavailable("list the leases in", failure)))
        }))
    }

    fn count(&self, _: &str, ranges: &[KeyRange], until: Instant) -> Result<Vec<u64>, StoreError> {
        let one = |range: &KeyRange| {
            json!({ "request_range": {
                "key": self.key(&range.first), "range_end": self.key_after(&range.last),
                "count_only": true,
            } })
        };
        let count = |reply: OneReply| match reply.response_range?.count.as_str() {
            "" => Some(0),
            count => count.parse().ok(),
        };
        let mut counts = Vec::new();
        for some in ranges.chunks(MAX_OPERATIONS) {
            let reply = self.read(&some.iter().map(one).collect::<Vec<_>>(), until);
            let found = reply.and_then(|reply| {
                let found: Option<Vec<u64>> = reply.responses.into_iter().map(count).collect();
                found.filter(|found| found.len() == some.len()).ok_or_else(Failure::malformed)
            });
            counts.extend(
                found.map_err(|failure| self.client.unavailable("count the leases in", failure))?,
            );
        }
        Ok(counts)
    }

    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError> {
        let compared = operations.iter().filter(|operation| operation.expect != Expect::Anything);
        let compared: Vec<&str> = compared.map(|operation| operation.path.as_str()).collect();
        let body = self.transaction(operations, &compared);
        let reply = self.call::<TxnReply>("/v3/kv/txn", &body, false, until);
        match reply {
            Err(Failure::NotApplied(why)) if why.contains(FULL) => {
                let full = Failure::NotApplied(why);
                Ok(Commit::Full(self.client.unavailable("write to", full)))
            }
            reply => self.client.committed(reply.and_then(|reply| {
                let version = reply.header.revision.parse();
                match (reply.succeeded, version) {
                    (true, Ok(version)) => Ok(Commit::Done(version)),
                    (true, Err(_)) => Err(Failure::malformed()),
                    (false, _) => self
                        .entries(&compared, reply.responses)
                        .map(|entries| Commit::Conflict(Conflict::Current(entries))),
                }
            })),
        }
    }
}
