//! Turns among processes that are no family (`family`) but share a runtime directory: those that start in one moment with one wrong PIN would
//! all send it before the first of them is told.
//!
//! As in a family one tries and the others wait for what comes of it, and after an acceptance all log in side by side, for a moment. A turn
//! is an octet of a file, locked by the process: the system gives it to another one when the process ends, however that happens. A
//! source of a PIN shares its file with few others: a process that closes one gives up all that it has locked there.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
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

/// So many octets can be locked. Of those who have waited for one for long enough one goes on, with the next.
const OCTETS: u64 = 8;
/// Whoever has locked one has said so after this time.
const A_WHILE: Duration = Duration::from_millis(100);

/// Where the file says since when an octet is locked: after what was accepted last, and when.
fn begun_at(octet: u64) -> u64 {
    8 * (2 + octet)
}

/// Whether the process that has locked an octet is at it for so long that nobody waits for it, as far as is known.
fn has_hung(file: &File, octet: u64) -> bool {
    let mut begun = [0; 8];
    let is_known = file.read_exact_at(&mut begun, begun_at(octet)).is_ok();
    let age = now().checked_sub(u64::from_le_bytes(begun));
    is_known && age.is_some_and(|age| Duration::from_millis(age) >= PATIENCE)
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    file: Option<File>,
    /// Which PIN of the source it is, by a number that all processes have for it.
    state: u64,
    waited: bool,
}

impl Turn {
    /// Waits for the turn of a PIN. Where the file cannot be written nobody waits.
    ///
    /// # Errors
    /// `HsmUnavailable` where another process has not come back by the deadline.
    pub(super) fn wait(directory: &Path, name: &str, state: u64, deadline: Instant) -> Result<Self> {
        let mut turn = Self { file: open(directory, name), state, waited: false };
        let Some(file) = &turn.file else { return Ok(turn) };
        let (mut octet, mut since) = (0, Instant::now());
        loop {
            if turn.is_accepted(file) {
                break;
            }
            if fork::lock_octet(file, octet) {
                // Where it cannot be said each of the others waits his full time.
                let _ = file.write_all_at(&now().to_le_bytes(), begun_at(octet));
                break;
            }
            if Instant::now() >= deadline {
                let detail = "another process is still waiting for C_Login";
                return Err(Error::new(Reason::HsmUnavailable, detail));
            }
            thread::sleep(POLL);
            turn.waited = true;
            let waited = since.elapsed();
            let is_late = waited >= PATIENCE || waited >= A_WHILE && has_hung(file, octet);
            if is_late && octet + 1 < OCTETS {
                (octet, since) = (octet + 1, Instant::now());
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
        let Some(file) = &self.file else { return };
        let mut said = [0; 16];
        said[..8].copy_from_slice(&self.state.to_le_bytes());
        said[8..].copy_from_slice(&now().to_le_bytes());
        // Where it cannot be said the others wait for each other.
        let _ = file.write_all_at(&said, 0);
    }

    /// Whether another process has said so a moment ago.
    fn is_accepted(&self, file: &File) -> bool {
        let mut said = [[0; 8]; 2];
        if file.read_exact_at(said.as_flattened_mut(), 0).is_err() {
            return false;
        }
        let [state, then] = said.map(u64::from_le_bytes);
        state == self.state && now().checked_sub(then).is_some_and(|age| age < SIDE_BY_SIDE)
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The file. What somebody else has put there, a link or a pipe, is neither written nor waited for.
fn open(directory: &Path, name: &str) -> Option<File> {
    let path = directory.join(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    if let Ok(file) = options.clone().create_new(true).open(&path) {
        let _ = share(directory, &file);
        return Some(file);
    }
    let file = options.open(&path).ok()?;
    let is_ours = |state: Metadata| state.is_file() && state.nlink() == 1;
    file.metadata().is_ok_and(is_ours).then_some(file)
}

/// Opens a new file to all who share the directory, whatever this process's umask and group are.
pub(super) fn share(directory: &Path, file: &File) -> io::Result<()> {
    let shared = fs::metadata(directory)?;
    // Whoever is not of its group leaves the file in his own.
    let _ = fchown(file, None, Some(shared.gid()));
    file.set_permissions(Permissions::from_mode(shared.mode() & 0o666))
}
