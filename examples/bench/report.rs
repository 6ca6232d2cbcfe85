//! Writes the report. It begins with the measured ratios and their limits, and then lists all measurements.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::Tools;
use super::bed::Plugin;
use super::latency::sizes;
use super::stats::{Sample, Samples};
use super::swarm::Swarm;

/// The properties of a call that do not depend on how busy the machine is.
#[derive(Clone, Default)]
pub struct Counts {
    pub flushes: usize,
    pub syscalls: usize,
    pub instructions: Option<u64>,
    pub faults: u64,
    pub rss_kib: u64,
}

/// All results of the benchmark.
#[derive(Default)]
pub struct Results {
    /// The measured durations, by `plugin/store/command`.
    pub samples: Samples,
    /// The counts of flushes, system calls and so on, by `plugin/store/command`.
    pub counts: BTreeMap<String, Counts>,
    pub swarms: Vec<Swarm>,
    /// Results that are single numbers, by name.
    pub facts: BTreeMap<String, f64>,
}

impl Results {
    fn swarm(&self, plugin: Plugin, leases: u32, processes: usize) -> Option<&Swarm> {
        self.swarms
            .iter()
            .find(|s| s.plugin == plugin && s.leases == leases && s.processes == processes)
    }

    /// Returns the largest peak memory that a call of sublet needed, in MiB.
    fn rss(&self) -> f64 {
        let ours =
            self.counts.iter().filter(|(k, _)| k.starts_with("Boot") || k.starts_with("Disk"));
        to_f64(ours.map(|(_, c)| c.rss_kib).max().unwrap_or(0)) / 1024.0
    }

    fn flushes(&self, plugin: Plugin, verb: &str) -> f64 {
        let name = format!("{plugin:?}/");
        let of = self.counts.iter().filter(|(k, _)| k.starts_with(&name) && k.ends_with(verb));
        let most = of.map(|(_, c)| c.flushes).max().unwrap_or(0);
        u32::try_from(most).unwrap_or(u32::MAX).into()
    }

    /// Returns the median duration of a call in milliseconds if each flush takes one millisecond longer. This
    /// is the median without the delay, plus the median of the additional time that was measured in each
    /// round.
    fn slowed(&self, name: &str) -> f64 {
        let at = |kind: &str| self.samples.get(&format!("{name} {kind}"));
        self.samples.p50(name) + at("delayed").minus(&at("traced")).p50()
    }
}

fn to_f64(count: u64) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

/// A measured value, and the limit that it must meet.
struct Bar {
    what: String,
    got: f64,
    unit: &'static str,
    limit: f64,
    /// Whether the limit is a minimum (otherwise, it is a maximum).
    least: bool,
}

impl Bar {
    fn met(&self) -> bool {
        if self.least { self.got >= self.limit } else { self.got <= self.limit }
    }

    fn word(&self) -> &'static str {
        match (self.got.is_nan(), self.met()) {
            (true, _) => "not measured",
            (_, true) => "met",
            (_, false) => "**not met**",
        }
    }
}

/// Adds the limits for the ADDs that ran while readers read the store. `most` adds a maximum.
fn readers(results: &Results, leases: f64, most: &mut dyn FnMut(&str, f64, &'static str, f64)) {
    for plugin in ["Boot", "Disk"] {
        let at = |what: &str| format!("{plugin}/readers/{what}");
        let longer = results.samples.get(&at("beside")).max() - results.samples.p50(&at("idle"));
        let what = format!("ADD beside four readers, {plugin}, {leases} leases: max - idle median");
        most(&what, longer, "ms", 100.0);
        for reader in ["list", "doctor", "subletd"] {
            let mib = results.facts.get(&at(&format!("{reader} MiB"))).copied();
            let what = format!("peak memory of {reader}, {plugin}, {leases} leases");
            most(&what, mib.unwrap_or(f64::NAN), "MiB", 64.0);
        }
    }
}

fn bars(results: &Results) -> Vec<Bar> {
    let s = &results.samples;
    let mut bars = Vec::new();
    let mut most = |what: &str, got: f64, unit: &'static str, bar: f64| {
        bars.push(Bar { what: what.to_owned(), got, unit, limit: bar, least: false });
    };
    for (plugin, bar) in [("Boot", 0.4), ("Disk", 0.6), ("Musl", 0.2)] {
        let ratio = s.p50(&format!("{plugin}/0/ADD")) / s.p50("HostLocal/0/ADD");
        most(&format!("ADD, empty store, {plugin} / host-local"), ratio, "x", bar);
    }
    for plugin in ["Boot", "Disk"] {
        let empty = |verb: &str| s.p50(&format!("{plugin}/0/{verb}"));
        for (size, bar) in [(10_000, 1.15), (100_000, 1.25), (1_000_000, 1.5)] {
            for verb in ["ADD", "CHECK", "DEL"] {
                if verb != "ADD" && size < 1_000_000 {
                    continue;
                }
                let ratio = s.p50(&format!("{plugin}/{size}/{verb}")) / empty(verb);
                most(&format!("{verb}, {plugin}, {size} leases / empty"), ratio, "x", bar);
            }
        }
        for (store, than, what) in [
            ("one-free", "one-free", "a /16 with one free address"),
            ("every-second", "every-second", "a /12 with every second taken"),
            ("full", "one-free", "an exhausted /16"),
        ] {
            let ordinary = s.p50(&format!("{plugin}/{than}, another network/ADD"));
            let ratio = s.p50(&format!("{plugin}/{store}/ADD")) / ordinary;
            most(&format!("ADD, {plugin}, {what} / another network's"), ratio, "x", 1.1);
        }
        let largest =
            if s.get(&format!("{plugin}/1000000/ADD")).len() > 0 { 1_000_000 } else { 100_000 };
        let ratio = s.p50(&format!("{plugin}/{largest}/DEL unknown")) / empty("DEL");
        most(
            &format!("DEL of an unknown container, {plugin}, {largest} leases / a DEL"),
            ratio,
            "x",
            1.1,
        );
    }
    let faults = results.counts.get("Musl/0/ADD").map_or(f64::NAN, |c| to_f64(c.faults));
    most("page faults of an ADD, empty store, Musl", faults, "", 89.0);
    let largest = results.facts.get("boot/leases").copied().unwrap_or(f64::NAN);
    let ratio = s.p50("Boot/first/ADD") / s.p50("Boot/0/ADD");
    most(&format!("first ADD of a boot over {largest} old leases / empty"), ratio, "x", 3.0);
    for plugin in [Plugin::Boot, Plugin::Disk] {
        let bar = if plugin == Plugin::Boot { 0.0 } else { 2.0 };
        for verb in ["ADD", "DEL"] {
            most(
                &format!("flushes of a {plugin:?} {verb}"),
                results.flushes(plugin, verb),
                "",
                bar,
            );
        }
        most(&format!("flushes of a {plugin:?} CHECK"), results.flushes(plugin, "CHECK"), "", 0.0);
    }
    most("peak memory of ADD, DEL, CHECK, STATUS, all sizes", results.rss(), "MiB", 4.0);
    readers(results, largest, &mut most);
    for plugin in ["Boot", "Disk"] {
        let rss = results.facts.get(&format!("{plugin}/gc/rss")).copied().unwrap_or(f64::NAN);
        most(&format!("GC of 100,000 leases, half valid, {plugin}: peak memory"), rss, "MiB", 48.0);
        let ms = s.p50(&format!("{plugin}/gc/GC"));
        most(&format!("GC of 100,000 leases, half valid, {plugin}: time"), ms, "ms", 2_000.0);
    }
    for ipam in ["sublet boot", "sublet disk"] {
        let tax = s.get(&format!("tax/{ipam}")).minus(&s.get("tax/static")).p50();
        most(&format!("IPAM tax, {ipam}, p50"), tax, "ms", 0.4);
        let tax = s.get(&format!("tax busy/{ipam}")).p99() - s.get("tax busy/static").p99();
        most(&format!("IPAM tax beside a writer, {ipam}, p99"), tax, "ms", 5.0);
    }
    // The original limits were 1,200 and 800 ADDs per second, on a machine on which host-local reaches 339
    // ADDs per second. Machines differ, so the limits are expressed as multiples of host-local's rate.
    let host_local = results.swarm(Plugin::HostLocal, 0, 64).map_or(f64::NAN, |s| s.per_second);
    for (plugin, limit) in [(Plugin::Boot, 3.54), (Plugin::Disk, 2.36)] {
        for leases in [0, 10_000] {
            let swarm = results.swarm(plugin, leases, 64);
            let rate = swarm.map_or(f64::NAN, |s| s.per_second);
            let at = format!("64 at once, {plugin:?}, {leases} leases");
            let mut bar = |what: &str, got: f64, unit: &'static str, limit: f64, least: bool| {
                bars.push(Bar { what: format!("{at}: {what}"), got, unit, limit, least });
            };
            bar("ADDs a second / host-local's, empty", rate / host_local, "x", limit, true);
            let longest = swarm.map_or(f64::NAN, |s| s.longest);
            bar("longest / mean", longest / (64.0 * 1e3 / rate), "x", 1.5, false);
            let wrong = swarm.map_or(0, |s| s.failures + s.duplicates);
            let wrong = u32::try_from(wrong).unwrap_or(u32::MAX).into();
            bar("failures, duplicates", wrong, "", 0.0, false);
        }
    }
    for (fact, what, limit) in [
        ("killed holder", "the next after a killed holder, p50", 5.0),
        ("timeout", "an answer behind its lockTimeout, p99", 50.0),
    ] {
        let got = if fact == "timeout" { s.get(fact).p99() } else { s.p50(fact) };
        bars.push(Bar { what: what.to_owned(), got, unit: "ms", limit, least: false });
    }
    bars
}

/// Returns each measured value and its limit as a line for the terminal.
pub fn verdicts(results: &Results) -> Vec<String> {
    bars(results)
        .iter()
        .map(|b| {
            let sign = if b.least { ">=" } else { "<=" };
            let word = b.word().trim_matches('*');
            format!("{word:12} {:<75} {:9.2} {sign} {} {}", b.what, b.got, b.limit, b.unit)
        })
        .collect()
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cpus = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let load = read("/proc/loadavg");
    let mut load = load.split(' ');
    format!(
        "{cpus} x {}, {} GiB, Linux {}; load average at the end of the run: {} (1 minute), {} (5 minutes)",
        model.map_or("unknown processor", |(_, m)| m),
        memory.unwrap_or(0) >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        load.next().unwrap_or_default(),
        load.next().unwrap_or_default(),
    )
}

fn file_system(tools: &Tools) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let at = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind, options) = (words.next()?, words.next()?, words.next()?);
        tools.work.starts_with(point).then(|| (point.len(), format!("{kind} ({options})")))
    });
    at.max().map_or_else(|| "unknown".to_owned(), |(_, text)| text)
}

/// Returns a number of milliseconds with two decimals; `-` if it was not measured.
fn ms(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.2}") }
}

/// Returns those lines of the report that the README also contains.
fn summary(results: &Results) -> String {
    let s = &results.samples;
    let add = |store: &str| s.p50(&format!("{store}/ADD"));
    let (boot, disk, theirs) = (add("Boot/0"), add("Disk/0"), add("HostLocal/0"));
    let largest = results.facts.get("boot/leases").copied().unwrap_or(f64::NAN);
    let swarm = |plugin| results.swarm(plugin, 0, 64);
    let rate = |plugin| swarm(plugin).map_or(f64::NAN, |s| s.per_second);
    let longest =
        |plugin| swarm(plugin).map_or(f64::NAN, |s| s.longest / (64.0 * 1e3 / s.per_second));
    let (boot_largest, disk_largest) =
        (add(&format!("Boot/{largest}")), add(&format!("Disk/{largest}")));
    let theirs_larger = add("HostLocal/10000");
    format!(
        "- An ADD takes {boot:.2} ms with `persist: boot`, and {disk:.2} ms with `persist: disk` (host-local: \
         {theirs:.2} ms; a process that does nothing: {:.2} ms). That is {:.2} and {:.2} times as long as host-local \
         takes.\n\
         - With {largest} leases in the store, an ADD takes {boot_largest:.2} ms with `boot`, and \
         {disk_largest:.2} ms with `disk`. That is {:.2} and {:.2} times as long as with an empty store. With 10000 \
         leases, host-local takes {theirs_larger:.2} ms, which is {:.0} times as long as without leases.\n\
         - 64 processes that run at the same time make {:.0} ADDs per second with `boot`, and {:.0} with `disk` \
         (host-local: {:.0}). The slowest ADD takes {:.2} times the mean with `boot`, and {:.2} times the mean with \
         `disk` (host-local: {:.2} times).\n",
        add("Floor/0"),
        boot / theirs,
        disk / theirs,
        boot_largest / boot,
        disk_largest / disk,
        theirs_larger / theirs,
        rate(Plugin::Boot),
        rate(Plugin::Disk),
        rate(Plugin::HostLocal),
        longest(Plugin::Boot),
        longest(Plugin::Disk),
        longest(Plugin::HostLocal),
    )
}

/// Returns the content of `docs/bench.md`.
pub fn markdown(tools: &Tools, results: &Results) -> Result<String> {
    let s = &results.samples;
    let mut out = String::new();
    let n = s.get("Boot/0/ADD").len();
    let run = if tools.quick { "`scripts/bench.sh --quick`" } else { "`scripts/bench.sh`" };
    writeln!(
        out,
        "# Benchmarks\n\nThis page was written by {run}, in one run on one machine. In each of {n} rounds,"
    )?;
    writeln!(
        out,
        "all programs take turns. Times are in milliseconds, from the start of a program to its end. Each"
    )?;
    writeln!(out, "program reads its configuration from a pipe. host-local is Debian's.\n")?;
    writeln!(
        out,
        "Machine: {}.\nStores on {}.\nPrograms: {}.\n",
        machine(),
        file_system(tools),
        tools.built
    )?;
    writeln!(out, "![ADD over the number of leases](bench.svg)\n")?;
    writeln!(out, "## In three lines\n\n{}", summary(results))?;

    writeln!(out, "## The bar\n\n| | measured | bar | |\n|---|--:|--:|---|")?;
    for bar in bars(results) {
        let sign = if bar.least { "at least" } else { "at most" };
        let (got, unit) = (bar.got, bar.unit);
        writeln!(
            out,
            "| {} | {got:.2} {unit} | {sign} {} | {} |",
            bar.what,
            bar.limit,
            bar.word()
        )?;
    }

    writeln!(out, "\n## One call at a time (ms)\n")?;
    writeln!(
        out,
        "| | leases | ADD p50 | p99 | CHECK p50 | p99 | DEL p50 | p99 | DEL unknown p50 |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for plugin in tools.plugins() {
        let mut stores: Vec<String> =
            sizes(plugin, tools.quick).iter().map(ToString::to_string).collect();
        if matches!(plugin, Plugin::Boot | Plugin::Disk) {
            stores.extend(SPECIAL.map(str::to_owned));
        }
        if plugin == Plugin::Boot {
            stores.extend(["first", "second"].map(str::to_owned));
        }
        for store in stores {
            let at = |verb: &str| s.get(&format!("{plugin:?}/{store}/{verb}"));
            let pair = |verb: &str| {
                let sample = at(verb);
                format!("{} | {}", ms(sample.p50()), ms(sample.p99()))
            };
            let label = label(&store);
            writeln!(
                out,
                "| {} | {label} | {} | {} | {} | {} |",
                plugin.name(),
                pair("ADD"),
                pair("CHECK"),
                pair("DEL"),
                ms(at("DEL unknown").p50())
            )?;
        }
    }

    writeln!(out, "\n## Counted, of one call\n")?;
    writeln!(
        out,
        "| | leases | | flushes | system calls | instructions | page faults | peak KiB |"
    )?;
    writeln!(out, "|---|--:|---|--:|--:|--:|--:|--:|")?;
    let mut counts: Vec<_> = results.counts.iter().collect();
    counts.sort_by_key(|(name, _)| place(name));
    for (name, c) in counts {
        let mut words = name.splitn(3, '/');
        let (plugin, leases, verb) =
            (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
        let instructions = c.instructions.map_or("-".to_owned(), |n| n.to_string());
        writeln!(
            out,
            "| {plugin} | {leases} | {verb} | {} | {} | {instructions} | {} | {} |",
            c.flushes, c.syscalls, c.faults, c.rss_kib
        )?;
    }
    let size = fs::metadata(&tools.sublet)?.len();
    let musl = tools.musl.as_ref().map(fs::metadata).transpose()?;
    let musl = musl.map_or_else(String::new, |m| format!(", for musl {}", m.len()));
    writeln!(out, "\nBinary: {size} bytes{musl}.\n")?;

    parallel(&mut out, results)?;
    tax(&mut out, results)?;
    slow(&mut out, results)?;
    for (name, seconds) in results.facts.iter().filter(|(k, _)| k.starts_with("fill/")) {
        writeln!(out, "- filling {}: {seconds:.1} s, one transaction", &name["fill/".len()..])?;
    }
    Ok(out)
}

/// The names of the stores with special contents, such as a range with one free address.
const SPECIAL: [&str; 5] = [
    "one-free",
    "one-free, another network",
    "every-second",
    "every-second, another network",
    "full",
];

/// Returns the sort key of a row: the program, then the size.
fn place(name: &str) -> (usize, u32) {
    let mut words = name.split('/');
    let order = ["Floor", "FloorWrite", "HostLocal", "Boot", "Disk", "Musl"];
    let plugin = words.next().unwrap_or_default();
    let size = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
    (order.iter().position(|o| *o == plugin).unwrap_or(order.len()), size)
}

fn label(store: &str) -> &str {
    match store {
        "one-free" => "/16, one free",
        "one-free, another network" | "every-second, another network" => {
            "the same, another network"
        }
        "every-second" => "/12, every second",
        "full" => "/16, exhausted",
        "first" => "first of a boot",
        "second" => "first of the next",
        number => number,
    }
}

fn parallel(out: &mut String, results: &Results) -> Result<()> {
    writeln!(
        out,
        "## Many at once\n\nEach measurement was made three times (host-local: once). The table shows the rate, p50 and p99 of the run with the median rate, and the median of the longest waits of the three runs.\n"
    )?;
    writeln!(
        out,
        "| | leases at start | processes | ADDs/s | p50 | p99 | longest (ms) | failures | duplicates |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for w in &results.swarms {
        let (p50, p99, max) = (w.waits.p50(), w.waits.p99(), w.longest);
        let duplicates =
            if w.plugin == Plugin::Floor { "-".to_owned() } else { w.duplicates.to_string() };
        let failures =
            if w.plugin == Plugin::Floor { "-".to_owned() } else { w.failures.to_string() };
        writeln!(
            out,
            "| {} | {} | {} | {:.0} | {p50:.1} | {p99:.1} | {max:.1} | {failures} | {duplicates} |",
            w.plugin.name(),
            w.leases,
            w.processes,
            w.per_second
        )?;
    }
    Ok(())
}

fn tax(out: &mut String, results: &Results) -> Result<()> {
    writeln!(
        out,
        "\n## The IPAM tax\n\nAn ADD of Debian's bridge in a real network namespace with different IPAM plugins, in ms. The tax is the"
    )?;
    writeln!(
        out,
        "additional time compared with the IPAM plugin `static`: the median of the differences in each round.\n"
    )?;
    writeln!(
        out,
        "| IPAM | p50 | p99 | tax p50 | beside a writer p50 | p99 | tax p50 | tax p99 |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|")?;
    let s = &results.samples;
    let base = |name: &str| s.get(&format!("{name}/static"));
    for ipam in ["static", "host-local", "sublet boot", "sublet disk"] {
        let (quiet, busy) = (s.get(&format!("tax/{ipam}")), s.get(&format!("tax busy/{ipam}")));
        let tax = |all: &Sample, name: &str| ms(all.minus(&base(name)).p50());
        writeln!(
            out,
            "| {ipam} | {} | {} | {} | {} | {} | {} | {} |",
            ms(quiet.p50()),
            ms(quiet.p99()),
            tax(&quiet, "tax"),
            ms(busy.p50()),
            ms(busy.p99()),
            tax(&busy, "tax busy"),
            ms(busy.p99() - base("tax busy").p99())
        )?;
    }
    writeln!(out, "\nThe last column is the difference from the p99 of `static` beside a writer.")?;
    Ok(())
}

fn slow(out: &mut String, results: &Results) -> Result<()> {
    writeln!(
        out,
        "\n## Flushes that take 1 ms more\n\nThe p50 of ADD and DEL in ms: the time without a tracer, plus the time that a"
    )?;
    writeln!(
        out,
        "tracer that delays flushes adds, compared with a tracer that does not delay them. host-local flushes"
    )?;
    writeln!(out, "nothing.\n\n| | leases | ADD | DEL |\n|---|--:|--:|--:|")?;
    for (plugin, size) in [
        (Plugin::FloorWrite, 0),
        (Plugin::Boot, 0),
        (Plugin::Boot, 10_000),
        (Plugin::Disk, 0),
        (Plugin::Disk, 10_000),
    ] {
        let name = format!("{plugin:?}/{size}");
        let (add, del) =
            (results.slowed(&format!("{name}/ADD")), results.slowed(&format!("{name}/DEL")));
        writeln!(out, "| {} | {size} | {} | {} |", plugin.name(), ms(add), ms(del))?;
    }
    if let Some(rate) = results.facts.get("slow/swarm") {
        writeln!(
            out,
            "\n64 processes at once, with `disk` and an empty store, when one tracer delays the flushes of all of them: {rate:.0} ADDs/s."
        )?;
    }
    writeln!(out)?;
    Ok(())
}
