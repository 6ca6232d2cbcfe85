//! The Consul client. It uses the transactions of Consul's KV store.
//!
//! This module translates operations into Consul's operations, and interprets Consul's rollbacks.
//! [`super::http`] handles the connection.
//! Invariant: a record that the token may not read never counts as absent. Consul hides such records.
//! Therefore each read also makes a comparison that needs write permission. Without that permission, the read
//! fails instead of reporting the records as absent. A count makes no such comparison, so its result may be
//! too low; but a read always follows a count.

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Client, Failure, Reply, Request, Secret};
use super::server::{
    Commit, Conflict, Entries, Entry, Expect, KeyRange, Operation, Pages, Server, Write,
};
use crate::error::StoreError;
use crate::model::{Consul as Spec, NetworkName};
use crate::store::OldKey;
use crate::sys::percent;

/// The maximum number of operations in a transaction. Consul allows 64, and each read needs one of them for
/// [`PROBE`].
const MAX_OPERATIONS: usize = 63;

/// The approximate number of records in one page of a listing.
const PAGE: usize = 1024;

/// A key that sublet never writes. Each read compares this key, because a comparison needs write permission.
/// Without that permission, Consul would hide the records instead of reporting an error.
const PROBE: &str = "probe";

/// Consul's error text for an unknown data center. A request that fails with this text has changed nothing.
const NO_SUCH_DC: &str = "No path to datacenter";

/// A client for one store (a key prefix) in one data center.
#[derive(Debug)]
pub struct Consul {
    client: Client,
    prefix: String,
    /// The query parameter that selects the data center, or an empty string.
    dc: String,
    token: Option<Secret>,
}

/// The response to a transaction. Consul always sends both fields, and either may be null.
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

/// The outcome of a transaction.
enum Answer {
    Committed(Vec<Found>),
    /// The indexes of the operations that failed. They are all comparisons.
    Stale(Vec<usize>),
}

impl Consul {
    /// Makes a client. Reads certificates and secrets from files, but does not connect to a server.
    pub fn new(spec: &Spec) -> Result<Consul, StoreError> {
        let dc =
            spec.dc.as_ref().map(|dc| format!("&dc={}", percent::encode(dc))).unwrap_or_default();
        Ok(Consul {
            client: Client::new("Consul", Some(NO_SUCH_DC), &spec.servers)?,
            prefix: format!("{}/", spec.servers.prefix),
            dc,
            token: spec.token.as_deref().map(Secret::read).transpose()?,
        })
    }

    /// Encodes an operation for Consul. Returns `None` if the operation neither compares nor writes.
    fn txn_operation(&self, operation: &Operation) -> Option<Value> {
        let (verb, index) = match (&operation.write, operation.expect) {
            (Write::Keep, Expect::Anything) => return None,
            (Write::Keep | Write::Delete, Expect::Absent) => ("check-not-exists", None),
            (Write::Keep, Expect::Version(version)) => ("check-index", Some(version)),
            // "get" fails if the key is absent.
            (Write::Keep, Expect::Present) => ("get", None),
            (Write::Put(_), Expect::Anything | Expect::Present) => ("set", None),
            (Write::Put(_), Expect::Absent) => ("cas", Some(0)),
            (Write::Put(_), Expect::Version(version)) => ("cas", Some(version)),
            (Write::Delete, Expect::Anything | Expect::Present) => ("delete", None),
            // "delete-cas" also succeeds if the key is absent, which has the same effect.
            (Write::Delete, Expect::Version(version)) => ("delete-cas", Some(version)),
        };
        let mut made = kv(verb, &self.prefix, &operation.path);
        if let Some(index) = index {
            made["KV"]["Index"] = json!(index);
        }
        if let Write::Put(value) = &operation.write {
            made["KV"]["Value"] = json!(BASE64.encode(value));
        }
        Some(made)
    }

    fn transact(
        &self,
        operations: &[Value],
        retryable: bool,
        until: Instant,
    ) -> Result<Answer, Failure> {
        let body = json!(operations).to_string();
        // With `consistent`, the leader first confirms that it is still the leader.
        let path = format!("/v1/txn?consistent{}", self.dc);
        let reply = self.client.send(self.request(&path, body.as_bytes(), retryable), until)?;
        self.answer(&reply)
    }

    /// Interprets the response to a transaction. If Consul has rolled the transaction back, the response
    /// describes each failed operation in words. Only the known texts of failed comparisons mean a conflict.
    /// Any other text (missing permission, an invalid request) is a failure.
    fn answer(&self, reply: &Reply) -> Result<Answer, Failure> {
        const COMPARISONS: [&str; 4] =
            ["index is stale", "doesn't exist", " exists", "current modify index"];
        if reply.status == 200 {
            let done: TxnReply = self.client.parse(reply)?;
            return Ok(Answer::Committed(done.results.unwrap_or_default()));
        }
        let errors = self.client.parse::<TxnReply>(reply).ok().and_then(|reply| reply.errors);
        match errors.unwrap_or_default() {
            errors if reply.status == 409 && !errors.is_empty() => {
                let is_known = |error: &Failed| COMPARISONS.iter().any(|t| error.what.contains(t));
                match errors.iter().find(|error| !is_known(error)) {
                    Some(other) => Err(Failure::NotApplied(other.what.clone())),
                    None => Ok(Answer::Stale(errors.iter().map(|error| error.op_index).collect())),
                }
            }
            _ => Err(self.client.failure(reply, &reply.text())),
        }
    }

    /// Returns the paths below a folder, sorted. Does not request the values, because they are much longer:
    /// the paths of 65,536 leases take one megabyte, and the paths and values take thirty.
    fn names(&self, folder: &str, until: Instant) -> Result<Vec<String>, Failure> {
        // Consul decodes the URL, and a path may contain a percent sign, so escape it.
        let folder = folder.replace('%', "%25");
        let reply = self.read(&format!("{folder}?keys&consistent"), until)?;
        let names: Vec<String> = match reply.status {
            200 => self.client.parse(&reply)?,
            // There is no key that the token may read.
            404 if reply.body.is_empty() => return Ok(Vec::new()),
            _ => return Err(self.client.failure(&reply, &reply.text())),
        };
        let paths = names.iter().map(|name| name.strip_prefix(&self.prefix).map(str::to_owned));
        let paths: Option<Vec<String>> = paths.collect();
        let paths = paths.filter(|paths| !paths.is_empty());
        let mut paths = paths.ok_or_else(Failure::malformed)?;
        paths.sort_unstable();
        Ok(paths)
    }

    /// Fails if the token may not read the records of the store. Without this check, the store would look
    /// empty, because Consul hides records that a token may not read.
    fn check_read(&self, until: Instant) -> Result<(), Failure> {
        let reply = self.read(&format!("{PROBE}?consistent"), until)?;
        match reply.status {
            404 if reply.body.is_empty() => Ok(()),
            _ => Err(self.client.failure(&reply, &reply.text())),
        }
    }

    /// Sends a GET for this path and query.
    fn read(&self, path: &str, until: Instant) -> Result<Reply, Failure> {
        let path = format!("/v1/kv/{}{path}{}", self.prefix, self.dc);
        self.client.send(Request { method: "GET", ..self.request(&path, &[], true) }, until)
    }

    fn request<'a>(&'a self, path: &'a str, body: &'a [u8], retryable: bool) -> Request<'a> {
        let secret = self.token.as_ref().map(|token| ("x-consul-token", token));
        Request { method: "PUT", path, body, secret, retryable }
    }

    /// Returns the records below `folder` whose paths, relative to `folder`, start with one of `prefixes`.
    /// The result is ordered by relative path.
    fn trees(
        &self,
        folder: &str,
        prefixes: &[&str],
        until: Instant,
    ) -> Result<BTreeMap<String, Entry>, Failure> {
        let trees = prefixes.iter().map(|prefix| kv("get-tree", folder, prefix));
        let probe = kv("check-not-exists", folder, PROBE);
        let operations: Vec<Value> = std::iter::once(probe).chain(trees).collect();
        self.found(folder, &operations, until)
    }

    /// Runs these operations, and returns the records that they read, by path relative to `folder`.
    fn found(
        &self,
        folder: &str,
        operations: &[Value],
        until: Instant,
    ) -> Result<BTreeMap<String, Entry>, Failure> {
        let Answer::Committed(found) = self.transact(operations, true, until)? else {
            return Err(Failure::NotApplied(format!("{folder}{PROBE} exists")));
        };
        let read = |Found { kv }: Found| {
            let value = BASE64.decode(kv.value.unwrap_or_default()).ok()?;
            let path = kv.key.strip_prefix(folder)?.to_owned();
            Some((path, Entry { version: kv.modify_index, value }))
        };
        found.into_iter().map(read).collect::<Option<_>>().ok_or_else(Failure::malformed)
    }
}

/// Returns a prefix of the first of these sorted paths, and the number of paths that start with the prefix.
/// One request can then read all these records together.
///
/// The prefix is a folder of three components (a chunk of addresses, or a node's leases in a set). If that
/// folder has more than [`PAGE`] paths, the prefix is longer. The prefix never matches the path `before`,
/// which has already been read.
fn shared_prefix<'a>(before: Option<&String>, paths: &'a [String]) -> (&'a str, usize) {
    let Some(first) = paths.first() else { return ("", 0) };
    let folder = first.match_indices('/').take(3).last().map_or(first.len(), |(at, _)| at + 1);
    let was_read = |prefix: &&str| before.is_some_and(|path| path.starts_with(prefix));
    let prefixes = (folder..=first.len()).filter_map(|end| first.get(..end));
    let prefixes = prefixes.filter(|prefix| !was_read(prefix));
    let mut counted = prefixes.map(|p| (p, paths.partition_point(|path| path.starts_with(p))));
    counted.find(|(_, count)| *count <= PAGE).unwrap_or((first, 1))
}

/// Makes a KV operation on the key `folder` + `path`. If the verb needs `Value` or `Index`, the caller adds
/// them.
fn kv(verb: &str, folder: &str, path: &str) -> Value {
    json!({ "KV": { "Verb": verb, "Key": format!("{folder}{path}") } })
}

impl Server for Consul {
    fn place(&self) -> String {
        self.client.place()
    }

    fn max_operations(&self) -> usize {
        MAX_OPERATIONS
    }

    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        // Do not use "get": it rolls the transaction back if the key is absent. Instead, read all records
        // whose path begins with the requested path. These are the requested record and at most a few others.
        let found = self.trees(&self.prefix, paths, until);
        let mut found = found.map_err(|failure| self.client.unavailable("read from", failure))?;
        Ok(paths.iter().map(|path| ((*path).to_owned(), found.remove(*path))).collect())
    }

    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        let found = self.trees(&self.prefix, &[prefix], until);
        found.map_err(|failure| self.client.unavailable("list the leases in", failure))
    }

    fn pages(&self, prefix: &str, until: Instant) -> Pages<'_> {
        let failed = |failure| self.client.unavailable("list the leases in", failure);
        let names = self.check_read(until).and_then(|()| self.names(prefix, until));
        let names = match names.map_err(failed) {
            Ok(names) => names,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let mut at = 0;
        Box::new(std::iter::from_fn(move || {
            // Each request reads the records below as many prefixes as fit into one transaction and one page.
            let (mut trees, begin) = (Vec::new(), at);
            while at - begin < PAGE && trees.len() < MAX_OPERATIONS && at < names.len() {
                let (prefix, count) = shared_prefix(names[..at].last(), &names[at..]);
                at += count;
                trees.push(kv("get-tree", &self.prefix, prefix));
            }
            let found = (at > begin).then(|| self.found(&self.prefix, &trees, until))?;
            Some(found.map(|found| found.into_iter().collect()).map_err(failed))
        }))
    }

    fn old_keys(&self, network: &NetworkName, until: Instant) -> Result<Vec<OldKey>, StoreError> {
        let folder = format!("{network}/");
        let found = self.trees(&folder, &[""], until).map_err(|failure| {
            let failure = failure.map(|why| {
                format!(
                    "{why}; until the network is imported, the token needs key_prefix \"{folder}\" {{ policy \
                     = \"write\" }}"
                )
            });
            self.client.unavailable("read cni-ipam-consul's keys from", failure)
        })?;
        let whole = |(path, entry): (String, Entry)| (format!("{folder}{path}"), entry.value);
        Ok(found.into_iter().map(whole).collect())
    }

    fn count(
        &self,
        folder: &str,
        ranges: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        let paths = self.names(folder, until);
        let paths =
            paths.map_err(|failure| self.client.unavailable("count the leases in", failure))?;
        let one = |range: &KeyRange| {
            let before = paths.partition_point(|path| *path < range.first);
            let up_to = paths.partition_point(|path| *path <= range.last);
            up_to.saturating_sub(before) as u64
        };
        Ok(ranges.iter().map(one).collect())
    }

    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError> {
        let (paths, operations): (Vec<&str>, Vec<Value>) = operations
            .iter()
            .filter_map(|operation| Some((&*operation.path, self.txn_operation(operation)?)))
            .unzip();
        let answer = self.transact(&operations, false, until);
        self.client.committed(answer.map(|answer| match answer {
            // Consul also returns the versions of records that were only compared. These versions are older
            // than the versions of the written records, so the maximum is the version of this commit.
            Answer::Committed(done) => {
                Commit::Done(done.iter().map(|found| found.kv.modify_index).max().unwrap_or(0))
            }
            Answer::Stale(failed) => {
                let stale = failed.into_iter().filter_map(|at| paths.get(at));
                Commit::Conflict(Conflict::Stale(stale.map(|path| (*path).to_owned()).collect()))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_folder_or_a_part_of_it() {
        let owner = |i: usize| format!("own/node/net/cni/net/{:08x}/eth0", i * 7919);
        let mut paths: Vec<String> = (0..3 * PAGE).map(owner).collect();
        paths.extend(["own/node/other/id/a".to_owned(), "own/node2/net/id/b".to_owned()]);
        paths.sort();
        let (mut at, mut pages) = (0, 0);
        while at < paths.len() {
            let (before, left) = paths.split_at(at);
            let (prefix, count) = shared_prefix(before.last(), left);
            assert!(!before.iter().any(|path| path.starts_with(prefix)), "{prefix} is read twice");
            assert!(
                (1..=PAGE).contains(&count) && left[..count].iter().all(|p| p.starts_with(prefix))
            );
            assert!(!left.get(count).is_some_and(|next| next.starts_with(prefix)));
            at += count;
            pages += 1;
        }
        assert!(pages < 300, "{pages}");
        assert_eq!(shared_prefix(None, &["ip/net/0a0000/0a000002".to_owned()]).0, "ip/net/0a0000/");
    }
}
