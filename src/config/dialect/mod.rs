//! The dialects: one file for each program whose configurations are read.

pub mod consul;
pub mod ecs;
pub mod host_local;
pub mod native;
