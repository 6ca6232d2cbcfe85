//! Consul, by its transactions over HTTP.
//!
//! Owns: how steps become operations, and what a rollback means. Does not own: the connection
//! (`http`), what is kept (`cas`).
//! Invariant: "not allowed" is never read as "not there". Consul hides from a reader what its token
//! may not see, so each look carries a comparison that a token without rights cannot make: it fails
//! instead of finding nothing. Counting does not: it can only find too little, and then a look follows.

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::http::{Client, Failure, Reply, Request, Secret};
use super::{Commit, Conflict, Entries, Entry, Expect, KeyRange, Operation, Server, Write};
use crate::error::StoreError;
use crate::model::{Consul as Spec, NetworkName};
use crate::store::OldKey;
use crate::sys::percent;

/// Operations of one transaction, less the probe of a look.
const MAX_OPERATIONS: usize = 63;

/// Never written; asking whether it is absent needs the same right as writing.
const PROBE: &str = "probe";

/// What a server says of a data centre that it does not know; nothing was done.
const NO_SUCH_DC: &str = "No path to datacenter";

/// A client of one store in one data centre.
#[derive(Debug)]
pub struct Consul {
    client: Client,
    prefix: String,
    /// Of the data centre.
    query: String,
    token: Option<Secret>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TxnOperation {
    #[serde(rename = "KV")]
    kv: Kv,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

/// Both may be null, and neither is ever left out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnReply {
    #[serde(deserialize_with = "Option::deserialize")]
    results: Option<Vec<Found>>,
    #[serde(deserialize_with = "Option::deserialize")]
    errors: Option<Vec<Failed>>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(rename = "KV")]
    kv: FoundKv,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FoundKv {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    op_index: usize,
    what: String,
}

/// What came of a transaction.
enum Answer {
    Committed(TxnReply),
    /// These operations failed, and all are comparisons that did not hold.
    Stale(Vec<usize>),
    Undone(String),
    Unknown(String),
}

impl Consul {
    /// A client; reads files, connects nowhere.
    pub fn new(spec: &Spec) -> Result<Consul, StoreError> {
        let dc =
            spec.dc.as_ref().map(|dc| format!("&dc={}", percent::encode(dc))).unwrap_or_default();
        Ok(Consul {
            client: Client::new(&spec.servers)?,
            prefix: format!("{}/", spec.servers.prefix),
            query: dc,
            token: spec.token.as_deref().map(Secret::read).transpose()?,
        })
    }

    fn operation(&self, verb: &'static str, path: &str) -> TxnOperation {
        on(verb, format!("{}{path}", self.prefix))
    }

    /// The operation that a step is; none if it neither expects nor writes anything.
    fn operation_of(&self, operation: &Operation) -> Option<TxnOperation> {
        let (verb, index) = match (&operation.write, operation.expect) {
            (Write::Keep, Expect::Anything) => return None,
            (Write::Keep | Write::Delete, Expect::Absent) => ("check-not-exists", None),
            (Write::Keep, Expect::Version(version)) => ("check-index", Some(version)),
            // Of what is not there it fails.
            (Write::Keep, Expect::Present) => ("get", None),
            (Write::Put(_), Expect::Anything | Expect::Present) => ("set", None),
            (Write::Put(_), Expect::Absent) => ("cas", Some(0)),
            (Write::Put(_), Expect::Version(version)) => ("cas", Some(version)),
            (Write::Delete, Expect::Anything | Expect::Present) => ("delete", None),
            (Write::DeleteTree, _) => ("delete-tree", None),
            // Of what is gone already it succeeds: as good as deleted by us.
            (Write::Delete, Expect::Version(version)) => ("delete-cas", Some(version)),
        };
        let mut made = self.operation(verb, &operation.path);
        made.kv.index = index;
        if let Write::Put(value) = &operation.write {
            made.kv.value = Some(BASE64.encode(value));
        }
        Some(made)
    }

    fn transact(&self, operations: &[TxnOperation], repeatable: bool, until: Instant) -> Answer {
        let body = match serde_json::to_vec(operations) {
            Ok(body) => body,
            Err(e) => return Answer::Undone(e.to_string()),
        };
        // Every look asks the leader, who makes sure that it is one.
        let path = format!("/v1/txn?consistent{}", self.query);
        match self.client.send(self.request(&path, &body, repeatable), until) {
            Ok(reply) => understand(&reply),
            Err(Failure::Unsent(why)) => Answer::Undone(why),
            Err(Failure::Unanswered(why)) => Answer::Unknown(why),
        }
    }

    fn unavailable(&self, doing: &str, why: String) -> StoreError {
        StoreError::Unavailable { doing: doing.to_owned(), place: self.place(), source: why.into() }
    }

    /// The paths below a folder, in order, without their values: of 65,536 leases a megabyte instead of
    /// thirty.
    fn names(&self, folder: &str, until: Instant) -> Result<Vec<String>, String> {
        // The percent signs of names are their own.
        let folder = folder.replace('%', "%25");
        let path = format!("/v1/kv/{}{folder}?keys&consistent{}", self.prefix, self.query);
        let request = Request { method: "GET", ..self.request(&path, &[], true) };
        let reply = match self.client.send(request, until) {
            Ok(reply) => reply,
            Err(Failure::Unsent(why) | Failure::Unanswered(why)) => return Err(why),
        };
        // There is nothing, or nothing that we may see.
        if reply.status == 404 {
            return Ok(Vec::new());
        }
        if reply.status != 200 {
            return Err(format!("{} {}", reply.status, reply.text()));
        }
        let names: Vec<String> = serde_json::from_slice(&reply.body)
            .map_err(|e| format!("an answer that is not Consul's: {e}"))?;
        let mut names: Vec<String> = names
            .into_iter()
            .filter_map(|name| name.strip_prefix(&self.prefix).map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn request<'a>(&'a self, path: &'a str, body: &'a [u8], repeatable: bool) -> Request<'a> {
        Request {
            method: "PUT",
            path,
            body,
            secret: self.token.as_ref().map(|token| ("x-consul-token", token)),
            repeatable,
            hopeless: NO_SUCH_DC,
        }
    }

    /// Every record whose path begins with one of these.
    fn trees(
        &self,
        doing: &str,
        prefixes: &[&str],
        until: Instant,
    ) -> Result<BTreeMap<String, Entry>, StoreError> {
        let mut operations = vec![self.operation("check-not-exists", PROBE)];
        operations.extend(prefixes.iter().map(|prefix| self.operation("get-tree", prefix)));
        let results = match self.transact(&operations, true, until) {
            Answer::Committed(reply) => reply.results.unwrap_or_default(),
            Answer::Stale(_) => {
                return Err(self.unavailable(doing, format!("{}{PROBE} exists", self.prefix)));
            }
            Answer::Undone(why) | Answer::Unknown(why) => return Err(self.unavailable(doing, why)),
        };
        let mut found = BTreeMap::new();
        for Found { kv } in results {
            let value = BASE64.decode(kv.value.unwrap_or_default());
            let path = kv.key.strip_prefix(&self.prefix).map(str::to_owned);
            let (Ok(value), Some(path)) = (value, path) else {
                return Err(self.unavailable(doing, "an answer that makes no sense".to_owned()));
            };
            found.insert(path, Entry { version: kv.modify_index, value });
        }
        Ok(found)
    }
}

/// What a counting look was for, in messages.
const COUNT: &str = "count the leases of";

/// An operation on a key, without a value.
fn on(verb: &'static str, key: String) -> TxnOperation {
    TxnOperation { kv: Kv { verb, key, value: None, index: None } }
}

/// A rollback tells each operation that failed, in words. Those of comparisons are known; any other
/// (no right, a broken request) must not be taken for one.
fn understand(reply: &Reply) -> Answer {
    const COMPARISONS: [&str; 4] =
        ["index is stale", "doesn't exist", " exists", "current modify index"];
    let parsed = serde_json::from_slice::<TxnReply>(&reply.body);
    match (reply.status, parsed) {
        (200, Ok(done)) => Answer::Committed(done),
        (200, Err(e)) => Answer::Unknown(format!("an answer that is not Consul's: {e}")),
        (409, Ok(TxnReply { errors: Some(errors), .. })) if !errors.is_empty() => {
            let known = |what: &str| COMPARISONS.iter().any(|text| what.contains(text));
            match errors.iter().find(|failed| !known(&failed.what)) {
                None => Answer::Stale(errors.iter().map(|failed| failed.op_index).collect()),
                Some(failed) => Answer::Undone(failed.what.clone()),
            }
        }
        (status, _) if reply.is_rejected() || reply.text().contains(NO_SUCH_DC) => {
            Answer::Undone(format!("{status} {}", reply.text()))
        }
        (status, _) => Answer::Unknown(format!("{status} {}", reply.text())),
    }
}

impl Server for Consul {
    fn place(&self) -> String {
        format!("Consul at {}", self.client.place())
    }

    fn max_operations(&self) -> usize {
        MAX_OPERATIONS
    }

    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        // A "get" of what is absent rolls back; the tree below a whole path holds it, and perhaps a
        // few whose names begin with the same letters.
        let mut found = self.trees("read from", paths, until)?;
        Ok(paths.iter().map(|path| ((*path).to_owned(), found.remove(*path))).collect())
    }

    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        self.trees("list the leases of", &[prefix], until)
    }

    fn old_keys(&self, network: &NetworkName, until: Instant) -> Result<Vec<OldKey>, StoreError> {
        let doing = "look for cni-ipam-consul's keys in";
        let operations = [("check-not-exists", PROBE), ("get-tree", "")]
            .map(|(verb, path)| on(verb, format!("{network}/{path}")));
        let results = match self.transact(&operations, true, until) {
            Answer::Committed(reply) => reply.results.unwrap_or_default(),
            Answer::Stale(_) => {
                return Err(self.unavailable(doing, format!("{network}/{PROBE} exists")));
            }
            Answer::Undone(why) | Answer::Unknown(why) => {
                let why = format!(
                    "{why}; a token needs key_prefix \"{network}/\" {{ policy = \"write\" }} until \
                     these keys are taken over"
                );
                return Err(self.unavailable(doing, why));
            }
        };
        let read =
            |Found { kv }: Found| Some((kv.key, BASE64.decode(kv.value.unwrap_or_default()).ok()?));
        let keys: Option<Vec<OldKey>> = results.into_iter().map(read).collect();
        let senseless = || self.unavailable(doing, "an answer that makes no sense".to_owned());
        keys.ok_or_else(senseless)
    }

    fn count(
        &self,
        folder: &str,
        windows: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        let names = self.names(folder, until).map_err(|why| self.unavailable(COUNT, why))?;
        let one = |window: &KeyRange| {
            let (first, last) = (window.first.as_str(), window.last.as_str());
            let before = |end: &str| names.partition_point(|name| name.as_str() < end);
            let last = names.partition_point(|name| name.as_str() <= last);
            last.saturating_sub(before(first)) as u64
        };
        Ok(windows.iter().map(one).collect())
    }

    /// Consul has no other branch: which comparison failed is all that a transaction tells.
    fn max_candidates(&self) -> usize {
        1
    }

    fn commit(&self, tries: &[&[Operation]], until: Instant) -> Result<Commit, StoreError> {
        let operations: Vec<(&str, TxnOperation)> = tries
            .iter()
            .take(1)
            .flat_map(|operations| operations.iter())
            .filter_map(|s| Some((&*s.path, self.operation_of(s)?)))
            .collect();
        let (paths, operations): (Vec<&str>, Vec<TxnOperation>) = operations.into_iter().unzip();
        match self.transact(&operations, false, until) {
            Answer::Committed(_) => Ok(Commit::Done(0)),
            Answer::Stale(failed) => {
                let paths = failed.into_iter().filter_map(|at| paths.get(at));
                Ok(Commit::Conflict(Conflict::Stale(paths.map(|p| (*p).to_owned()).collect())))
            }
            Answer::Undone(why) => Err(self.unavailable("commit to", why)),
            Answer::Unknown(why) => Ok(Commit::Unknown(StoreError::Unanswered {
                doing: "commit to".to_owned(),
                place: self.place(),
                source: why.into(),
            })),
        }
    }
}
