//! Servers go on serving while the HSM comes and goes.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use hsmkey::keyfile;
use hsmkey::public::{PublicKey, RsaPublicKey};
use hsmkey::uri::Uri;

use crate::support::{Hsm, Key, Program, Server, TlsClient, free_port};
use crate::{CLOUDHSM, hsm, scaled};

/// What both servers are given: a key in the HSM, a pointer file, a certificate, and a user without rights for the workers.
struct Site {
    hsm: Hsm,
    port: u16,
    key: String,
    certificate: String,
    log: String,
}

impl Site {
    fn new() -> Self {
        let (hsm, key) = hsm(CLOUDHSM);
        let (key, certificate) = (pointer(&hsm, &key), certificate(&hsm, &key));
        let log = hsm.token.path("server.log");
        // The workers are somebody else, who may use the token and may not read the PIN's file.
        let open = ["tokens", "softhsm2.conf", "recorder.conf"].map(|name| hsm.token.path(name));
        Program::new("chmod", ["a+rx", "."]).current_dir(hsm.token.directory()).succeeds();
        Program::new("chmod", ["-R", "a+rwX"].iter().map(|word| word.to_string()).chain(open)).succeeds();
        Self { hsm, port: free_port(), key, certificate, log }
    }

    /// Handshakes while all is lost every second, and while the server is told twice to read its configuration again.
    fn serve(&self, server: &Server, reload: &str) {
        let client = TlsClient::new(self.port, &self.certificate).request("GET / HTTP/1.0\r\n\r\n");
        let before = client.times(4);
        assert_eq!((before.made, before.failed), (4, vec![]), "{}", server.said());
        let workers = server.workers();
        self.hsm.recorder.control("all-lost ms=150 period=1s");
        let load = client.start(3);
        let pause = Duration::from_secs(scaled(2, 10).into());
        for _ in 0..2 {
            sleep(pause);
            server.signal(reload);
        }
        sleep(pause);
        self.hsm.recorder.clear_faults();
        sleep(Duration::from_secs(1));
        let handshakes = load.stop();
        assert!(!server.workers().iter().any(|worker| workers.contains(worker)), "it was not reloaded");
        eprintln!("{} handshakes, the longest took {:?}", handshakes.made, handshakes.longest);
        assert!(handshakes.made > scaled(50, 300), "{handshakes:?}\n{}", server.said());
        assert_eq!(handshakes.failed, [""; 0], "{}", server.said());
        let counts = self.hsm.recorder.counts();
        assert!(counts.get("faults") > 2, "nothing was lost");
        assert_eq!(counts.get("login_pin_incorrect"), 0);
    }

    /// A configuration file of the server.
    fn write(&self, name: &str, text: &str) -> String {
        self.hsm.token.write(name, text)
    }
}

/// A key file with the public half in it, so that nobody needs the HSM to load it.
fn pointer(hsm: &Hsm, key: &Key) -> String {
    let rsa = key.software.rsa().expect("an RSA key");
    let public = PublicKey::Rsa(RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec()));
    let uri = Uri { public: Some(public), ..key.uri.parse().expect("a URI") };
    hsm.token.write("pointer.key", keyfile::write_pointer(&uri).expect("a private key's URI"))
}

fn certificate(hsm: &Hsm, key: &Key) -> String {
    let arguments = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=localhost", "-out"];
    let file = hsm.token.path("certificate.pem");
    Program::stock_openssl(arguments.into_iter().chain([&file[..]])).succeeds();
    file
}

#[test]
fn nginx_serves_while_the_hsm_is_lost_every_second_and_while_it_is_reloaded() {
    let site = Site::new();
    let Site { port, key, certificate, log, .. } = &site;
    let directory = site.hsm.token.directory().display();
    let configuration = site.write(
        "nginx.conf",
        &format!(
            "daemon off; worker_processes 2; user www-data; pid {directory}/nginx.pid; error_log {log} notice;
             env CLOUDHSM_STANDIN; env SOFTHSM2_CONF;
             events {{ worker_connections 64; }}
             http {{
                access_log off;
                client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
                fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
                server {{
                    listen 127.0.0.1:{port} ssl;
                    ssl_certificate {certificate}; ssl_certificate_key {key};
                    ssl_session_cache off; ssl_session_tickets off;
                    location / {{ return 200 served; }}
                }}
             }}\n"
        ),
    );
    let nginx = site.hsm.program("/usr/sbin/nginx", ["-e", log, "-c", &configuration]);
    let server = Server::foreground(nginx, *port, Path::new(log));
    site.serve(&server, "HUP");
    let said = server.stop("QUIT");
    assert!(!said.contains("exited on signal"), "{said}");
    let ended = |line: &&str| line.contains("worker process ") && line.contains(" exited with code ");
    let ended: Vec<_> = said.lines().filter(ended).collect();
    assert!(ended.len() == 6 && ended.iter().all(|line| line.ends_with("code 0")), "{said}");
}

#[test]
fn apache_prefork_serves_while_the_hsm_is_lost_every_second_and_while_it_is_reloaded() {
    let site = Site::new();
    let Site { port, key, certificate, log, .. } = &site;
    let directory = site.hsm.token.directory().display();
    let modules = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"];
    let modules = modules.into_iter().find(|directory| Path::new(directory).is_dir()).expect("Apache");
    let load = |name: &str| format!("LoadModule {name}_module {modules}/mod_{name}.so\n");
    let load: String = ["mpm_prefork", "authz_core", "socache_shmcb", "ssl"].map(load).concat();
    // A child serves twenty connections, so that children are made all the time.
    let configuration = site.write(
        "apache.conf",
        &format!(
            "{load}ServerRoot {directory}\nDocumentRoot {directory}/www\nServerName localhost\nListen 127.0.0.1:{port}\n\
             PidFile {directory}/apache.pid\nDefaultRuntimeDir {directory}\nErrorLog {log}\nLogLevel notice\nUser www-data\nGroup www-data\n\
             StartServers 2\nMinSpareServers 2\nMaxRequestWorkers 8\nMaxConnectionsPerChild 20\n\
             SSLSessionCache none\nSSLSessionTickets off\n\
             <VirtualHost 127.0.0.1:{port}>\nSSLEngine on\nSSLCertificateFile {certificate}\nSSLCertificateKeyFile {key}\n</VirtualHost>\n"
        ),
    );
    std::fs::create_dir(site.hsm.token.path("www")).expect("a directory");
    let program = ["/usr/sbin/apache2", "/usr/sbin/httpd"].into_iter().find(|file| Path::new(file).exists());
    let apache = site.hsm.program(program.expect("Apache"), ["-D", "FOREGROUND", "-f", &configuration]);
    let server = Server::foreground(apache, *port, Path::new(log));
    site.serve(&server, "USR1");
    let said = server.stop("TERM");
    for wrong in ["exit signal", "AH00051", "AH00052", "core dump"] {
        assert!(!said.contains(wrong), "{said}");
    }
}
