//! Mosquitto, and its own client.

use std::path::Path;

use crate::site::{Form, Site, by_engine, every, installed, is_root, nobody_crashed};
use crate::support::{Program, Server};
use crate::table::skipped;

#[test]
fn mosquitto_serves_as_its_own_user_through_a_reload() {
    if !is_root("Mosquitto") {
        return;
    }
    if installed("mosquitto_pub").is_none() {
        return skipped("Mosquitto", "there is no mosquitto_pub");
    }
    every("Mosquitto", "mosquitto", Form::FILES, serve);
    by_engine("Mosquitto", "mosquitto", serve);
}

fn serve(site: &Site) {
    let main = site.configure("mosquitto.conf", &[]);
    // It loads the key after it has become its own user.
    site.give_to("mosquitto", &[&site.key]);
    let mosquitto = site.program_as("mosquitto", "mosquitto", &["-c", &main, "-v"]);
    let server = Server::foreground(mosquitto, site.port, Path::new(&site.log));
    let port = site.port.to_string();
    let publish = || {
        let to = ["-h", "127.0.0.1", "-p", &port, "--cafile", &site.certificate, "--insecure"];
        Program::new("mosquitto_pub", to.iter().chain(&["-q", "1", "-t", "test", "-m", "served"])).succeeds();
    };
    publish();
    site.serve(&server, &site.client(), || {
        server.signal("HUP");
        site.until("reloaded", || server.said().contains("Reloading config"));
    });
    publish();
    nobody_crashed(&server.stop("TERM"));
}
