//! What this process asked for, counted in a file that a test reads while the process runs or after it was killed.
//!
//! The file is `<dir>/<pid>.counts`: one line of 64 bytes per counter, `name value`, the value in 8 decimal digits. It is
//! mapped, and a value is one aligned 64-bit word of ASCII digits changed by compare-and-swap: a reader never sees half
//! a number, and a writer makes no system call.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::entry::{Function, NAMES};

/// The counters that belong to no single function.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Debug)]
pub enum Count {
    calls,
    requests,
    requests_all_hsms,
    in_flight_max,
    session_violations,
    module_violations,
    sessions_max,
    login_ok,
    login_pin_incorrect,
    login_pin_locked,
    login_already,
    login_other,
    faults,
    busy,
    traps,
    length_queries,
    octets_to_sign,
    forks_with_calls_in_flight,
    forked_child,
    calls_at_exit,
}

const GENERAL: [&str; 20] = [
    "calls",
    "requests",
    "requests_all_hsms",
    "in_flight_max",
    "session_violations",
    "module_violations",
    "sessions_max",
    "login_ok",
    "login_pin_incorrect",
    "login_pin_locked",
    "login_already",
    "login_other",
    "faults",
    "busy",
    "traps",
    "length_queries",
    "octets_to_sign",
    "forks_with_calls_in_flight",
    "forked_child",
    "calls_at_exit",
];

/// The names of the counters that belong to no single function.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    GENERAL.into_iter()
}

const KINDS: [&str; 3] = ["calls", "requests", "errors"];
const LINE: usize = 64;
const VALUE: usize = 48;
const MAXIMUM: u64 = 99_999_999;

/// The mapped counters of one process.
pub struct Counters {
    first: *const u8,
}

// SAFETY: the mapping is never unmapped and is only touched through atomics.
unsafe impl Send for Counters {}
// SAFETY: as above.
unsafe impl Sync for Counters {}

impl Counters {
    /// Counters in `<directory>/<pid>.counts` (with `-2`, `-3` ... after the pid if that file is there already); in
    /// memory only where there is no directory or no permission.
    pub fn create(directory: Option<&Path>) -> Counters {
        let text = lines();
        let file = directory.and_then(|directory| create_file(directory, &text));
        let first = match &file {
            Some(file) => map(text.len(), libc::MAP_SHARED, file.as_raw_fd()),
            None => None,
        };
        let first = first.unwrap_or_else(|| {
            // A u64 buffer for its alignment; leaked, as the mapping would be.
            let words = Box::leak(vec![0u64; text.len() / 8].into_boxed_slice());
            let first = words.as_mut_ptr().cast::<u8>();
            // SAFETY: the buffer has the length of the text, which is a multiple of 64.
            unsafe { first.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
            first
        });
        Counters { first }
    }

    /// One more call of `function`.
    pub fn call(&self, function: Function) {
        add(self.general(Count::calls), 1);
        add(self.of(0, function), 1);
    }

    /// One more request of `function` to the HSM; `hsms` is how many HSMs it asks.
    pub fn request(&self, function: Function, hsms: u64) {
        add(self.general(Count::requests), 1);
        add(self.general(Count::requests_all_hsms), hsms);
        add(self.of(1, function), 1);
    }

    /// One more call of `function` that did not return CKR_OK.
    pub fn error(&self, function: Function) {
        add(self.of(2, function), 1);
    }

    /// One more of `count`.
    pub fn more(&self, count: Count) {
        add(self.general(count), 1);
    }

    /// So many more of `count`.
    pub fn add(&self, count: Count, by: u64) {
        add(self.general(count), by);
    }

    /// `count` is the highest value ever given.
    pub fn highest(&self, count: Count, value: u64) {
        let cell = self.general(count);
        let new = encode(value);
        let mut old = cell.load(Relaxed);
        // Digits in memory order compare as a big-endian number does.
        while u64::from_be(old) < u64::from_be(new) {
            match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    fn general(&self, count: Count) -> &AtomicU64 {
        self.cell(count as usize)
    }

    fn of(&self, kind: usize, function: Function) -> &AtomicU64 {
        self.cell(GENERAL.len() + function as usize * KINDS.len() + kind)
    }

    fn cell(&self, line: usize) -> &AtomicU64 {
        // SAFETY: one line of comment, then a line per counter, each 64 bytes long and the value aligned to 8 in it; the
        // memory lives for ever.
        unsafe { AtomicU64::from_ptr(self.first.add((line + 1) * LINE + VALUE).cast_mut().cast()) }
    }
}

fn add(cell: &AtomicU64, by: u64) {
    let mut old = cell.load(Relaxed);
    loop {
        let new = encode(decode(old) + by);
        match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

fn decode(digits: u64) -> u64 {
    digits.to_ne_bytes().iter().fold(0, |value, digit| value * 10 + u64::from(digit.wrapping_sub(b'0')))
}

fn encode(value: u64) -> u64 {
    let mut rest = value.min(MAXIMUM);
    let mut digits = [b'0'; 8];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    u64::from_ne_bytes(digits)
}

fn lines() -> Vec<u8> {
    let program = std::env::current_exe().unwrap_or_default();
    let program: String = program.to_string_lossy().chars().filter(char::is_ascii).collect();
    let mut text = format!("{:<63.63}\n", format!("# {program}"));
    let general = GENERAL.iter().map(|name| (*name).to_owned());
    let functions = NAMES.iter().flat_map(|name| KINDS.iter().map(move |kind| format!("{kind}.{name}")));
    for name in general.chain(functions) {
        text.push_str(&format!("{name:<VALUE$}{:08}{:7}\n", 0, ""));
    }
    text.into_bytes()
}

fn create_file(directory: &Path, text: &[u8]) -> Option<File> {
    let pid = std::process::id();
    for attempt in 1..1000 {
        let name = if attempt == 1 { format!("{pid}.counts") } else { format!("{pid}-{attempt}.counts") };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o644);
        match options.open(directory.join(name)) {
            Ok(mut file) => return file.write_all(text).ok().map(|()| file),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
    }
    None
}

/// Maps `length` bytes of the file for reading and writing.
pub fn map(length: usize, flags: i32, file: i32) -> Option<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let first = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file, 0) };
    (first != libc::MAP_FAILED).then_some(first.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_on_its_own_line_and_counts() {
        let directory = tempfile::tempdir().expect("directory");
        let counters = Counters::create(Some(directory.path()));
        for _ in 0..1009 {
            counters.call(Function::C_WaitForSlotEvent);
        }
        counters.request(Function::C_FindObjectsInit, 2);
        counters.highest(Count::in_flight_max, 12);
        counters.highest(Count::in_flight_max, 9);
        counters.more(Count::forked_child);
        let path = directory.path().join(format!("{}.counts", std::process::id()));
        let text = std::fs::read_to_string(path).expect("counts");
        let value = |name: &str| {
            let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(name));
            lines.next().and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse().ok())
        };
        assert_eq!(value("calls.C_WaitForSlotEvent"), Some(1009u64));
        assert_eq!(value("calls"), Some(1009));
        assert_eq!(value("requests.C_FindObjectsInit"), Some(1));
        assert_eq!(value("requests_all_hsms"), Some(2));
        assert_eq!(value("in_flight_max"), Some(12));
        assert_eq!(value("forked_child"), Some(1));
        assert_eq!(value("errors.C_Sign"), Some(0));
    }

    #[test]
    fn a_second_image_in_one_process_does_not_overwrite_the_first() {
        let directory = tempfile::tempdir().expect("directory");
        Counters::create(Some(directory.path())).more(Count::faults);
        Counters::create(Some(directory.path()));
        assert_eq!(std::fs::read_dir(directory.path()).expect("read").count(), 2);
    }
}
