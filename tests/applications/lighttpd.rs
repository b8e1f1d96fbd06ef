//! lighttpd, as www-data.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::site::{Form, Site, by_engine, every, is_root, nobody_crashed};
use crate::support::Server;

#[test]
fn lighttpd_serves_as_its_own_user_through_a_graceful_restart() {
    if !is_root("lighttpd") {
        return;
    }
    every("lighttpd", "lighttpd", Form::FILES, serve);
    by_engine("lighttpd", "lighttpd", serve);
}

fn serve(site: &Site) {
    let www = site.directory("www");
    fs::write(Path::new(&www).join("index.html"), "served\n").expect("our own directory");
    let snippet = site.configure("lighttpd.conf", &[]);
    let log = &site.log;
    let main = site.hsm.token.write(
        "main.conf",
        format!(
            "server.document-root = \"{www}\"\nserver.errorlog = \"{log}\"\nserver.username = \"www-data\"\nserver.groupname = \"www-data\"\n\
             server.bind = \"127.0.0.1\"\nserver.port = {}\nindex-file.names = (\"index.html\")\ninclude \"{snippet}\"\n",
            crate::support::free_port()
        ),
    );
    // It restarts without root's rights, so it has to be able to read the key file, which is no secret. The PIN's file is one.
    for path in [&main, &site.key] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("our own file");
    }
    site.program("lighttpd", &["-tt", "-f", &main]).succeeds();
    assert_eq!(site.hsm.recorder.counts().calls(), 0);
    let lighttpd = site.program("lighttpd", &["-D", "-f", &main]);
    let server = Server::foreground(lighttpd, site.port, Path::new(log));
    site.serve(&server, &site.http(), || {
        server.signal("USR1");
        site.until("restarted", || server.said().matches("server started").count() > 1);
    });
    nobody_crashed(&server.stop("INT"));
}
