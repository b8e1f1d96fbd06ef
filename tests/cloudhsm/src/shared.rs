//! What all processes of one cluster share: a small mapped file `<dir>/shared`. Its contents outlive every process; delete it
//! between tests that are not to influence each other, or use another directory.

use std::{
    fs::OpenOptions,
    hash::{DefaultHasher, Hash, Hasher},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::counters::map;

const RATES: usize = 64;
const CLIENTS: usize = 4096;
const TICKETS: usize = 65_536;
const WORDS: usize = RATES + CLIENTS + 2 * TICKETS;

/// The shared words.
pub struct Shared {
    words: *const AtomicU64,
}

// SAFETY: atomics in a mapping that is never unmapped.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `<directory>/shared`, or private memory where there is no directory.
    pub fn open(directory: Option<&Path>) -> Shared {
        let file = directory.and_then(|directory| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o666);
            let file = options.open(directory.join("shared")).ok()?;
            let _ = file.set_permissions(std::fs::Permissions::from_mode(0o666));
            file.set_len(WORDS as u64 * 8).ok()?;
            Some(file)
        });
        let mapped = match &file {
            Some(file) => map(WORDS * 8, libc::MAP_SHARED, file.as_raw_fd()),
            None => map(WORDS * 8, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        Shared { words: mapped.expect("a megabyte can be mapped").cast_const().cast() }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < WORDS);
        // SAFETY: the mapping has WORDS words, is aligned to a page, and lives for ever.
        unsafe { &*self.words.add(index) }
    }

    /// One more event of stream `rate`, of which `per_second` are allowed: is it within what may be, with `burst` saved up?
    pub fn within_rate(&self, rate: usize, per_second: u64, burst: Duration) -> bool {
        let word = self.word(rate);
        let interval = 1_000_000_000 / per_second.max(1);
        let now = nanoseconds(SystemTime::now());
        let mut next = word.load(Acquire);
        loop {
            let due = next.max(now);
            if due - now > burst.as_nanos() as u64 {
                return false;
            }
            match word.compare_exchange_weak(next, due + interval, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(other) => next = other,
            }
        }
    }

    /// Counts this process among the clients of the cluster, unless there are `most` living ones.
    pub fn enter_client(&self, most: u64) -> bool {
        let me = u64::from(std::process::id());
        let living = |pid: u64| {
            // SAFETY: signal 0 only asks.
            pid != 0 && (unsafe { libc::kill(pid as i32, 0) } == 0 || errno() == libc::EPERM)
        };
        let mut others = 0;
        for index in RATES..RATES + CLIENTS {
            let pid = self.word(index).load(Acquire);
            if pid == me {
                return true;
            }
            others += u64::from(living(pid));
        }
        if others >= most {
            return false;
        }
        for index in RATES..RATES + CLIENTS {
            let pid = self.word(index).load(Acquire);
            if !living(pid) && self.word(index).compare_exchange(pid, me, AcqRel, Acquire).is_ok() {
                return true;
            }
        }
        false
    }

    /// This process is no client any more.
    pub fn leave_client(&self) {
        let me = u64::from(std::process::id());
        for index in RATES..RATES + CLIENTS {
            let _ = self.word(index).compare_exchange(me, 0, AcqRel, Acquire);
        }
    }

    /// The next number, from 1, of a sequence that all processes count together; `key` tells sequences apart.
    pub fn ticket(&self, key: u64) -> u64 {
        let key = key.max(1);
        for probe in 0..TICKETS {
            let entry = RATES + CLIENTS + 2 * ((key as usize).wrapping_add(probe) % TICKETS);
            let word = self.word(entry);
            let owner = word.compare_exchange(0, key, AcqRel, Acquire);
            if owner.is_ok() || owner == Err(key) {
                return self.word(entry + 1).fetch_add(1, AcqRel) + 1;
            }
        }
        u64::MAX
    }
}

/// Nanoseconds since 1970.
pub fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// A number that is the same in every process.
pub fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_of_two_sequences_are_counted_apart_and_together_over_openings() {
        let directory = tempfile::tempdir().expect("directory");
        let (one, two) = (Shared::open(Some(directory.path())), Shared::open(Some(directory.path())));
        assert_eq!([one.ticket(7), two.ticket(7), one.ticket(8), two.ticket(7)], [1, 2, 1, 3]);
    }

    #[test]
    fn the_rate_is_kept_after_the_burst() {
        let shared = Shared::open(None);
        let passed = (0..100).filter(|_| shared.within_rate(0, 10, Duration::from_millis(500))).count();
        assert!((6..=7).contains(&passed), "{passed}");
    }

    #[test]
    fn a_client_too_many_is_refused_and_one_client_is_counted_once() {
        let shared = Shared::open(None);
        assert!(!shared.enter_client(0));
        assert!(shared.enter_client(1));
        assert!(shared.enter_client(1));
        shared.leave_client();
        assert!(!shared.enter_client(0));
    }
}
