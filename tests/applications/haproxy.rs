//! HAProxy: it loads the key as root, and gives up its rights and its file system before it signs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::site::{Form, Site, by_engine, every, is_root, nobody_crashed};
use crate::support::{Program, Server, softhsm};

#[test]
fn haproxy_serves_as_its_own_user_through_a_reload() {
    if is_root("HAProxy") {
        every("HAProxy", "haproxy", Form::FILES, |site| serve(site, &bundled(site)));
        by_engine("HAProxy", "haproxy", |site| serve(site, &bundled(site)));
    }
}

#[test]
fn haproxy_serves_in_a_chroot_through_a_reload() {
    if !is_root("HAProxy in a chroot") {
        return;
    }
    let serve_in_it = |site: &Site| {
        let root = chroot(site);
        let snippet = bundled(site);
        let text = fs::read_to_string(&snippet).expect("our own file");
        let text = text.replace("global\n", &format!("global\n    chroot {root}\n"));
        fs::write(&snippet, text).expect("our own file");
        serve(site, &snippet);
    };
    every("HAProxy in a chroot", "haproxy", Form::FILES, serve_in_it);
    by_engine("HAProxy in a chroot", "haproxy", serve_in_it);
}

/// HAProxy with one thread, and a C_Sign of so many milliseconds.
fn one_thread(site: &Site, milliseconds: u32, keywords: &[&str]) -> Server {
    let settings = format!("rules = on\nlatency = 0\nlatency_c_sign = {milliseconds}ms");
    site.hsm.recorder.settings(&settings);
    let snippet = bundled(site);
    let text = fs::read_to_string(&snippet).expect("our own file");
    let asynchronous = |line: &&str| !["ssl-mode-async", "insecure-fork-wanted"].contains(&line.trim());
    let own: String = text.lines().filter(asynchronous).flat_map(|line| [line, "\n"]).collect();
    let lines: String = keywords.iter().map(|line| format!("    {line}\n")).collect();
    fs::write(&snippet, own.replace("global\n", &format!("global\n    nbthread 1\n{lines}")))
        .expect("our own file");
    let haproxy = site.program("haproxy", &["-W", "-f", &snippet]);
    Server::foreground(haproxy, site.port, Path::new(&site.log))
}

/// Handshakes in a second, of 64 clients.
fn rate(site: &Site, milliseconds: u32, keywords: &[&str]) -> f64 {
    let server = one_thread(site, milliseconds, keywords);
    // The first pays for the login.
    site.all_made(&server, &site.client().times(1), 1);
    let (load, begun) = (site.client().start(64), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let handshakes = load.stop();
    let rate = f64::from(handshakes.made) / begun.elapsed().as_secs_f64();
    site.all_made(&server, &handshakes, handshakes.made);
    nobody_crashed(&server.stop("USR1"));
    rate
}

const ASYNC: &[&str] = &["ssl-mode-async", "insecure-fork-wanted"];

#[test]
fn one_thread_of_haproxy_keeps_a_slow_hsm_busy() {
    if !is_root("HAProxy") {
        return;
    }
    every("HAProxy", "haproxy", Form::FILES, |site| {
        let (blocked, free) = (rate(site, 20, &[]), rate(site, 20, ASYNC));
        eprintln!(
            "20 ms: {blocked:.0} and {free:.0} handshakes a second, {:.1} times as many",
            free / blocked
        );
        assert!(free >= 4.0 * blocked, "{free} and {blocked}");
        if std::env::var_os("HSMKEY_SOAK").is_some() {
            let [at_once, five] = [0, 5].map(|latency| rate(site, latency, ASYNC));
            eprintln!(
                "0 ms: {at_once:.0}; 5 ms: {:.2} of it, 20 ms: {:.2} of it",
                five / at_once,
                free / at_once
            );
        }
    });
}

#[test]
fn haproxy_whose_user_may_start_no_thread_signs_all_the_same_and_the_log_says_so() {
    if !is_root("HAProxy") {
        return;
    }
    every("HAProxy", "haproxy", Form::FILES, |site| {
        let server = one_thread(site, 1, &["ssl-mode-async"]);
        site.all_made(&server, &site.http().times(20), 20);
        let said = server.stop("USR1");
        nobody_crashed(&said);
        assert_eq!(said.matches("no thread can be started").count(), 1, "{said}");
    });
}

#[test]
fn clients_that_vanish_and_an_hsm_that_fails_in_mid_handshake_cost_haproxy_nothing() {
    if !is_root("HAProxy") {
        return;
    }
    every("HAProxy", "haproxy", Form::FILES, |site| {
        let server = one_thread(site, 20, ASYNC);
        // The port is open before there is one.
        site.until("at work", || !server.workers().is_empty());
        let [worker] = server.workers()[..] else { panic!("not one worker") };
        let open = || fs::read_dir(format!("/proc/{worker}/fd")).expect("it runs").count();
        let load = site.client().start(16);
        std::thread::sleep(Duration::from_secs(1));
        let all = load.stop();
        site.all_made(&server, &all, all.made);
        let before = open();
        site.hsm.recorder.control("device-error on=C_Sign every=5");
        let load = site.client().start(4);
        for _ in 0..200 {
            site.client().vanish().expect("a server that listens");
        }
        let others = load.stop();
        site.all_made(&server, &others, others.made);
        site.hsm.recorder.clear_faults();
        site.until("rid of the vanished", || open() <= before);
        site.all_made(&server, &site.http().times(10), 10);
        assert_eq!(server.workers(), [worker]);
        nobody_crashed(&server.stop("USR1"));
    });
}

/// The configuration, with certificate and key in one file.
fn bundled(site: &Site) -> String {
    let read = |path: &str| fs::read_to_string(path).expect("our own file");
    let bundle = site.hsm.token.write("bundle.pem", read(&site.certificate) + &read(&site.key));
    site.configure("haproxy.cfg", &[("/etc/haproxy/server.pem", &bundle)])
}

/// The site's directory as a root directory, with what the PKCS#11 module reads in it. Paths in it mean what they mean outside.
fn chroot(site: &Site) -> String {
    let root = site.path("");
    let root = root.trim_end_matches('/');
    let beneath = |path: &str| Path::new(root).join(path.trim_start_matches('/'));
    let own = beneath(root);
    fs::create_dir_all(own.parent().expect("a directory in a directory")).expect("a directory in the site's");
    symlink("/", own).expect("our own directory");
    // The stand-in and SoftHSM2, and the libraries they are linked with.
    for module in [crate::support::Recorder::module().to_str().expect("a path"), softhsm()] {
        let needed = Program::new("ldd", [module]).succeeds();
        let paths = needed.text().split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
        for path in paths.chain([module.to_owned()]) {
            fs::create_dir_all(beneath(&path).parent().expect("a file in a directory")).expect("a directory");
            fs::copy(&path, beneath(&path)).expect("a library");
        }
    }
    root.to_owned()
}

/// Without hsmkey.
pub fn refuses(site: &Site) {
    site.refuses(site.program("haproxy", &["-f", &bundled(site)]));
}

fn serve(site: &Site, configuration: &str) {
    site.program("haproxy", &["-c", "-f", configuration]).succeeds();
    assert_eq!(site.hsm.recorder.counts().calls(), 0);
    let haproxy = site.program("haproxy", &["-W", "-f", configuration]);
    let server = Server::foreground(haproxy, site.port, Path::new(&site.log));
    let workers = server.workers();
    site.serve(&server, &site.http(), || {
        server.signal("USR2");
        site.until("reloaded", || server.workers().iter().any(|worker| !workers.contains(worker)));
    });
    site.until("rid of the old worker", || !server.workers().iter().any(|worker| workers.contains(worker)));
    // Only the new one can answer, and one that has not begun yet loses the signal: it would run for ever.
    site.all_made(&server, &site.http().times(1), 1);
    let said = server.stop("USR1");
    nobody_crashed(&said);
    let ended: Vec<_> = said.lines().filter(|line| line.contains(") exited with code ")).collect();
    assert!(!ended.is_empty() && ended.iter().all(|line| line.contains("code 0")), "{said}");
}
