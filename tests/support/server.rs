//! A server on a free port of 127.0.0.1, and clients that shake hands with it.
//!
//!     let port = free_port();
//!     let server = Server::foreground(hsm.program("nginx", ["-c", &conf]), port, Path::new(&log));
//!     let load = TlsClient::new(port, &certificate).start(2);
//!     server.signal("HUP");
//!     let handshakes = load.stop();
//!     server.stop("QUIT");
//!
//! A server that is dropped, also in a test that fails, is killed with all that it has started.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{HandshakeError, SslConnector, SslConnectorBuilder, SslMethod, SslStream, SslVersion};

use super::Program;

/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client waits for an answer: longer than hsmkey recovers.
const ANSWER: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);

/// A port of 127.0.0.1 that nobody listens on, below those that the kernel gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run side by side begin at different places.
    let begin = std::process::id() as u16 % 200 * 100;
    (0..20_000)
        .map(|_| 11_000 + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// A server that runs.
pub struct Server {
    pid: u32,
    /// Where it is a child of ours and not of whom it has left it to.
    child: Option<Child>,
    log: PathBuf,
}

impl Server {
    /// Starts a program that stays in the foreground, and waits until it listens. What it writes is appended to `log`.
    pub fn foreground(program: Program, port: u16, log: &Path) -> Self {
        let child = program.start(open(log));
        let mut server = Self { pid: child.id(), child: Some(child), log: log.to_owned() };
        server.wait_until_it_listens(port);
        server
    }

    /// The same for a program that may not start: how it ended then.
    pub fn attempt(program: Program, port: u16, log: &Path) -> Result<Self, std::process::ExitStatus> {
        let mut child = program.start(open(log));
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return Err(status);
            }
            assert!(begun.elapsed() < PATIENCE, "nobody listens on {port} and nothing ends");
            std::thread::sleep(POLL);
        }
        Ok(Self { pid: child.id(), child: Some(child), log: log.to_owned() })
    }

    /// Runs a program that goes into the background and writes its process's number to a file, and waits until it listens.
    pub fn background(program: Program, port: u16, pid_file: &Path, log: &Path) -> Self {
        let status = program.start(open(log)).wait().expect("a child can be waited for");
        let said = || fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "{status}\n{}", said());
        let begun = Instant::now();
        let pid = loop {
            let text = fs::read_to_string(pid_file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            assert!(begun.elapsed() < PATIENCE, "no {}\n{}", pid_file.display(), said());
            std::thread::sleep(POLL);
        };
        let mut server = Self { pid, child: None, log: log.to_owned() };
        server.wait_until_it_listens(port);
        server
    }

    fn wait_until_it_listens(&mut self, port: u16) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(self.runs(), "it has ended\n{}", self.said());
            assert!(begun.elapsed() < PATIENCE, "nobody listens on {port}\n{}", self.said());
            std::thread::sleep(POLL);
        }
    }

    /// The number of its first process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The processes that its first process has now: workers.
    pub fn workers(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").expect("/proc can be read").filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            (parent(pid)? == self.pid).then_some(pid)
        });
        processes.collect()
    }

    /// What it has written.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends its first process a signal, `HUP`.
    pub fn signal(&self, name: &str) {
        kill(name, &self.pid.to_string());
    }

    /// Whether its first process is there.
    pub fn runs(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("a child can be waited for").is_none(),
            None => parent(self.pid).is_some(),
        }
    }

    /// Ends it with a signal, `TERM`, and waits until it has ended; one that does not fails the test. Its log is returned.
    pub fn stop(mut self, signal: &str) -> String {
        self.signal(signal);
        let begun = Instant::now();
        while self.runs() {
            assert!(begun.elapsed() < PATIENCE, "it does not end with {signal}\n{}", self.said());
            std::thread::sleep(POLL);
        }
        self.said()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.runs() {
            return;
        }
        let workers = self.workers();
        kill("KILL", &self.pid.to_string());
        workers.iter().for_each(|worker| kill("KILL", &worker.to_string()));
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

fn open(log: &Path) -> File {
    File::options().create(true).append(true).mode(0o644).open(log).expect("a file in the directory")
}

fn kill(signal: &str, pid: &str) {
    // It may have ended in the meantime.
    let _ = Command::new("kill").args(["-s", signal, pid]).stderr(std::process::Stdio::null()).status();
}

/// The parent of a process that has not ended.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    let (state, parent) = (rest.next()?, rest.next()?);
    (state != "Z").then(|| parent.parse().ok())?
}

/// A client that trusts one certificate.
#[derive(Clone)]
pub struct TlsClient {
    port: u16,
    connector: SslConnector,
    request: Option<Vec<u8>>,
}

/// What came of many handshakes.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    /// Those that were made. The server's signature was verified in each.
    pub made: u32,
    /// What went wrong in the others.
    pub failed: Vec<String>,
    /// The longest.
    pub longest: Duration,
}

/// Clients that shake hands until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Handshakes>>,
}

impl TlsClient {
    /// A client of a port, that accepts a server with this certificate (a PEM file) and no other. It never resumes a session: each
    /// handshake is an operation of the server's key.
    pub fn new(port: u16, certificate: &str) -> Self {
        Self::with(port, certificate, |_| Ok(()))
    }

    /// The same with one version of the protocol, and in TLS 1.2 with these cipher suites: `ECDHE`, or `kRSA` for decryption.
    pub fn only(port: u16, certificate: &str, version: SslVersion, suites: &str) -> Self {
        Self::with(port, certificate, |connector| {
            connector.set_min_proto_version(Some(version))?;
            connector.set_max_proto_version(Some(version))?;
            connector.set_cipher_list(suites)
        })
    }

    fn with(
        port: u16,
        certificate: &str,
        set: impl FnOnce(&mut SslConnectorBuilder) -> Result<(), ErrorStack>,
    ) -> Self {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).expect("a client");
        connector.set_ca_file(certificate).expect("a certificate");
        set(&mut connector).expect("a version and suites that this OpenSSL has");
        Self { port, connector: connector.build(), request: None }
    }

    /// After each handshake it sends this and wants an answer.
    pub fn request(mut self, octets: impl Into<Vec<u8>>) -> Self {
        self.request = Some(octets.into());
        self
    }

    /// One handshake with the server at 127.0.0.1, and its answer to the request.
    pub fn handshake(&self) -> Result<Vec<u8>, String> {
        let mut stream = self.connect()?;
        let mut answer = Vec::new();
        if let Some(request) = &self.request {
            stream.write_all(request).map_err(|error| format!("sending: {error}"))?;
            let mut octets = [0; 4096];
            // A read that may time out is interrupted where the machine was stopped for a while (signal(7)).
            let length = loop {
                match stream.read(&mut octets) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    result => break result.map_err(|error| format!("reading: {error}"))?,
                }
            };
            if length == 0 {
                return Err("no answer".into());
            }
            answer.extend_from_slice(&octets[..length]);
        }
        let _ = stream.shutdown();
        Ok(answer)
    }

    /// Says hello and is gone.
    pub fn vanish(&self) -> Result<(), String> {
        let stream =
            TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| format!("connecting: {error}"))?;
        stream.set_nonblocking(true).expect("a mode");
        let configuration = self.connector.configure().expect("a client").verify_hostname(false);
        match configuration.connect("localhost", stream) {
            Err(HandshakeError::WouldBlock(_)) => Ok(()),
            Ok(_) => Err("the handshake was made".into()),
            Err(error) => Err(format!("handshake: {error}")),
        }
    }

    fn connect(&self) -> Result<SslStream<TcpStream>, String> {
        let stream =
            TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| format!("connecting: {error}"))?;
        stream.set_read_timeout(Some(ANSWER)).expect("a time");
        stream.set_write_timeout(Some(ANSWER)).expect("a time");
        // The certificate of a test names nobody.
        let mut configuration = self.connector.configure().expect("a client");
        configuration.set_verify_hostname(false);
        configuration.connect("localhost", stream).map_err(|error| format!("handshake: {error}"))
    }

    /// Handshakes, one after the other, from several clients at once until [`Load::stop`].
    pub fn start(&self, clients: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let one = || {
            let (client, stop) = (self.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut handshakes = Handshakes::default();
                while !stop.load(Ordering::Relaxed) {
                    client.count(&mut handshakes);
                }
                handshakes
            })
        };
        let clients = (0..clients).map(|_| one()).collect();
        Load { stop, clients }
    }

    /// So many handshakes, one after the other.
    pub fn times(&self, count: u32) -> Handshakes {
        let mut handshakes = Handshakes::default();
        (0..count).for_each(|_| self.count(&mut handshakes));
        handshakes
    }

    fn count(&self, handshakes: &mut Handshakes) {
        let begun = Instant::now();
        match self.handshake() {
            Ok(_) => handshakes.made += 1,
            Err(error) => {
                handshakes.failed.push(error);
                // A server that refuses everything is not asked as fast as it can refuse.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        handshakes.longest = handshakes.longest.max(begun.elapsed());
    }
}

impl Load {
    /// Ends it once every client is done with its handshake.
    pub fn stop(self) -> Handshakes {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Handshakes::default();
        for client in self.clients {
            let one = client.join().expect("a client does not panic");
            all.made += one.made;
            all.failed.extend(one.failed);
            all.longest = all.longest.max(one.longest);
        }
        all
    }
}
