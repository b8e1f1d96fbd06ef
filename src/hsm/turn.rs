//! Turns among processes that are no family (`family`) but share a runtime directory: those that start in one moment with one wrong PIN would
//! all send it before the first of them is told.
//!
//! As in a family one tries and the others wait for what comes of it, and after an acceptance all log in side by side, for a moment. A turn
//! is an octet of a file, locked by the process: the system gives it to another one when the process ends, however that happens.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::fork;
use crate::error::{Error, Reason, Result};

/// How long to wait for another process's login.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an acceptance lets all others log in without waiting for each other, in milliseconds.
const SIDE_BY_SIDE: u64 = 1000;
const POLL: Duration = Duration::from_millis(5);

/// A cell of the file: when the PIN was accepted, and as many octets to be locked. Of those who have waited for one for long enough one
/// goes on, with the next.
const CELL: u64 = 8;
/// Few enough for the file's size to fit everywhere; it is mostly holes. Two PINs of one cell wait for each other, no more.
const CELLS: u64 = 1 << 24;

/// A turn, until it is dropped.
pub(super) struct Turn {
    file: Option<File>,
    cell: u64,
    waited: bool,
}

impl Turn {
    /// Waits for the turn of a PIN, by a number that all processes have for it. Where the directory cannot be written nobody waits.
    ///
    /// # Errors
    /// `HsmUnavailable` where another process has not come back by the deadline.
    pub(super) fn wait(directory: &Path, number: u64, deadline: Instant) -> Result<Self> {
        let mut turn = Self { file: open(directory), cell: number % CELLS * CELL, waited: false };
        let Some(file) = &turn.file else { return Ok(turn) };
        let (mut place, mut since) = (0, Instant::now());
        loop {
            if turn.is_accepted(file) || fork::lock_octet(file, turn.cell + place) {
                break;
            }
            if Instant::now() >= deadline {
                let detail = "another process is still waiting for C_Login";
                return Err(Error::new(Reason::HsmUnavailable, detail));
            }
            thread::sleep(POLL);
            turn.waited = true;
            if since.elapsed() >= PATIENCE && place + 1 < CELL {
                (place, since) = (place + 1, Instant::now());
            }
        }
        Ok(turn)
    }

    /// Whether another process was waited for: what was known before may have changed.
    pub(super) fn has_waited(&self) -> bool {
        self.waited
    }

    /// The PIN is right.
    pub(super) fn accepted(&self) {
        if let Some(file) = &self.file {
            // Where it cannot be said the others wait for each other.
            let _ = file.write_all_at(&now().to_le_bytes(), self.cell);
        }
    }

    fn is_accepted(&self, file: &File) -> bool {
        let mut accepted = [0; CELL as usize];
        file.read_exact_at(&mut accepted, self.cell).is_ok()
            && now().checked_sub(u64::from_le_bytes(accepted)).is_some_and(|age| age < SIDE_BY_SIDE)
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn open(directory: &Path) -> Option<File> {
    let path = directory.join("turns");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    options.open(&path).ok().or_else(|| {
        let file =
            options.create_new(true).open(&path).or_else(|_| options.create_new(false).open(&path)).ok()?;
        let _ = share(directory, &path);
        Some(file)
    })
}

/// Opens a file to all who share the directory, whatever this process's umask says.
pub(super) fn share(directory: &Path, file: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.permissions().mode() & 0o666;
    fs::set_permissions(file, Permissions::from_mode(mode))
}
