//! sublet leases IP addresses to containers, and keeps the leases in one store: a file on the host, etcd or
//! Consul. The program `sublet` is both a CNI IPAM plugin and the operators' command line. The daemon
//! `subletd` is a Docker IPAM driver and serves the status page. This page is the map of the code;
//! `docs/design.md` explains the design.
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
//! A layer uses only the layers below it. The faces never use each other, and never depend on the kind of
//! store. In the layers below the faces, nothing prints, exits, or reads the environment or the clock; the
//! faces get these values from [`sys::host`]. `tests/it/tidy.rs` checks the `use` lines.
//!
//! # The path of an ADD
//!
//! 1. `main` calls [`cni::run`] with the environment and the streams. `cni` checks the variables, reads and
//!    decodes stdin, and checks the version. These steps can fail with the CNI error codes 4 (variables), 5
//!    (reading), 6 and 7 (decoding), and 1 (version).
//! 2. [`config`] detects the dialect and returns a [`config::Config`]. [`store::open`] opens the store that
//!    the configuration names; if the store is unavailable, the error code is 11.
//! 3. [`engine::add`] passes an [`alloc::Command`] to the store. If host-local still has leases of the
//!    network, the ADD also imports them.
//! 4. [`store::Store::apply`] runs [`alloc::run`] over its own view and commits the plan as a whole or not at
//!    all. After a conflict it runs the allocator again.
//! 5. `cni` writes the result to stdout in one write, in the format of the requested CNI version. If the
//!    write fails, the lease is undone. A failure is one JSON error and exit status 1.
//!
//! A Docker request takes the same path. It begins in `docker::handle`, which a worker thread of `subletd`
//! calls.
//!
//! # Command, view and plan
//!
//! - A **command** is plain data, so a store may run it again after a conflict.
//! - A **view** answers queries about single keys. No query returns all leases.
//! - In a cluster, a view may assume that a key is absent instead of reading it. The transaction then
//!   compares each assumption with the server's data, so an ADD without competitors takes a single round
//!   trip. If a comparison fails, the server returns the actual value, and the command runs again.
//! - A refusal, or any other outcome that changes nothing, is based only on values that the server has
//!   confirmed.
//! - A **plan** is committed as a whole: leases, owners, cursor, history and counters.
//!
//! `store/testing/contract.rs` runs the same cases on every store and on a model in memory.
//!
//! # Where do I add ...
//!
//! - **a key of `ipam`**: add its name to `config/keys.rs`, its field to [`config::Config`], and its parsing
//!   to `config/dialect/native.rs`. If the allocator needs the key: add a field to [`alloc::Add`] and set it
//!   in `cni/verbs.rs`. Add a case to `testdata/config/native/` and a row to README.md.
//! - **a dialect**: add `config/dialect/NAME.rs`, its arms in `config/dialect/mod.rs`, and a variant of
//!   [`config::Dialect`]. Add cases to `testdata/config/NAME/`.
//! - **a CNI version**: add a variant of [`config::CniVersion`]. If the result has a new shape, add an arm to
//!   `cni/result.rs`. The tests that loop over all versions need no change.
//! - **a store**: add a folder in `store/` that implements the traits of `store/mod.rs`. For a
//!   compare-and-set server, only the trait of `store/cluster/server.rs` is needed. Add a variant to
//!   [`model::StoreSpec`], its keys to `config/cluster.rs`, its arm to [`store::open`], and its line to
//!   `store/testing/contract.rs` or `store/testing/peers/servers_test.rs`.
//! - **an operator's command**: add a file in `cli/` and a variant in `cli/mod.rs`. The help, the man page
//!   and the completions are generated from the variant. Add its cases to the table of
//!   `tests/it/commands.rs`, its row to `docs/operating.md`, and its JSON to `docs/schema.json`.
//! - **a decision**: add a variant of [`alloc::Command`], its function in `alloc/`, and a case in
//!   `store/testing/contract.rs`.
//! - **a field of a lease**, such as a label: add it to [`model::Origin`], and add a record version to
//!   `store/codec/mod.rs`. Add the field to the lease's row in `rows.rs`, `docs/api.md` and
//!   `docs/schema.json`. Set it where its value is known: `config/args.rs`, `cni/verbs.rs`, `docker/api.rs`.
//! - **a field of a row** (a lease, range, event, node or problem as operators see it): add it to `rows.rs`,
//!   `docs/api.md` and `docs/schema.json`.
//! - **an option of a Docker network**: add its name to `docker/names.rs`, and read the option in
//!   `docker/pool.rs` or `docker/api.rs`. Add a case to `testdata/docker/` and a line to `docs/docker.md`.
//! - **an event or a counter**: add a variant of [`model::What`] or [`model::Verb`], its arm in
//!   `alloc/events.rs`, and its code in `store/codec/history.rs`.
//! - **a metric**: `telemetry/usage.rs` computes numbers of a range; `telemetry/metrics.rs` defines the
//!   metric families.
//! - **an error**: add a variant in `error/`, its code in `cni/error.rs`, and its row in
//!   `docs/troubleshooting.md`. A test requires the row.

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
