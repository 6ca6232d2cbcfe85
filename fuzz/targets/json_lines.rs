//! Fuzzes `sublet import jsonl`. The input is the text to import. The imported records are then exported and
//! imported again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sublet_fuzz::Lab;

fuzz_target!(|text: &[u8]| {
    let lab = Lab::new();
    let input = lab.path().join("input");
    std::fs::write(&input, text).expect("/dev/shm is writable");
    let input = input.display().to_string();
    if lab.command(&["import", "jsonl", &input]) == 0 {
        lab.command(&["list", "-o", "json"]);
        let output = lab.path().join("output").display().to_string();
        lab.command(&["export", "jsonl", &output]);
        let other = Lab::new();
        let code = other.command(&["import", "jsonl", &output]);
        sublet_fuzz::check(code == 0, "an export cannot be imported");
    }
});
