//! docs/performance.md: the machine and the table of a run stand between two marks.

use std::fs;

use crate::support::{Program, repository};

const BEGIN: &str = "<!-- a run: written by HSMKEY_BENCH=write make bench -->\n";
const END: &str = "<!-- the end of the run -->\n";

/// What the figures were measured on, and by what command.
pub fn machine(load: [f64; 2]) -> String {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
        found.trim_matches([' ', '\t', ':', '"', '=']).to_owned()
    };
    let first = |program: &str, arguments: &[&str]| {
        Program::new(program, arguments).succeeds().text().lines().next().unwrap_or_default().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let named: String = ["HSMKEY_BENCH_ENGINE", "HSMKEY_BENCH_PROVIDER"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={} ", std::env::var(name).ok()?)))
        .collect();
    format!(
        "This run: {processors} processors ({}), {}, {}, SoftHSM2 {}, on {}; {:.1} programs were running or waiting for a processor before it began \
         and {:.1} when it ended (the load average); by\n\n    {named}make bench\n",
        line("/proc/cpuinfo", "model name"),
        line("/etc/os-release", "PRETTY_NAME"),
        first("openssl", &["version"]),
        first("softhsm2-util", &["--version"]),
        first("date", &["-u", "+%Y-%m-%d"]),
        load[0],
        load[1],
    )
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// Puts a run in the place of the last one.
pub fn write(run: &str) {
    let path = repository().join("docs/performance.md");
    let text = fs::read_to_string(&path).expect("docs/performance.md");
    let (before, rest) = text.split_once(BEGIN).expect("the mark where a run begins");
    let (_, after) = rest.split_once(END).expect("the mark where it ends");
    fs::write(path, format!("{before}{BEGIN}{run}{END}{after}")).expect("docs/performance.md");
}
