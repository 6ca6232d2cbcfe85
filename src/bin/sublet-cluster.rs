//! `sublet-cluster`: sublet with the clients of etcd and Consul linked in.
//!
//! Owns: nothing; what it does is `program`'s. `sublet` starts it in its own place when a store is a
//! cluster's, and it can be called by hand in the same way.

use std::process::ExitCode;

use sublet::program;
use sublet::store;

fn main() -> ExitCode {
    program::run(|spec, _| store::open(spec), program::command_line)
}
