//! `hsmkey-log`: where warnings and recoveries are told. Never on the application's error queue, which is for failures.
//!
//! The first provider context that is configured says where; the log is the process's. It is rate-limited, as a broken HSM is met
//! by every signature.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::{LevelFilter, Metadata, Record};

use crate::config::Log;

/// The most lines in one [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Begins to log, where nothing in this process has begun yet.
pub fn start(log: &Log) {
    if *log == Log::Off {
        return;
    }
    let sink = Sink { log: log.clone(), rate: Mutex::new(None) };
    if log::set_boxed_logger(Box::new(sink)).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

struct Sink {
    log: Log,
    rate: Mutex<Option<Window>>,
}

/// The lines since a moment.
struct Window {
    since: Instant,
    written: u32,
    dropped: u32,
}

impl Sink {
    /// How many lines were left out before this one; `None` where this one is left out too. Another thread that is just here
    /// (or, in a child of fork(2), was) is not waited for.
    fn admit(&self) -> Option<u32> {
        let mut window = self.rate.try_lock().ok()?;
        let now = Instant::now();
        let window = window.get_or_insert(Window { since: now, written: 0, dropped: 0 });
        let mut dropped = 0;
        if now.duration_since(window.since) > WINDOW {
            dropped = window.dropped;
            *window = Window { since: now, written: 0, dropped: 0 };
        }
        if window.written >= LINES {
            window.dropped += 1;
            return None;
        }
        window.written += 1;
        Some(dropped)
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
        let Some(dropped) = self.admit() else { return };
        let mut line = format!("hsmkey[{}]: {}", std::process::id(), record.args());
        line.retain(|character| !character.is_control());
        if dropped > 0 {
            // Writing into a String cannot fail.
            let _ = write!(line, " ({dropped} lines left out before)");
        }
        // There is nobody to tell that the log cannot be written.
        let _ = match &self.log {
            Log::Syslog => syslog(record.level(), &line),
            Log::Stderr => std::io::stderr().write_all(format!("{line}\n").as_bytes()),
            Log::File(path) => append(path, &line),
            Log::Off => Ok(()),
        };
    }

    fn flush(&self) {}
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
        let sink = Sink { log: Log::Off, rate: Mutex::new(None) };
        let admitted = (0..100).filter(|_| sink.admit().is_some()).count();
        assert_eq!(admitted, LINES as usize);
        sink.rate.lock().unwrap().as_mut().unwrap().since -= WINDOW + Duration::from_secs(1);
        assert_eq!(sink.admit(), Some(100 - LINES));
        assert_eq!(sink.admit(), Some(0));
    }
}
