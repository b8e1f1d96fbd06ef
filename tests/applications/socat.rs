//! socat, which forks for each connection.

use std::path::Path;

use crate::site::{Form, Site, by_engine, every, nobody_crashed};
use crate::support::Server;

/// The command of docs/applications.md.
pub const COMMAND: &str = "socat openssl-listen:8443,bind=127.0.0.1,reuseaddr,fork,cert=/etc/pki/server.pem,key=/etc/pki/server.key,verify=0 exec:cat";

#[test]
fn socat_serves_each_connection_in_a_process_of_its_own() {
    every("socat", "socat", Form::FILES, serve);
    by_engine("socat", "socat", serve);
}

fn serve(site: &Site) {
    let command = site.here(COMMAND);
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let socat = site.program("socat", &words);
    let server = Server::foreground(socat, site.port, Path::new(&site.log));
    let client = site.client().request("served\n");
    site.all_made(&server, &client.times(2 * crate::site::requests()), 2 * crate::site::requests());
    site.signed(2 * crate::site::requests());
    nobody_crashed(&server.stop("TERM"));
}
