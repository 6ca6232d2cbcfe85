//! Draws a chart of the duration of an ADD against the number of leases, as an SVG. Both axes are
//! logarithmic.

use std::fmt::Write as _;

use super::bed::Plugin;
use super::latency::sizes;
use super::report::Results;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// The position of an empty store on the horizontal axis, as the logarithm of a number of leases. An empty
/// store needs a fixed position, because zero has no logarithm.
const EMPTY: f64 = 2.0;
const LAST: f64 = 6.0;
/// The lowest value on the vertical axis, as the logarithm of a number of milliseconds.
const LOW: f64 = -1.0;
const HIGH: f64 = 2.0;

fn x(leases: f64) -> f64 {
    let at = if leases < 1.0 { EMPTY } else { leases.log10() };
    LEFT + (at - EMPTY) / (LAST - EMPTY) * (WIDTH - LEFT - RIGHT)
}

fn y(ms: f64) -> f64 {
    HEIGHT - BOTTOM - (ms.log10() - LOW) / (HIGH - LOW) * (HEIGHT - TOP - BOTTOM)
}

/// Returns the content of `docs/bench.svg`.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    // Writing to a string never fails, so ignore the result.
    let _ = draw(results, &mut body);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn draw(results: &Results, out: &mut String) -> std::fmt::Result {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">ADD, whole process, median (ms) over leases \
         in the store</text>"
    )?;
    for (leases, label) in
        [(0.0, "0"), (1e3, "1,000"), (1e4, "10,000"), (1e5, "100,000"), (1e6, "1,000,000")]
    {
        let x = x(leases);
        writeln!(out, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#e4e4e4\"/>")?;
        writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">{label}</text>",
            bottom + 20.0
        )?;
    }
    for ms in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        let y = y(ms);
        writeln!(out, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e4e4e4\"/>")?;
        writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">{ms}</text>",
            LEFT - 8.0,
            y + 4.0
        )?;
    }
    let mut lowest_label = f64::MAX;
    for (plugin, colour) in [
        (Plugin::HostLocal, "#c0392b"),
        (Plugin::Disk, "#1f618d"),
        (Plugin::Boot, "#1e8449"),
        (Plugin::Floor, "#888888"),
    ] {
        let mut points: Vec<(f64, f64)> = sizes(plugin, false)
            .iter()
            .map(|&n| (f64::from(n), results.samples.p50(&format!("{plugin:?}/{n}/ADD"))))
            .filter(|(_, ms)| !ms.is_nan())
            .map(|(n, ms)| (x(n), y(ms)))
            .collect();
        let Some(&(first, level)) = points.first() else { continue };
        let floor = plugin == Plugin::Floor;
        if floor {
            points = vec![(first, level), (right, level)];
        }
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = if floor { " stroke-dasharray=\"4 4\"" } else { "" };
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        )?;
        for (x, y) in points.iter().filter(|_| !floor) {
            writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>")?;
        }
        let (x, mut y) = points.last().copied().unwrap_or((first, level));
        // The labels are drawn from top to bottom. Labels that would overlap are moved apart.
        if lowest_label < f64::MAX && plugin != Plugin::HostLocal {
            y = y.max(lowest_label + 15.0);
        }
        if plugin != Plugin::HostLocal {
            lowest_label = y;
        }
        let name = if floor { "process start" } else { plugin.name() };
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            x + 9.0,
            y + 4.0
        )?;
    }
    Ok(())
}
