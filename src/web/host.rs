//! Builds the response to each API request from the cached data of the stores.

use serde::Serialize;
use serde_json::json;
use serde_with::skip_serializing_none;

use super::answer::{Answer, PROMETHEUS};
use super::api::{Question, Request};
use super::cache::{Address, BRIEF, Cache, PATIENCE};
use super::leases::ROOM;
use super::metrics;
use super::metrics::Scrape;
use super::query::Query;
use super::slot::Fault;
use super::status::{GLANCE, Sight};
use crate::alloc::Context;
use crate::error::shown_network;
use crate::liveness::stale::Verdict;
use crate::model::StoreSpec;
use crate::rows::{EventRow, LeaseRow, ProblemRow, Time};
use crate::sys::host;
use crate::telemetry::counters;

/// The response of `/api/v1/pools`: the store's name, and its ranges.
#[derive(Serialize)]
struct Of<'a, T> {
    store: &'a str,
    #[serde(flatten)]
    answer: T,
}

/// A row of `evidence` in `/api/v1/history/ADDRESS`: whether the container of a lease is alive.
#[skip_serializing_none]
#[derive(Serialize)]
struct EvidenceRow<'a> {
    network: &'a str,
    /// `running`, `gone` or `unknown`; absent if the lease is not for a container.
    container: Option<&'static str>,
    /// The evidence for `container`.
    reason: Option<&'a str>,
    /// A command that the operator can safely run next.
    next: Option<String>,
}

impl Address {
    fn evidence(&self) -> impl Iterator<Item = EvidenceRow<'_>> {
        self.leases.iter().zip(&self.liveness).map(|(lease, liveness)| {
            let Verdict { container, reason, next } = liveness.verdict(lease);
            EvidenceRow { network: shown_network(lease), container, reason, next }
        })
    }
}

/// The stores that the page shows: at least one.
pub struct Stores(Vec<Cache>);

impl Stores {
    /// Creates a cache for each store. The caches share the memory for rows ([`ROOM`]) equally.
    pub fn new(stores: Vec<(StoreSpec, Context)>) -> std::io::Result<Stores> {
        let room = ROOM / stores.len().max(1);
        let caches = stores.into_iter().map(|(store, cx)| Cache::new(store, cx, room));
        caches.collect::<Result<_, _>>().map(Stores)
    }

    /// Frees the memory of lease lists that no client has requested recently.
    pub fn drop_idle(&self) {
        self.0.iter().for_each(Cache::drop_idle);
    }

    /// Returns the store of this name, or the first store if `name` is `None`.
    fn named(&self, name: Option<&str>) -> Option<&Cache> {
        self.0.iter().find(|cache| name.is_none_or(|name| cache.place() == name))
    }

    /// Returns the error of the first store that cannot be read; `None` if all stores can be read.
    fn fault(&self) -> Option<Fault> {
        self.0.iter().find_map(|cache| cache.snapshot(cache.scrape_patience()).now().err())
    }

    /// Returns the response of `/api/v1/stores`.
    fn answer(&self) -> Answer {
        let now = host::now();
        let sights: Vec<Sight> =
            self.0.iter().map(|cache| Sight::take(cache, now, GLANCE)).collect();
        let all = sights.iter().zip(&self.0).map(|(sight, cache)| sight.brief(cache));
        Answer::json(&json!({ "stores": all.collect::<Vec<_>>() }))
    }

    /// Returns the response of `/metrics`. If there are several stores, each store's metrics have a label
    /// that names the store.
    fn metrics(&self) -> Answer {
        let scrapes: Vec<Scrape> = self.0.iter().map(Scrape::take).collect();
        Answer::of(PROMETHEUS, metrics::text(&scrapes, &counters::now(), host::now()))
    }
}

/// Answers a request. Returns an error if the store cannot be read.
pub fn answer(stores: &Stores, request: &Request) -> Result<Answer, Fault> {
    let Some(cache) = stores.named(request.store.as_deref()) else {
        let name = request.store.as_deref().unwrap_or_default();
        let why = format!("unknown store {name:?}; /api/v1/stores lists the known stores");
        return Ok(Answer::no(404, &why));
    };
    Ok(match &request.question {
        Question::Asset(kind, text) => Answer::asset(kind, text),
        Question::Health => match stores.fault() {
            None => Answer::of("text/plain", "ok\n"),
            Some(fault) => Answer::no(503, &fault.text),
        },
        Question::Stores => stores.answer(),
        Question::Metrics => stores.metrics(),
        Question::Status => {
            cache.want_rows();
            Answer::json(&Sight::take(cache, host::now(), BRIEF).status(cache))
        }
        Question::Pools => {
            let snapshot = cache.snapshot(PATIENCE).now()?;
            Answer::json(&Of { store: &cache.place(), answer: snapshot.pools(cache.node()) })
        }
        Question::Leases(query) => list(cache, query, false)?,
        Question::Cooling(query) => list(cache, query, true)?,
        Question::Nodes => Answer::json(&cache.snapshot(PATIENCE).now()?.nodes()),
        Question::Problems => problems(cache),
        Question::Trends => {
            let trends = cache.trends(PATIENCE).now()?;
            Answer::json(&json!({ "time": trends.time, "step": 900, "pools": trends.rows }))
        }
        Question::History(addr) => {
            let found = cache.address(*addr)?;
            let leases: Vec<LeaseRow<'_>> = found.leases.iter().map(LeaseRow::new).collect();
            let events: Vec<EventRow<'_>> = found.events.iter().map(EventRow::new).collect();
            let evidence: Vec<EvidenceRow<'_>> = found.evidence().collect();
            Answer::json(&json!({
                "time": Time(host::now()),
                "address": addr.to_string(),
                "leases": leases,
                "evidence": evidence,
                "events": events,
            }))
        }
        Question::Held(at, query) => match unknown(cache, query)? {
            Some(no) => no,
            None => Answer::page(cache.held(*at, query)?),
        },
    })
}

/// Returns a page of leases, or of cooling addresses if `cooling`.
fn list(cache: &Cache, query: &Query, cooling: bool) -> Result<Answer, Fault> {
    if let Some(no) = unknown(cache, query)? {
        return Ok(no);
    }
    Ok(match cache.page(query, cooling)? {
        Some((page, version)) => Answer::page(page).tagged(version),
        None => Answer::no(
            410,
            "the network of the `after` value no longer exists; start again with the first page",
        ),
    })
}

/// Returns a 404 response if the query names an unknown network or node, otherwise `None`.
fn unknown(cache: &Cache, query: &Query) -> Result<Option<Answer>, Fault> {
    let (network, node) = (query.network.as_deref(), query.node.as_deref());
    if network.is_none() && node.is_none() {
        return Ok(None);
    }
    let why = cache.snapshot(PATIENCE).now()?.unknown(network, node);
    Ok(why.map(|why| Answer::no(404, &why)))
}

/// Returns the response of `/api/v1/problems`. If the store cannot be read now, that error comes first,
/// followed by the problems that the last search found.
fn problems(cache: &Cache) -> Answer {
    let snapshot = cache.snapshot(BRIEF);
    let seen = cache.problems(if snapshot.fault.is_some() { BRIEF } else { PATIENCE });
    let fault = snapshot.fault.or(seen.fault);
    let (level, place) = ("error", cache.place());
    let advice =
        "fix the cause in the message; nothing is leased or freed until the store responds"
            .to_owned();
    let unreadable =
        fault.map(|fault| ProblemRow { level, place, what: fault.text, advice, repairable: false });
    let found = seen.value.as_deref();
    let rows: Vec<&ProblemRow> =
        unreadable.iter().chain(found.iter().flat_map(|found| &found.rows)).collect();
    let total = found.map_or(0, |found| found.errors + found.stale + found.others);
    let mut answer =
        json!({ "problems": rows, "total": total + usize::from(unreadable.is_some()) });
    if let Some(found) = found {
        answer["looked"] = json!(found.looked);
    }
    Answer::json(&answer)
}
