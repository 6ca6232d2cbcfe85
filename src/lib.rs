//! sublet leases IP addresses to containers: a CNI IPAM plugin and an operator's tool over one
//! durable lease store. This page is the map.
//!
//! # Layers
//!
//! ```text
//! main, bin   sublet (the plugin, stores of this host), sublet-cluster (all stores,
//!             the commands), subletd (Docker's)
//! program     the process of the first two: arguments, environment, streams, exit code
//! cni docker cli  the faces: a protocol or a person on one side, use cases on the other
//! engine      the use cases; takeover and handback read and write host-local's folder for it,
//!             ecs_ipam (over bolt) reads the original's file, moving copies a store into another
//! config      bytes -> Config, one file for each dialect
//! store       commits what alloc decides: redb, etcd, Consul
//! metrics     numbers as Prometheus reads them; usage: how full ranges are, in one walk
//! alloc       the decisions, pure: View + Command + Context -> Plan
//! net model error   the nouns, valid by construction; beside them plain_file, an open that never
//!             blocks, and percent, its encoding undone
//! ```
//!
//! A layer uses those below it. Faces never use each other and never name a store; config knows
//! nouns only. Nothing below the faces prints, exits, or reads the environment or the clock
//! ([`host`] does, for the faces, as [`liveness`] and [`runtimes`] look at the machine's containers,
//! of which [`lost`] judges which are gone). A test holds this against the `use` lines (`tests/it/tidy.rs`).
//!
//! # The way of an ADD
//!
//! [`cni::run`] reads variables (code 4) and stdin (5), decodes it (6, 7), checks the version (1) and
//! lowers it to a [`config::Config`]; the program's [`store::Open`] picks the store (a cluster's is
//! picked by `sublet-cluster`: `sublet` hands the whole call over to it before anything was done; with
//! `define` the network's definition is read there first); [`engine::add`] hands it an
//! [`alloc::Command`]; the store runs [`alloc::run`] over its own view and commits the plan; the
//! outcome is rendered for the version that was asked for, and written at once. Every failure is
//! one JSON error and exit 1. If the answer cannot be written, what was leased is taken back.
//!
//! # The way of a Docker request
//!
//! `subletd` ([`docker::server`]) reads a request from dockerd's connection and queues it for the one
//! thread that works on the store; [`docker::handle`] decodes the body and asks the engine; the store commits
//! to `<file>.keep` and flushes; the answer is written. What cannot be delivered is undone.
//!
//! # Why the seam holds
//!
//! The seam is [`alloc::Command`], [`alloc::View`] and [`alloc::Plan`]; the proof is
//! `store/testing/contract.rs`, which runs the same cases on a model in memory, on redb, on real servers of
//! etcd and Consul, and on a compare-and-set server in memory with Consul's limits, lost answers and
//! other clients in between.
//!
//! - **A command is data.** It carries all that the allocator must know of its caller: ranges,
//!   wishes, the owner, where the request came from. So a store may run it again after a conflict,
//!   a process may carry it out for another that waits for the lock (group commit), and Docker's face
//!   fills in structs of the same kind: a pool is a record beside the leases, and its addresses are
//!   leases in a [`model::SetName`] of its address space and subnet, whose owner is the pool.
//! - **The allocator is pure.** It is told the time, the boot, the machine and a random number.
//!   Running it twice over the same view gives the same plan; that is what makes optimistic commits
//!   sound, and tests exact.
//! - **A view answers point questions, and may guess.** A local store looks: a few B-tree look-ups.
//!   A cluster store answers "nobody holds this, you hold nothing" without asking anyone, keeps each
//!   guess as a compare of its transaction, and so needs one round trip for an ADD and two for a
//!   DEL. A conflict is the truth about exactly the guess that was wrong, and the allocator runs
//!   again over it.
//! - **Only changes are guarded by compares.** A refusal, a DEL of nothing, a CHECK change nothing,
//!   so the store verifies what it guessed before it concludes them. That rule sits in the store,
//!   once: "exhausted", "held" and "duplicate" are therefore always true, and the allocator need not
//!   know what kind of store it talks to.
//! - **A plan is whole.** All families and range sets of a container, the owner's index, cursor and
//!   sticky address change together. A commit whose answer was lost is found again by the owner's
//!   key, for an ADD by the same owner is answered with the lease it has.
//! - **No question returns all leases**, so no answer gets slower with their number. GC pages
//!   through owners, and takes as many steps as a store's transactions are small
//!   ([`alloc::View::capacity`]).
//!
//! # What people see
//!
//! Beside commands a [`store::Store`] tells: `list` and `taken` walk over leases (and what cools),
//! `definitions` and `pools` say what they are drawn from ([`engine::usage`] makes numbers of the
//! four), `history` and `counters` say what happened, `problems` what is wrong. Events and counters are
//! made of a plan's changes where they are committed ([`alloc::event`], [`alloc::verb`]), so that no face
//! can forget one. [`metrics`] writes the numbers for the command line and the daemon.
//!
//! # Where do I add ...
//!
//! - **a store**: `store/NAME.rs` with [`store::Store`] (on a compare-and-set server: with
//!   `store::cluster::Server`, three calls); a variant of [`model::StoreSpec`], its keys in
//!   `config/cluster.rs` and its arms in [`store::open`] and [`store::open_local`] (which of the
//!   two links it in decides which program has it); its line in `store/testing/contract.rs` or
//!   `store/testing/servers_test.rs`.
//! - **a record that stores keep**: its form in `store/codec/`, its key in `store/keys.rs` (files)
//!   and `store/cluster/keys.rs` (clusters); a variant of [`alloc::Record`], so that [`moving`] takes
//!   it along, and its line in `cli/lines.rs`; what the doctor checks of it in `store/sound.rs` and
//!   `store/cluster/check.rs`.
//! - **an event, a counter**: a variant of [`model::What`] or [`model::Verb`], its arm in
//!   `alloc/tell.rs`, its code in `store/codec/past.rs`.
//! - **a number**: in [`usage`] if it is of a range; its family in [`metrics`].
//! - **what a definition holds** (`define`): `config/define.rs`.
//! - **what a node does once a boot**: `store/cluster/node.rs`.
//! - **a dialect**: `config/NAME.rs` and its row in the table of dialects; `testdata/config/NAME/`.
//! - **a CNI version**: a variant in `cni/version.rs` and in its table; an arm in `cni/result.rs` if
//!   the shape changed. The tests that loop over versions follow by themselves.
//! - **a request**: a variant of [`alloc::Command`] and its function in `alloc/`; a case in
//!   `store/testing/contract.rs`.
//! - **a method of Docker's protocol**: an arm in `docker/api.rs`, its body in `docker/wire.rs`; a folder in
//!   `testdata/docker/`.
//! - **an operator's command**: a file in `cli/` and its variant there; help, man page and completions
//!   follow by themselves. Its rows in the table of `tests/it/commands.rs`.
//! - **an error**: a variant in `error.rs`, its code in `cni/error.rs`, its row in
//!   `docs/troubleshooting.md`, for which a test asks.

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
pub mod program;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod web;
