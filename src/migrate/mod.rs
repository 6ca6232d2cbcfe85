//! Imports leases from other programs, exports leases to them, and copies stores.

pub mod cni_cache;
pub mod consul;
pub mod copy;
pub mod ecs;
pub mod gipam;
pub mod host_local_export;
pub mod host_local_import;
pub mod jsonl;
pub mod kontena;
