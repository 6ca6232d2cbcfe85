//! sublet leases IP addresses to containers, from one lease store: a file of the host, etcd or Consul.
//! `sublet` is a CNI IPAM plugin and an operator's command line; `subletd` is a Docker IPAM driver and
//! serves the status page. This page is the map of the code; `docs/design.md` explains the design.
//!
//! # Layers
//!
//! ```text
//! main, bin/subletd   the processes: arguments, environment, streams, exit code
//! cni docker web cli  the faces: a protocol or an operator on one side, the engine on the other
//! engine              the use cases, where one command is not enough
//! migrate, liveness   import, export and copy; the evidence that a container is gone
//! trends              how full each range was, and when it will be full, from the history
//! rows                the fields of leases, ranges, events and nodes, for tables, JSON and the API
//! store               commits what alloc decides: embedded (redb), cluster (etcd, Consul)
//! telemetry           log, metrics, counters, usage
//! config              bytes -> Config: the dialects, the checks of `sublet check`
//! sys                 the host: its name, boot, clock, files
//! alloc               the decisions, pure: Command + View + Context -> Plan
//! net model error     prefixes, ranges, leases, owners, errors: valid by construction
//! ```
//!
//! A layer uses only the layers below it. Faces never use each other and never name a kind of store.
//! Below the faces nothing prints, exits, or reads the environment or the clock; [`sys::host`] reads
//! them for the faces. `tests/it/tidy.rs` checks the `use` lines.
//!
//! # The path of an ADD
//!
//! 1. `main` calls [`cni::run`] with the environment and the streams. Variables are checked (error
//!    code 4), stdin is read (5) and decoded (6, 7), and the version is checked (1).
//! 2. [`config`] detects the dialect and returns a [`config::Config`]. [`store::open`] opens the store
//!    that it names (11).
//! 3. [`engine::add`] passes an [`alloc::Command`] to the store, and first imports the network's leases
//!    if host-local still has them.
//! 4. [`store::Store::apply`] runs [`alloc::run`] over its own view and commits the plan, whole or not
//!    at all. After a conflict it runs it again.
//! 5. The outcome is written to stdout in one write, in the shape of the requested CNI version. If it
//!    cannot be written, the lease is undone. A failure is one JSON error and exit status 1.
//!
//! A Docker request takes the same path from `docker::handle`, which `subletd` runs on one thread.
//!
//! # The seam
//!
//! - A **command** is plain data, so a store may run it again after a conflict.
//! - A **view** answers point questions. No question returns all leases.
//! - A cluster's view may assume that a key is absent. Each assumption is a compare of the
//!   transaction, so an uncontended ADD takes one round trip. A failed compare returns the truth, and
//!   the command runs again.
//! - A refusal or any other outcome that changes nothing rests on verified answers only.
//! - A **plan** is committed whole: leases, owners, cursor, history and counters.
//!
//! `store/testing/contract.rs` runs the same cases on every store, and on a model in memory.
//!
//! # Where do I add ...
//!
//! - **a key of `ipam`**: its name in `config/keys.rs`, its field in [`config::Config`], its reading in
//!   `config/dialect/native.rs`. If the allocator needs it: a field of [`alloc::Add`], set in
//!   `cni/verbs.rs`. A case in `testdata/config/native/`, a row in README.md.
//! - **a dialect**: `config/dialect/NAME.rs`, its arms in `config/dialect/mod.rs`, a variant of
//!   [`config::Dialect`]. Cases in `testdata/config/NAME/`.
//! - **a CNI version**: a variant of [`config::CniVersion`]; if the result has a new
//!   shape, an arm in `cni/result.rs`. The tests that loop over versions include it.
//! - **a store**: a folder in `store/` with the traits of `store/mod.rs`; on a compare-and-set server
//!   only `store/cluster/server.rs`'s. A variant of [`model::StoreSpec`], its keys in
//!   `config/cluster.rs`, its arm in [`store::open`], its line in `store/testing/contract.rs` or
//!   `store/testing/peers/servers_test.rs`.
//! - **an operator's command**: a file in `cli/`, a variant in `cli/mod.rs`. Help, man page and
//!   completions follow. Its cases in the table of `tests/it/commands.rs`, its row in `docs/operating.md`, its
//!   JSON in `docs/schema.json`.
//! - **a decision**: a variant of [`alloc::Command`] and its function in `alloc/`, a case in
//!   `store/testing/contract.rs`.
//! - **a field of a lease**, such as a label: [`model::Origin`], a record version in
//!   `store/codec/mod.rs`, the lease's row in `rows.rs`, `docs/api.md`, `docs/schema.json`. Set it where its
//!   value is known: `config/args.rs`, `cni/verbs.rs`, `docker/api.rs`.
//! - **a field of a row** (a lease, range, event, node or problem as operators see it): `rows.rs`,
//!   `docs/api.md`, `docs/schema.json`.
//! - **an option of a Docker network**: its name in `docker/names.rs`; `docker/pool.rs` or
//!   `docker/api.rs` reads it. A case in `testdata/docker/`, a line in `docs/docker.md`.
//! - **an event or a counter**: a variant of [`model::What`] or [`model::Verb`], its arm in
//!   `alloc/events.rs`, its code in `store/codec/history.rs`.
//! - **a metric**: `telemetry/usage.rs` if it is a number of a range; its family in
//!   `telemetry/metrics.rs`.
//! - **an error**: a variant in `error/`, its code in `cni/error.rs`, its row in
//!   `docs/troubleshooting.md`, which a test requires.

pub mod alloc;
pub mod cli;
pub mod cni;
pub mod config;
pub mod docker;
pub mod engine;
pub mod error;
pub mod liveness;
pub mod migrate;
pub mod model;
pub mod net;
pub mod rows;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod trends;
pub mod web;
