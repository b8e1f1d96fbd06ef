//! `hsmkey-log`: where warnings and recoveries are told. Never on the application's error queue, which is for failures.
//!
//! The first provider context that is configured says where; the log is the process's. It is rate-limited, as a broken HSM is met
//! by every signature.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{LevelFilter, Metadata, Record};

use crate::config::Log;

/// The most lines in one [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Begins to log, where nothing in this process has begun yet.
pub fn start(log: &Log) {
    static STARTED: AtomicBool = AtomicBool::new(false);
    // Who comes second in `log` waits for the first, which a child of fork(2) may not have any more.
    if *log == Log::Off || STARTED.swap(true, Ordering::AcqRel) {
        return;
    }
    if log::set_boxed_logger(Box::new(Sink::new(log.clone()))).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

struct Sink {
    log: Log,
    rate: Rate,
}

/// The lines since a moment. There is no lock: a child of fork(2) could inherit it. So a line more or less may be written where several
/// threads are just here.
struct Rate {
    begun: Instant,
    /// The beginning of the window, in milliseconds since `begun`.
    since: AtomicU64,
    written: AtomicU32,
    dropped: AtomicU32,
}

impl Rate {
    fn new() -> Self {
        let [written, dropped] = [const { AtomicU32::new(0) }; 2];
        Self { begun: Instant::now(), since: AtomicU64::new(0), written, dropped }
    }

    /// How many lines were left out before this one; `None` where this one is left out too.
    fn admit(&self) -> Option<u32> {
        self.admit_at(self.begun.elapsed())
    }

    fn admit_at(&self, time: Duration) -> Option<u32> {
        let now = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let since = self.since.load(Ordering::Relaxed);
        let mut dropped = 0;
        if Duration::from_millis(now.saturating_sub(since)) > WINDOW
            && self.since.compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.written.store(0, Ordering::Relaxed);
            dropped = self.dropped.swap(0, Ordering::Relaxed);
        }
        let below = |written| (written < LINES).then_some(written + 1);
        if self.written.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok() {
            return Some(dropped);
        }
        self.dropped.fetch_add(dropped.saturating_add(1), Ordering::Relaxed);
        None
    }
}

impl Sink {
    fn new(log: Log) -> Self {
        Self { log, rate: Rate::new() }
    }
}

impl log::Log for Sink {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("hsmkey")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(dropped) = self.rate.admit() else { return };
        let mut line = format!("hsmkey[{}]: {}", std::process::id(), record.args());
        line.retain(|character| !character.is_control());
        if dropped > 0 {
            // Writing into a String cannot fail.
            let _ = write!(line, " ({dropped} lines left out before)");
        }
        // There is nobody to tell that the log cannot be written.
        let _ = match &self.log {
            Log::Syslog => syslog(record.level(), &line),
            Log::Stderr => stderr(&line),
            Log::File(path) => append(path, &line),
            Log::Off => Ok(()),
        };
    }

    fn flush(&self) {}
}

/// One line to descriptor 2, in one write(2). Not by what is behind [`std::io::Stderr`]: that has a lock, which a child of fork(2) may
/// inherit from a thread that was writing. A copy of the descriptor is closed again, and not the descriptor.
fn stderr(line: &str) -> std::io::Result<()> {
    let stderr = std::io::stderr();
    let descriptor: BorrowedFd = stderr.as_fd();
    File::from(descriptor.try_clone_to_owned()?).write_all(format!("{line}\n").as_bytes())
}

/// One line to the system's log (RFC 3164): not by syslog(3), whose ident and options are the application's.
fn syslog(level: log::Level, line: &str) -> std::io::Result<()> {
    const DAEMON: u8 = 3 << 3;
    let severity = match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        _ => 6,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(format!("<{}>{line}", DAEMON | severity).as_bytes(), "/dev/log").map(drop)
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    file.write_all(format!("{} {line}\n", now.as_secs()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let rate = Rate::new();
        let admitted = (0..100).filter(|_| rate.admit_at(Duration::ZERO).is_some()).count();
        assert_eq!(admitted, LINES as usize);
        let later = WINDOW + Duration::from_secs(1);
        assert_eq!(rate.admit_at(later), Some(100 - LINES));
        assert_eq!(rate.admit_at(later), Some(0));
    }

    /// Whoever holds the standard library's lock may be a thread of the parent's.
    #[test]
    fn a_line_to_stderr_waits_for_no_lock() {
        let held = std::io::stderr().lock();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(stderr("a line of the test").is_ok()));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok(true));
        drop(held);
    }
}
