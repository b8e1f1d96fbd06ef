//! stunnel, in front of a plain server.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::site::{Form, Site, by_engine, by_engine_id, every, is_root, nobody_crashed};
use crate::support::{Program, Server};

/// A plain HTTP server on a port that the system chooses.
fn plain_server() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    // It ends with the test program.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 512];
                if stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nserved\n");
                }
            });
        }
    });
    port
}

#[test]
fn stunnel_serves_as_its_own_user_through_a_reload() {
    if !is_root("stunnel") {
        return;
    }
    every("stunnel", "stunnel4", Form::FILES, serve);
    by_engine("stunnel", "stunnel4", serve);
    by_engine_id("stunnel", "stunnel4", str::to_owned, serve);
}

/// Without hsmkey.
pub fn refuses(site: &Site) {
    site.refuses(configured(site));
}

/// stunnel on its configuration.
fn configured(site: &Site) -> Program {
    let port = plain_server().to_string();
    let service = site.configure("stunnel.conf", &[("8080", &port)]);
    let service = fs::read_to_string(service).expect("our own file");
    let by_id = site.key.starts_with("pkcs11:");
    let engine = if by_id { "engine = hsmkey\n" } else { "" };
    let service = if by_id { service + "engineId = hsmkey\n" } else { service };
    let text = format!("foreground = yes\ndebug = notice\npid =\n{engine}{service}");
    let main = site.hsm.token.write("main.conf", text);
    // It reads both again as its own user.
    Program::new("chown", ["stunnel4", &main, &site.files.file]).succeeds();
    if !by_id {
        Program::new("chown", ["stunnel4", &site.key]).succeeds();
    }
    site.program("stunnel4", &[&main])
}

fn serve(site: &Site) {
    let server = Server::foreground(configured(site), site.port, Path::new(&site.log));
    // It closes its port for the time of a reload.
    site.serve_in_turn(&server, &site.http(), || {
        let loaded = || server.said().matches("Configuration successful").count();
        let before = loaded();
        server.signal("HUP");
        // It says so before its port is open again.
        let open = || TcpStream::connect(("127.0.0.1", site.port)).is_ok();
        site.until("reloaded", || loaded() > before && open());
    });
    nobody_crashed(&server.stop("TERM"));
}
