//! The methods of the protocol. [`handle`] takes the path and the body of a request, and returns a [`Reply`].
//!
//! The methods do not depend on HTTP. The path of a request alone selects the method, because dockerd sends
//! no content type, and its host name is arbitrary.
//! Invariant: an empty, malformed or unknown request changes nothing.

use super::names::{ADDRESS_TYPE, BAD_POOL, ENDPOINT, GATEWAY, MAC, SERIAL};
use super::settings::Settings;
use super::{pool, wire};
use crate::alloc::{Command, Context, ReleaseAddress, ReleasePool, RequestAddress};
use crate::config::Level;
use crate::engine;
use crate::error::{Error, Refusal};
use crate::model::{Lease, Origin, PoolId};
use crate::net::{Addr, Span, parse_addr};
use crate::store::Store;
use crate::telemetry::log::Entry;

/// The configuration of the driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The operator's settings.
    pub settings: Settings,
    /// A function that reads the host's routes. It is called when an automatic pool is requested.
    pub routes: fn() -> Vec<Span>,
}

/// The response to a request, how to undo the change that the request made, and the log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body of the response, a JSON object.
    pub body: String,
    /// How to undo the change if the response cannot be delivered.
    pub undo: Option<Undo>,
    /// The log entry. Its level is `Info` for a change, `Warn` for a refusal, `Error` for a failure, and
    /// `Debug` for all other requests.
    pub entry: Entry,
}

/// How to undo a change if its response cannot be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Free this lease, if it has not changed since it was made.
    Address(PoolId, Box<Lease>),
    /// Release this pool.
    Pool(PoolId),
}

impl Reply {
    fn done(level: Level, text: String, body: String) -> Reply {
        let entry = Entry::new(level, text).with("outcome", "ok");
        Reply { status: 200, body, undo: None, entry }
    }

    /// Adds the pool and the address to the log entry.
    fn about(mut self, pool: &PoolId, address: &str) -> Reply {
        self.entry = self.entry.with("pool", pool.0.as_str()).with("address", address);
        self
    }

    /// Makes the response to a failed request, with this HTTP status. dockerd shows `text` to the user, and
    /// never repeats the request. `more` is only logged.
    pub fn failed(status: u16, text: &str, more: &str) -> Reply {
        let level = if status < 500 { Level::Warn } else { Level::Error };
        let shown = if more.is_empty() { text.to_owned() } else { format!("{text}: {more}") };
        let outcome = if status < 500 { "refused" } else { "error" };
        let entry = Entry::new(level, shown).with("outcome", outcome);
        Reply { status, body: wire::failure(text), undo: None, entry }
    }

    /// Makes the response to a refused request. Its HTTP status is 200, as the protocol requires.
    fn refused(text: &str, more: &str) -> Reply {
        Reply { status: 200, ..Reply::failed(400, text, more) }
    }
}

/// The response of a method that failed before it changed anything.
type Failure = Box<Reply>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Box::new(match error {
            Error::Refused(Refusal::Pool(no)) => Reply::refused(&no.to_string(), &no.explanation()),
            Error::Refused(no) => Reply::refused(&no.to_string(), ""),
            Error::Store(error) => Reply::failed(500, &error.to_string(), ""),
        })
    }
}

fn read(body: &[u8]) -> Result<wire::Request, Failure> {
    wire::read(body).map_err(|text| Box::new(Reply::failed(400, &text, "")))
}

fn bad_request(text: impl AsRef<str>) -> Failure {
    Box::new(Reply::refused(text.as_ref(), ""))
}

/// Handles one request from dockerd.
pub fn handle(
    driver: &Driver,
    store: &mut dyn Store,
    cx: &Context,
    path: &str,
    body: &[u8],
) -> Reply {
    let settings = &driver.settings;
    let quiet = |body| Ok(Reply::done(Level::Debug, path.to_owned(), body));
    let done = match path {
        "/Plugin.Activate" => quiet(wire::activated()),
        "/IpamDriver.GetCapabilities" => quiet(wire::capabilities(settings.mac)),
        "/IpamDriver.GetDefaultAddressSpaces" => {
            quiet(wire::spaces(&settings.local, &settings.global))
        }
        "/IpamDriver.RequestPool" => request_pool(driver, store, cx, body),
        "/IpamDriver.ReleasePool" => release_pool(store, cx, body),
        "/IpamDriver.RequestAddress" => request_address(store, cx, body),
        "/IpamDriver.ReleaseAddress" => release_address(store, cx, body),
        _ => return Reply::failed(404, "404 page not found", path),
    };
    done.unwrap_or_else(|failure| *failure)
}

/// Undoes a change whose response could not be delivered.
pub fn undo(store: &mut dyn Store, cx: &Context, undo: &Undo) -> Result<(), Error> {
    match undo {
        Undo::Address(pool, lease) => {
            let (pool, only) = (pool.clone(), Some(lease.clone()));
            engine::release_address(store, ReleaseAddress { pool, addr: lease.addr, only }, cx)
                .map(|_| ())
        }
        Undo::Pool(pool) => engine::collect(store, release(pool), cx).map(|_| ()),
    }
}

fn request_pool(
    driver: &Driver,
    store: &mut dyn Store,
    cx: &Context,
    body: &[u8],
) -> Result<Reply, Failure> {
    let raw = read(body)?;
    let request = pool::read(&raw, &driver.settings, &driver.routes).map_err(bad_request)?;
    let pool = engine::request_pool(store, request, cx)?;
    let text = format!("pool {}: {}", pool.id, pool.subnet);
    let reply =
        Reply::done(Level::Info, text, wire::pool(&pool)).about(&pool.id, &pool.subnet.to_string());
    Ok(Reply { undo: Some(Undo::Pool(pool.id)), ..reply })
}

/// Makes the command that releases a pool.
fn release(pool: &PoolId) -> Command {
    Command::ReleasePool(ReleasePool::of(pool.clone()))
}

fn pool_id(raw: Option<String>) -> Result<PoolId, Failure> {
    let named = raw.filter(|id| !id.is_empty()).map(PoolId);
    named.ok_or_else(|| bad_request(BAD_POOL))
}

fn release_pool(store: &mut dyn Store, cx: &Context, body: &[u8]) -> Result<Reply, Failure> {
    let raw = read(body)?;
    let pool = pool_id(raw.pool_id)?;
    let released = engine::collect(store, release(&pool), cx)?;
    let text = if released.pool {
        match released.freed.len() {
            0 => format!("pool {pool} released"),
            1 => format!("pool {pool} released with 1 address"),
            n => format!("pool {pool} released with {n} addresses"),
        }
    } else {
        format!("pool {pool} was already released")
    };
    Ok(Reply::done(Level::Info, text, "{}".to_owned()).about(&pool, ""))
}

/// Parses an address, with or without a prefix length.
fn addr(text: &str) -> Result<Addr, Failure> {
    parse_addr(text).ok_or_else(|| bad_request(format!("invalid address {text:?}")))
}

fn request_address(store: &mut dyn Store, cx: &Context, body: &[u8]) -> Result<Reply, Failure> {
    let raw = read(body)?;
    let pool = pool_id(raw.pool_id)?;
    let options = raw.options.unwrap_or_default();
    let option = |key: &str| options.get(key).filter(|v| !v.is_empty()).cloned();
    let requested = raw.address.as_deref().filter(|t| !t.is_empty()).map(addr).transpose()?;
    let request = RequestAddress {
        pool: pool.clone(),
        requested,
        gateway: option(ADDRESS_TYPE).as_deref() == Some(GATEWAY),
        serial: option(SERIAL).as_deref() == Some("true"),
        origin: Origin { mac: option(MAC), endpoint: option(ENDPOINT), ..Origin::default() },
    };
    let (lease, created) = engine::request_address(store, request, cx)?;
    let text = format!("{} of pool {pool} leased ({})", lease.addr, lease.kind.word());
    let mut reply =
        Reply::done(Level::Info, text, wire::address(&lease)).about(&pool, &lease.addr.to_string());
    let endpoint = lease.origin.endpoint.as_deref().unwrap_or_default();
    reply.entry = reply.entry.with("container", endpoint);
    reply.undo = created.then(|| Undo::Address(pool, Box::new(lease)));
    Ok(reply)
}

fn release_address(store: &mut dyn Store, cx: &Context, body: &[u8]) -> Result<Reply, Failure> {
    let raw = read(body)?;
    let pool = pool_id(raw.pool_id)?;
    let addr = addr(raw.address.as_deref().unwrap_or_default())?;
    let text = format!("{addr} of pool {pool} released");
    let release = ReleaseAddress { pool: pool.clone(), addr, only: None };
    let held = engine::release_address(store, release, cx)?;
    let text = if held { text } else { format!("{text}: the address was already free") };
    Ok(Reply::done(Level::Info, text, "{}".to_owned()).about(&pool, &addr.to_string()))
}
