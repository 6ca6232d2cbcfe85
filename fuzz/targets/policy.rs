//! Fuzzes the policy file (`leases.redb.policy`), which lists the ranges that operators have reserved or are
//! draining. The input is the content of this file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sublet_fuzz::Lab;

fuzz_target!(|text: &[u8]| {
    let lab = Lab::new();
    lab.write(".policy", text);
    let conf = lab.conf().to_string();
    lab.plugin("ADD", &[], conf.as_bytes());
    lab.command(&["list", "-o", "json"]);
    lab.command(&["doctor"]);
    lab.command(&["unreserve", "net", "10.0.0.0/24", "--yes"]);
    lab.plugin("DEL", &[], conf.as_bytes());
});
