//! nginx: a master that loads the key and reads the PIN, and workers that may do neither.

use std::path::Path;

use crate::site::{Form, Site, by_engine, by_engine_id, every, is_root, nobody_crashed};
use crate::support::Server;

#[test]
fn nginx_serves_through_a_reload() {
    if !is_root("nginx") {
        return;
    }
    every("nginx", "nginx", Form::FILES, serve);
}

#[test]
fn nginx_serves_through_a_reload_by_the_engine() {
    if is_root("nginx") {
        by_engine("nginx", "nginx", serve);
        by_engine_id("nginx", "nginx", |uri| format!("\"engine:hsmkey:{uri}\""), serve);
    }
}

/// nginx's configuration.
fn configured(site: &Site) -> String {
    let directory = site.directory("nginx");
    let (log, snippet) = (&site.log, site.configure("nginx.conf", &[]));
    // What the stand-in wants to know, AWS's library reads in /opt/cloudhsm: nginx clears its workers' environment.
    site.hsm.token.write(
            "main.conf",
            format!(
                "daemon off; worker_processes 2; user www-data; pid {directory}/pid; error_log {log} notice;
                 env CLOUDHSM_STANDIN; env SOFTHSM2_CONF;
                 events {{ worker_connections 64; }}
                 http {{
                    access_log off; ssl_session_cache off; ssl_session_tickets off;
                    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
                    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
                    include {snippet};
                 }}\n"
            ),
        )
}

/// Without hsmkey.
pub fn refuses(site: &Site) {
    let main = configured(site);
    site.refuses(site.program("nginx", &["-e", &site.log, "-c", &main]));
}

fn serve(site: &Site) {
    let main = configured(site);
    let program =
        |more: &[&str]| site.program("nginx", &[&["-e", &site.log, "-c", &main][..], more].concat());
    // A check of the configuration needs no HSM.
    program(&["-t"]).succeeds();
    if !site.key.contains("engine:") {
        assert_eq!(site.hsm.recorder.counts().calls(), 0);
    }

    let server = Server::foreground(program(&[]), site.port, Path::new(&site.log));
    let workers = server.workers();
    site.serve(&server, &site.http(), || {
        server.signal("HUP");
        site.until("reloaded", || server.workers().iter().any(|worker| !workers.contains(worker)));
    });
    site.until("rid of the old workers", || !server.workers().iter().any(|worker| workers.contains(worker)));
    let said = server.stop("QUIT");
    nobody_crashed(&said);
    let ended = |line: &&str| line.contains("worker process ") && line.contains(" exited with code ");
    let ended: Vec<_> = said.lines().filter(ended).collect();
    assert!(ended.len() == 4 && ended.iter().all(|line| line.ends_with("code 0")), "{said}");
}
