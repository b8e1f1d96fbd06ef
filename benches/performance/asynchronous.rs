//! A server with one thread: handshakes per second of HAProxy with asynchronous jobs, as a ratio to what it makes where nothing is waited for,
//! and to what it makes without jobs.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::sample::{Between, Budget, Sample, Verdict};
use crate::support::{Hsm, Key, Program, Server, TlsClient, free_port, repository};
use crate::table::Table;

const ROUNDS: usize = 5;
const MOST_ROUNDS: usize = 15;
const CLIENTS: usize = 64;
/// Of one measurement.
const TIME: Duration = Duration::from_secs(2);
/// What makes jobs of handshakes, and lets threads be started.
const ASYNC: [&str; 2] = ["ssl-mode-async", "insecure-fork-wanted"];

pub fn measure(table: &mut Table) {
    let figure = |what: &str| format!("handshakes of HAProxy's one thread, {CLIENTS} clients, {what}");
    let budgets = [
        ("5 ms per C_Sign, against 0 ms", 5, Budget::Least(0.8)),
        ("20 ms per C_Sign, against 0 ms", 20, Budget::Least(0.8)),
    ];
    let without = ("20 ms per C_Sign, against ssl-mode-async off", Budget::Least(8.0));
    let Some(program) = installed() else {
        for what in budgets.map(|(what, ..)| what).into_iter().chain([without.0]) {
            table.row(&figure(what), "", "there is no haproxy", Verdict::Unclear, "");
        }
        return;
    };
    let hsm = Hsm::cloudhsm();
    let site = Site::new(&hsm, &hsm.import_rsa(2048, "bench"), program);
    let mut at_once = Between::new(|| site.rate(0, true));
    for (what, milliseconds, budget) in budgets {
        let sample =
            Sample::of(budget, ROUNDS, MOST_ROUNDS, || at_once.ratio(|| site.rate(milliseconds, true)));
        table.ratio(&figure(what), budget, &sample, "");
    }
    let mut blocked = Between::new(|| site.rate(20, false));
    let sample = Sample::of(without.1, ROUNDS, MOST_ROUNDS, || blocked.ratio(|| site.rate(20, true)));
    table.ratio(&figure(without.0), without.1, &sample, "");
}

fn installed() -> Option<&'static str> {
    ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].into_iter().find(|path| Path::new(path).exists())
}

struct Site<'a> {
    hsm: &'a Hsm,
    program: &'static str,
    certificate: String,
    /// Certificate and key.
    bundle: String,
}

impl<'a> Site<'a> {
    fn new(hsm: &'a Hsm, key: &Key, program: &'static str) -> Self {
        let certificate = hsm.token.path("certificate.pem");
        let of = ["-key", &key.software_file, "-out", &certificate, "-subj", "/CN=localhost"];
        Program::stock_openssl(["req", "-x509", "-new"].into_iter().chain(of)).succeeds();
        let read = |path: &str| std::fs::read_to_string(path).expect("our own file");
        let bundle = hsm.token.write("bundle.pem", read(&certificate) + &read(&key.file));
        Self { hsm, program, certificate, bundle }
    }

    /// conf/haproxy.cfg with one thread, as whoever runs this, with jobs or without.
    fn rate(&self, milliseconds: u32, asynchronous: bool) -> f64 {
        self.hsm.recorder.settings(&format!("rules = on\nlatency = 0\nlatency_c_sign = {milliseconds}ms"));
        let port = free_port();
        let text = std::fs::read_to_string(repository().join("conf/haproxy.cfg")).expect("a file of conf/");
        let dropped = |line: &str| {
            line.starts_with("user ")
                || line.starts_with("group ")
                || (!asynchronous && ASYNC.contains(&line))
        };
        let lines: String =
            text.lines().filter(|line| !dropped(line.trim())).flat_map(|line| [line, "\n"]).collect();
        let lines = lines
            .replace("global\n", "global\n    nbthread 1\n")
            .replace("/etc/haproxy/server.pem", &self.bundle)
            .replace("127.0.0.1:8443", &format!("127.0.0.1:{port}"));
        let configuration = self.hsm.token.write("haproxy.cfg", lines);
        let log = self.hsm.token.path("haproxy.log");
        let haproxy = self.hsm.program(self.program, ["-W", "-f", &configuration]);
        let server = Server::foreground(haproxy, port, Path::new(&log));
        let client = TlsClient::new(port, &self.certificate);
        // The first pays for the login, those of all clients for the sessions.
        client.times(1);
        client.start(CLIENTS).stop();
        let (load, begun) = (client.start(CLIENTS), Instant::now());
        std::thread::sleep(TIME);
        let handshakes = load.stop();
        let rate = f64::from(handshakes.made) / begun.elapsed().as_secs_f64();
        let failed = handshakes.failed.first();
        assert!(failed.is_none(), "{failed:?}\n{}", server.said());
        server.stop("USR1");
        rate
    }
}
