//! Measures single calls of ADD, CHECK and DEL, with stores of several sizes. The programs take turns, so
//! that a change in the machine's load affects all of them.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::bed::{Bed, Fill, Plugin, id};
use super::report::Results;
use super::{Tools, readers, say};

/// Returns the numbers of leases in the stores with which this program is measured.
pub fn sizes(plugin: Plugin, quick: bool) -> &'static [u32] {
    match plugin {
        Plugin::Floor | Plugin::FloorWrite | Plugin::Musl => &[0],
        // host-local reads every lease file in each call, so a measurement with more leases would take too
        // long.
        Plugin::HostLocal => &[0, 1_000, 10_000],
        Plugin::Boot | Plugin::Disk if quick => &[0, 1_000, 10_000, 100_000],
        Plugin::Boot | Plugin::Disk => &[0, 1_000, 10_000, 100_000, 1_000_000],
    }
}

pub fn measure(tools: &Tools, results: &mut Results) -> Result<()> {
    let mut beds: Vec<(Bed, String)> = Vec::new();
    for plugin in tools.plugins() {
        for &size in sizes(plugin, tools.quick) {
            let name = format!("{plugin:?}/{size}");
            let begin = Instant::now();
            // For durable leases, copy the large stores with boot leases, because filling a second store
            // would take too long.
            let filled = format!("Boot/{size}");
            let filled = beds.iter().find(|(_, n)| plugin == Plugin::Disk && *n == filled);
            let bed = match filled {
                Some((other, _)) if size >= 100_000 => Bed::like(tools, plugin, other, &name)?,
                _ => Bed::filled(tools, plugin, Fill::First(size), &name)?,
            };
            beds.push((bed, name.clone()));
            if size >= 100_000 && plugin == Plugin::Boot {
                let seconds = begin.elapsed().as_secs_f64();
                say(&format!("{name} filled in {seconds:.1} s"));
                results.facts.insert(format!("fill/{name}"), seconds);
            }
        }
    }
    for (fill, word) in [(Fill::AllButOne, "one-free"), (Fill::EverySecond, "every-second")] {
        let boot = Bed::filled(tools, Plugin::Boot, fill, &format!("Boot/{word}"))?;
        let mut disk = Bed::like(tools, Plugin::Disk, &boot, &format!("Disk/{word}"))?;
        disk.conf["ipam"]["subnet"] = fill.subnet().into();
        for (bed, plugin) in [(boot, "Boot"), (disk, "Disk")] {
            // For comparison, also measure ADDs in another network of the same store. In that network, the
            // next address is free.
            let mut ordinary = bed.clone();
            ordinary.conf["name"] = "other".into();
            ordinary.conf["ipam"]["subnet"] = "10.240.0.0/12".into();
            beds.push((bed, format!("{plugin}/{word}")));
            beds.push((ordinary, format!("{plugin}/{word}, another network")));
        }
    }
    let mut full = Vec::new();
    for plugin in [Plugin::Boot, Plugin::Disk] {
        let name = format!("{plugin:?}/full");
        full.push((Bed::filled(tools, plugin, Fill::All, &name)?, name));
    }

    let rounds = if tools.quick { 30 } else { 220 };
    say(&format!("{rounds} rounds over {} stores", beds.len() + full.len()));
    let warm = 3;
    for round in 0..rounds + warm {
        let mut note = |name: &str, verb: &str, ms: f64| {
            if round >= warm {
                results.samples.push(&format!("{name}/{verb}"), ms);
            }
        };
        // A program leaves its data in the processor's caches, which affects the next program. Therefore run
        // the programs in a different order in each round.
        for at in order(beds.len(), round) {
            let (bed, name) = &beds[at];
            let id = id(round);
            let added = bed.must("ADD", &id)?;
            note(name, "ADD", added.ms);
            if !matches!(bed.plugin, Plugin::Floor | Plugin::FloorWrite) {
                note(name, "CHECK", bed.check(&id, &added.stdout)?.ms);
                note(name, "DEL", bed.must("DEL", &id)?.ms);
                // Leave out host-local with 10,000 leases, because each of its calls takes a tenth of a
                // second.
                if bed.plugin != Plugin::HostLocal || !name.ends_with("/10000") {
                    note(name, "DEL unknown", bed.must("DEL", "unknown")?.ms);
                }
            }
        }
        for (bed, name) in &full {
            let call = bed.call("ADD", &id(round))?;
            ensure!(!call.ok && call.stdout.contains("100"), "not exhausted: {}", call.stdout);
            note(name, "ADD", call.ms);
        }
    }
    let largest = *sizes(Plugin::Boot, tools.quick).last().unwrap_or(&0);
    results.facts.insert("boot/leases".to_owned(), largest.into());
    for plugin in ["Boot", "Disk"] {
        let name = format!("{plugin}/{largest}");
        if let Some((bed, _)) = beds.iter().find(|(_, n)| *n == name) {
            readers::measure(tools, bed, rounds.min(200), results)?;
        }
    }
    let name = format!("Boot/{largest}");
    if let Some((bed, _)) = beds.iter().find(|(_, n)| *n == name) {
        first_of_boot(tools, bed, rounds, results)?;
    }
    Ok(())
}

/// Returns the numbers below `len` in an order that differs from round to round. It is pseudo-random, but the
/// same in each run of the benchmark.
pub fn order(len: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut chance = round as u64 + 1;
    for at in (1..len).rev() {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Use only the high bits, because the low bits of this pseudo-random sequence are not random enough.
        let other = usize::try_from((chance >> 33) % (at as u64 + 1)).unwrap_or(0);
        order.swap(at, other);
    }
    order
}

/// Measures the first ADD after a reboot, which creates the boot file.
fn first_of_boot(tools: &Tools, bed: &Bed, rounds: usize, results: &mut Results) -> Result<()> {
    let Some(boot_id) = &tools.boot_id else {
        say("the boot ID cannot be replaced here: no first ADD of a boot");
        return Ok(());
    };
    say("the first ADD of a boot");
    let this = fs::read_to_string(boot_id)?;
    for round in 0..rounds {
        let boot = format!("{round:08x}-0000-4000-8000-000000000000");
        // Write the file in place, because the bind mount refers to its inode.
        fs::write(boot_id, format!("{boot}\n"))?;
        let added = bed.must("ADD", &id(round))?;
        results.samples.push("Boot/first/ADD", added.ms);
        ensure!(added.stdout.contains("10.0.0.2/12"), "not a new store: {}", added.stdout);
        fs::write(boot_id, &this)?;
        fs::remove_file(bed.dir.join(format!("leases.redb.boot-{boot}")))?;
    }
    Ok(())
}
