//! The query parameters of a list of leases or cooling addresses: the filters and the page.

use std::fmt::{Display, Formatter};

use crate::model::SetName;
use crate::net::Addr;
use crate::rows::{CoolingRow, LeaseRow};
use crate::sys::percent::decode;

use super::leases::MOST_ROWS;

/// The maximum number of rows of a page if the request has no `limit`.
const ROWS: usize = 1_000;

/// The position of a row in a list. The next page begins after this row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The row's set of leases.
    pub set: SetName,
    /// The row's address.
    pub addr: Addr,
}

impl Display for Cursor {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.addr, self.set.0)
    }
}

/// The filters of a request for a list, and the page of the filtered rows to return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Selects only the rows of this network, Docker pool or set of leases.
    pub network: Option<String>,
    /// Selects only the rows of this node.
    pub node: Option<String>,
    /// Selects only the rows of pods in this Kubernetes namespace.
    pub namespace: Option<String>,
    /// Search words in lower case. Selects only rows in which each word occurs in some field.
    pub words: Vec<String>,
    /// The last row of the previous page; `None` for the first page.
    pub after: Option<Cursor>,
    /// The maximum number of rows.
    pub limit: usize,
}

/// The query parameters of a URL that have not been taken yet, as pairs of name and value.
#[derive(Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Parses the query string of a URL. The error message names the invalid pair.
    pub fn read(query: Option<&str>) -> Result<Parameters, String> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |text: &str| decode(&text.replace('+', "%20"));
            let read = text(name).zip(text(value));
            read.ok_or_else(|| format!("{pair:?} is not percent-encoded UTF-8"))
        };
        pairs.map(read).collect::<Result<_, _>>().map(Parameters)
    }

    /// Removes the first parameter with this name, and returns its value.
    pub fn take(&mut self, wanted: &str) -> Option<String> {
        let at = self.0.iter().position(|(name, _)| name == wanted)?;
        Some(self.0.remove(at).1)
    }

    /// Returns an error if a parameter is left over, which means that it is unknown. `known` lists the known
    /// parameters for the error message.
    pub fn end(&self, known: &str) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("unknown parameter {name:?} (known: {known})")),
        }
    }
}

impl Query {
    /// Parses the parameters of a list. The error message names the invalid parameter.
    pub fn read(parameters: Parameters) -> Result<Query, String> {
        let (network, node, namespace, after) = (None, None, None, None);
        let mut read = Query { network, node, namespace, words: Vec::new(), after, limit: ROWS };
        for (name, value) in parameters.0 {
            match name.as_str() {
                "network" => read.network = Some(value),
                "node" => read.node = Some(value),
                "namespace" => read.namespace = Some(value),
                "q" => {
                    read.words =
                        value.to_lowercase().split_whitespace().map(str::to_owned).collect();
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=MOST_ROWS).contains(n));
                    let why =
                        || format!("invalid `limit` {value:?}: use a number from 1 to {MOST_ROWS}");
                    read.limit = limit.ok_or_else(why)?;
                }
                "after" => {
                    let cursor = value.split_once(',').and_then(|(addr, set)| {
                        Some(Cursor { set: SetName(set.to_owned()), addr: addr.parse().ok()? })
                    });
                    let why = || {
                        format!(
                            "invalid `after` {value:?}: pass the `next` value from a previous \
                             response"
                        )
                    };
                    read.after = Some(cursor.ok_or_else(why)?);
                }
                _ => {
                    return Err(format!(
                        "unknown parameter {name:?} (known: store, network, node, namespace, q, limit, after)"
                    ));
                }
            }
        }
        Ok(read)
    }

    /// Returns whether the query has no filter.
    fn is_of_all(&self) -> bool {
        self.network.is_none()
            && self.node.is_none()
            && self.namespace.is_none()
            && self.words.is_empty()
    }

    /// Returns whether a row in JSON passes the filters. The row can be a lease or a cooling address.
    pub fn matches_text(&self, row: &[u8]) -> bool {
        if self.is_of_all() {
            return true;
        }
        serde_json::from_slice(row).is_ok_and(|row| self.matches(&row))
            || serde_json::from_slice(row).is_ok_and(|row| self.matches_cooling(&row))
    }

    /// Returns whether a lease passes the filters.
    pub fn matches(&self, row: &LeaseRow<'_>) -> bool {
        let is = |wanted: &Option<String>, found: &[Option<&str>]| {
            wanted.as_ref().is_none_or(|wanted| found.contains(&Some(wanted)))
        };
        let (set, pool) = (row.set.as_deref(), row.pool.as_deref());
        if !is(&self.network, &[Some(&row.network), set, pool])
            || !is(&self.node, &[row.node.as_deref()])
            || !is(&self.namespace, &[row.pod_namespace.as_deref()])
        {
            return false;
        }
        if self.words.is_empty() {
            return true;
        }
        let (address, pod) = (row.cidr(), row.pod());
        let fields = [
            Some(&*address),
            Some(&*row.network),
            Some(&*row.kind),
            pod.as_deref(),
            row.container_id.as_deref(),
            row.ifname.as_deref(),
            row.id.as_deref(),
            row.endpoint.as_deref(),
            row.node.as_deref(),
            row.mac.as_deref(),
            pool,
            row.note.as_deref(),
            row.holder.as_deref(),
        ];
        let fields: Vec<String> = fields.into_iter().flatten().map(str::to_lowercase).collect();
        self.words.iter().all(|word| fields.iter().any(|field| field.contains(word)))
    }

    /// Returns whether a cooling address passes the filters. Only `network` and `words` can select it,
    /// because a cooling address has no node and no pod.
    pub fn matches_cooling(&self, row: &CoolingRow<'_>) -> bool {
        let address = row.address.0.to_string();
        let is_set = |wanted: &String| *wanted == row.set;
        self.network.as_ref().is_none_or(is_set)
            && self.node.is_none()
            && self.namespace.is_none()
            && self
                .words
                .iter()
                .all(|word| address.contains(word) || row.set.contains(word.as_str()))
    }
}
