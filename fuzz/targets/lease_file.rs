//! Fuzzes damaged lease files. The input describes which bytes of a lease file with three leases are changed,
//! and where the file is truncated. No command may panic, and the plugin's output must be valid JSON.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sublet_fuzz::Lab;

/// Returns the content of an undamaged lease file with three leases.
fn whole() -> &'static [u8] {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let lab = Lab::new();
        for container in ["a", "b", "c"] {
            let conf = lab.conf().to_string();
            lab.plugin("ADD", &[("CNI_CONTAINERID", container)], conf.as_bytes());
        }
        std::fs::read(lab.file()).expect("three containers have leases")
    })
}

fuzz_target!(|input: (u32, Vec<(u32, u8)>)| {
    let (cut, edits) = input;
    let lab = Lab::new();
    let mut file = whole().to_vec();
    let len = file.len();
    for (at, byte) in edits {
        file[at as usize % len] ^= byte;
    }
    // Truncate the file only for one input in eight.
    if cut % 8 == 0 {
        file.truncate(cut as usize % (len + 1));
    }
    lab.write("", &file);
    let conf = lab.conf().to_string();
    lab.plugin("ADD", &[], conf.as_bytes());
    lab.plugin("CHECK", &[], conf.as_bytes());
    lab.command(&["list", "-o", "json"]);
    lab.command(&["history", "net"]);
    lab.command(&["doctor"]);
    lab.command(&["doctor", "--repair", "--yes"]);
    lab.plugin("DEL", &[], conf.as_bytes());
});
