//! Fuzzes the import from ecs-ipam. The input is the content of a bolt file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sublet_fuzz::Lab;

fuzz_target!(|bytes: &[u8]| {
    let lab = Lab::new();
    let file = lab.path().join("ipam.db");
    std::fs::write(&file, bytes).expect("/dev/shm is writable");
    lab.command(&["import", "ecs-ipam", &file.display().to_string()]);
});
