//! What an application is given: a key in the HSM in one of its forms, a certificate, a port, and the configuration from conf/.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hsmkey::keyfile;
use hsmkey::spki::spki_to_public;
use hsmkey::uri::Uri;
use openssl::ssl::SslVersion;

use crate::support::{
    Handshakes, Hsm, Key, Program, Recorder, Server, TlsClient, free_port, provider, repository,
};
use crate::table::{saw, skipped};

/// A kind of key.
pub struct Kind {
    name: &'static str,
    /// The forms that there are of it.
    forms: &'static [Form],
    import: fn(&Hsm) -> Key,
}

/// The kinds of keys that every application is tried with.
pub const KINDS: &[Kind] = &[
    Kind { name: "RSA", forms: Form::ALL, import: |hsm| hsm.import_rsa(2048, "service") },
    Kind {
        name: "P-256",
        forms: &[Form::Pointer, Form::Uri],
        import: |hsm| hsm.import_ec("prime256v1", "service"),
    },
];

/// How an application is told of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The reference key file.
    Reference,
    /// The pointer file, with the public half in it.
    Pointer,
    /// A `pkcs11:` URI.
    Uri,
}

impl Form {
    /// For applications that take files.
    pub const FILES: &[Self] = &[Self::Reference, Self::Pointer];
    /// For those that take URIs too.
    pub const ALL: &[Self] = &[Self::Reference, Self::Pointer, Self::Uri];

    fn column(self) -> &'static str {
        match self {
            Self::Reference => "reference file",
            Self::Pointer => "pointer file",
            Self::Uri => "URI",
        }
    }
}

/// A machine with an application on it.
pub struct Site {
    /// The HSM, a CloudHSM.
    pub hsm: Hsm,
    /// The key's files.
    pub files: Key,
    /// What the application's configuration names: a path or a URI.
    pub key: String,
    /// The path of the key's certificate, which is its own issuer.
    pub certificate: String,
    /// A port that is free.
    pub port: u16,
    /// Where the server writes.
    pub log: String,
}

/// How many requests a server serves: before a reload, and after it.
pub fn requests() -> u32 {
    if std::env::var_os("HSMKEY_SOAK").is_some() { 150 } else { 40 }
}

/// Tries an application with every kind of key in each form, and enters into the table that it works. A program that is not there skips all.
pub fn every(application: &str, program: &str, forms: &[Form], test: impl Fn(&Site)) {
    tried(application, program, forms, KINDS, "yes", test);
}

/// The same for an application that takes RSA keys and does not work: the test makes sure of how, the page says why.
pub fn none(application: &str, program: &str, forms: &[Form], test: impl Fn(&Site)) {
    tried(application, program, forms, &KINDS[..1], "no", test);
}

fn tried(application: &str, program: &str, forms: &[Form], kinds: &[Kind], cell: &str, test: impl Fn(&Site)) {
    if installed(program).is_none() {
        return skipped(application, &format!("there is no {program}"));
    }
    for form in forms {
        for kind in kinds.iter().filter(|kind| kind.forms.contains(form)) {
            eprintln!("{application}, {} key, {form:?}", kind.name);
            test(&Site::new(kind, *form));
        }
        saw(application, form.column(), cell);
    }
    for form in Form::ALL.iter().filter(|form| !forms.contains(form)) {
        saw(application, form.column(), "");
    }
}

/// Tries an application with hsmkey as an engine and nothing but that, on a reference key file.
pub fn by_engine(application: &str, program: &str, test: impl Fn(&Site)) {
    if installed(program).is_none() {
        return skipped(application, &format!("there is no {program}"));
    }
    eprintln!("{application}, engine, reference file");
    test(&Site::with_engine(&KINDS[0], "0", |files| files.file.clone()));
    saw(application, "engine: reference file", "yes");
}

/// The same on keys that the application has the engine load, with `init = 0` and with `init = 1`. What it calls the key is made of the URI.
pub fn by_engine_id(application: &str, program: &str, id: impl Fn(&str) -> String, test: impl Fn(&Site)) {
    if installed(program).is_none() {
        return skipped(application, &format!("there is no {program}"));
    }
    for (kind, init) in [(&KINDS[0], "0"), (&KINDS[0], "1"), (&KINDS[1], "0")] {
        eprintln!("{application}, engine, {} key by its id, init = {init}", kind.name);
        test(&Site::with_engine(kind, init, |files| id(&files.uri)));
    }
    saw(application, "engine: id", "yes");
}

/// Tries an application on a reference key file with no hsmkey at all.
pub fn without(application: &str, program: &str, test: impl Fn(&Site)) {
    if installed(program).is_none() {
        return skipped(application, &format!("there is no {program}"));
    }
    let site = Site::new(&KINDS[0], Form::Reference);
    site.hsm.token.write("openssl.cnf", "");
    site.open_to_others();
    test(&site);
    assert_eq!(site.hsm.recorder.processes(), 0);
}

/// The path of a program, which may be in a directory for administrators.
pub fn installed(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    path.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.exists())
}

/// Whether the tests may become other users. Says so where they may not.
pub fn is_root(application: &str) -> bool {
    // SAFETY-free: the owner of our own entry in /proc.
    let root = fs::metadata("/proc/self").expect("our own entry").uid() == 0;
    if !root {
        skipped(application, "only root can start it as its own user");
    }
    root
}

impl Site {
    fn new(kind: &Kind, form: Form) -> Self {
        let hsm = Hsm::cloudhsm();
        let files = (kind.import)(&hsm);
        let key = match form {
            Form::Reference => files.file.clone(),
            Form::Pointer => {
                let spki = files.software.public_key_to_der().expect("a key can be written");
                let public = Some(spki_to_public(&spki).expect("a kind of key that is supported"));
                let uri = Uri { public, ..files.uri.parse().expect("a URI") };
                hsm.token.write("pointer.key", keyfile::write_pointer(&uri).expect("a private key's URI"))
            }
            Form::Uri => files.uri.clone(),
        };
        let certificate = hsm.token.path("certificate.pem");
        let arguments = [
            "req",
            "-x509",
            "-new",
            "-sha256",
            "-key",
            &files.software_file,
            "-subj",
            "/CN=localhost",
            "-out",
        ];
        Program::stock_openssl(arguments.into_iter().chain([&certificate[..]])).succeeds();
        let log = hsm.token.write("server.log", "");
        // What hsmkey has to say stands there as well.
        let (pin, told) = (format!("file:{}", hsm.token.pin_file()), format!("file:{log}"));
        hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-log", &told)]);
        let site = Self { hsm, files, key, certificate, port: free_port(), log };
        site.open_to_others();
        site
    }

    /// With conf/engine.cnf. What the application calls the key is made of its files.
    fn with_engine(kind: &Kind, init: &str, key: impl Fn(&Key) -> String) -> Self {
        let mut site = Self::new(kind, kind.forms[0]);
        site.key = key(&site.files);
        let (library, module) = (provider().display().to_string(), Recorder::module().display().to_string());
        let (pin, init) = (site.hsm.token.pin_file(), format!("init = {init}\n"));
        let here = [
            ("/usr/local/lib/hsmkey.so", &library[..]),
            ("#pkcs11-module-token-pin", "pkcs11-module-token-pin"),
            ("/etc/hsmkey/pin", &pin),
            // Where there is no CloudHSM, the module has to be named.
            ("#pkcs11-module-path", "pkcs11-module-path"),
            ("/opt/cloudhsm/lib/libcloudhsm_pkcs11.so", &module),
            ("init = 0\n", &init),
        ];
        let text = site.configuration("engine.cnf", &here);
        let written = site.hsm.token.write("openssl.cnf", text);
        fs::set_permissions(written, fs::Permissions::from_mode(0o644)).expect("our own file");
        site
    }

    /// A server that does not start, or starts and can shake hands with nobody.
    pub fn refuses(&self, program: Program) {
        match Server::attempt(program, self.port, Path::new(&self.log)) {
            Err(status) => assert!(!status.success(), "it ends as if all were well"),
            Ok(server) => {
                let handshakes = self.client().times(3);
                assert_eq!((handshakes.made, handshakes.failed.len()), (0, 3), "{}", server.said());
            }
        }
    }

    /// Workers are somebody else, who may use the token and may not read the PIN's and the key's file.
    pub fn open_to_others(&self) {
        let mode = |path: &str, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
        };
        mode(&self.hsm.token.path("."), 0o755);
        mode(&self.log, 0o666);
        mode(&self.certificate, 0o644);
        mode(&self.hsm.openssl_cnf(), 0o644);
        // The first that calls the module would make the directory, and he may be somebody who may not.
        self.hsm.recorder.clear_faults();
        let open = ["tokens", "softhsm2.conf", "recorder.conf"].map(|name| self.hsm.token.path(name));
        Program::new("chmod", ["-R", "a+rwX"].into_iter().map(str::to_owned).chain(open)).succeeds();
    }

    /// A path in the site's directory.
    pub fn path(&self, name: &str) -> String {
        self.hsm.token.path(name)
    }

    /// A new directory in the site's.
    pub fn directory(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir(&path).expect("a directory in the site's");
        path
    }

    /// Gives files to a user of this machine, and the PIN's too: he runs the whole service.
    pub fn give_to(&self, user: &str, paths: &[&str]) {
        let pin = self.hsm.token.pin_file();
        let owner = format!("{user}:");
        let all = ["-R", &owner, &pin].into_iter().chain(paths.iter().copied());
        Program::new("chown", all).succeeds();
    }

    /// A file of conf/ as this site has it.
    pub fn configuration(&self, name: &str, more: &[(&str, &str)]) -> String {
        let text = fs::read_to_string(repository().join("conf").join(name)).expect("a file of conf/");
        for (from, _) in more {
            assert!(text.contains(from), "conf/{name} has no {from}");
        }
        self.here(&more.iter().fold(text, |text, (from, to)| text.replace(from, to)))
    }

    /// A text with the site's own files and port in place of an administrator's.
    pub fn here(&self, text: &str) -> String {
        let port = self.port.to_string();
        let own = [
            ("/etc/pki/server.key", &self.key[..]),
            ("/etc/pki/server.pem", &self.certificate),
            ("/etc/hsmkey/openssl.cnf", &self.hsm.openssl_cnf()),
            ("8443", &port),
        ];
        own.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// The same, written into the site's directory.
    pub fn configure(&self, name: &str, more: &[(&str, &str)]) -> String {
        let text = self.configuration(name, more);
        let path = self.hsm.token.write(Path::new(name).file_name().unwrap().to_str().unwrap(), text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("our own file");
        path
    }

    /// A program with hsmkey, as conf/systemd.conf sets its environment.
    pub fn program(&self, name: &str, arguments: &[&str]) -> Program {
        let program = installed(name).unwrap_or_else(|| panic!("{name} was there before"));
        self.environment(self.hsm.program(program, arguments))
    }

    /// The same as another user of this machine.
    pub fn program_as(&self, user: &str, name: &str, arguments: &[&str]) -> Program {
        let program = installed(name).unwrap_or_else(|| panic!("{name} was there before"));
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let before = [&uid[..], &gid, "--init-groups", program.to_str().expect("a path")];
        self.environment(self.hsm.program("setpriv", before.into_iter().chain(arguments.iter().copied())))
    }

    fn environment(&self, program: Program) -> Program {
        let drop_in = self.configuration("systemd.conf", &[]);
        let lines = drop_in.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
        lines.fold(program, |program, (name, value)| program.env(name, value))
    }

    /// A client that sends an HTTP request.
    pub fn http(&self) -> TlsClient {
        self.client().request("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    }

    /// A client that shakes hands.
    pub fn client(&self) -> TlsClient {
        TlsClient::new(self.port, &self.certificate)
    }

    /// Handshakes before a reload, during it and after it. All of them have to be made.
    pub fn serve(&self, server: &Server, client: &TlsClient, reload: impl FnOnce()) {
        let before = client.times(requests());
        self.all_made(server, &before, requests());
        let during = client.start(2);
        self.all_made(server, &client.times(requests() / 4), requests() / 4);
        reload();
        self.all_made(server, &client.times(requests()), requests());
        let during = during.stop();
        self.all_made(server, &during, during.made);
        let older = TlsClient::only(self.port, &self.certificate, SslVersion::TLS1_2, "ECDHE").times(5);
        self.all_made(server, &older, 5);
        self.signed(2 * requests() + during.made + older.made);
    }

    /// The same for a server that accepts nobody during a reload.
    pub fn serve_in_turn(&self, server: &Server, client: &TlsClient, reload: impl FnOnce()) {
        self.all_made(server, &client.times(requests()), requests());
        reload();
        self.all_made(server, &client.times(requests()), requests());
        self.signed(2 * requests());
    }

    /// All handshakes were made.
    pub fn all_made(&self, server: &Server, handshakes: &Handshakes, count: u32) {
        let failed = handshakes.failed.first().map_or("", String::as_str);
        if (handshakes.made, failed) != (count, "") {
            let hsm = fs::read_to_string(self.path("counts/cloudhsm-pkcs11.log")).unwrap_or_default();
            panic!("{} of {count} handshakes: {failed}\n{}\nThe HSM:\n{hsm}", handshakes.made, server.said());
        }
    }

    /// The HSM made at least so many signatures, and nobody tried a wrong PIN.
    pub fn signed(&self, count: u32) {
        let counts = self.hsm.recorder.counts();
        assert!(counts.get("calls.C_Sign") >= count.into(), "{} of {count}", counts.get("calls.C_Sign"));
        assert_eq!(counts.get("login_pin_incorrect"), 0);
        assert_eq!(counts.get("session_violations"), 0);
    }

    /// Waits until something is so. Servers are asked to reload and do it when they come to it.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = std::time::Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed().as_secs() < 20,
                "not {what}\n{}",
                fs::read_to_string(&self.log).unwrap_or_default()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// That no process of a server died of a signal, in what the server says of that.
pub fn nobody_crashed(said: &str) {
    for wrong in [
        "exited on signal",
        "exit signal",
        "core dump",
        "terminated by signal",
        "Segmentation",
        "signal 11",
        "signal 6",
    ] {
        assert!(!said.contains(wrong), "{said}");
    }
}
