//! HAProxy: it loads the key as root, and gives up its rights and its file system before it signs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

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
    every("HAProxy in a chroot", "haproxy", Form::FILES, |site| {
        let root = chroot(site);
        let snippet = bundled(site);
        let text = fs::read_to_string(&snippet).expect("our own file");
        let text = text.replace("global\n", &format!("global\n    chroot {root}\n"));
        fs::write(&snippet, text).expect("our own file");
        serve(site, &snippet);
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
    let said = server.stop("USR1");
    nobody_crashed(&said);
    let ended: Vec<_> = said.lines().filter(|line| line.contains(") exited with code ")).collect();
    assert!(!ended.is_empty() && ended.iter().all(|line| line.contains("code 0")), "{said}");
}
