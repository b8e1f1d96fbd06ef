//! The control file `<dir>/control`: looked at (one stat) by every call of every process, read again when it changed.

use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::{Duration, SystemTime},
};

use crate::{
    faults::{self, Fault, Kind},
    process::Process,
    shared::{hash, nanoseconds},
};

/// The kernel's clock for files may stand still for so long: two versions of a file can have one time.
const GRAIN: u64 = 20_000_000;

/// What the control file says now.
#[derive(Default)]
pub struct Plan {
    pub faults: Vec<Fault>,
    /// When it was written, in nanoseconds since 1970.
    written: u64,
    epoch: u64,
}

/// The view of one process.
pub struct Control {
    path: Option<(CString, PathBuf)>,
    seen: AtomicU64,
    /// The file is so new that it may change without showing it.
    fresh: AtomicBool,
    active: AtomicBool,
    plan: RwLock<Arc<Plan>>,
}

impl Control {
    pub fn new(directory: Option<&std::path::Path>) -> Control {
        let path = directory.map(|directory| directory.join("control"));
        let path = path.and_then(|path| Some((CString::new(path.as_os_str().as_bytes()).ok()?, path)));
        let (seen, fresh, active) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Control { path, seen, fresh, active, plan: RwLock::default() }
    }

    /// The plan, if there is any fault in it.
    pub fn plan(&self, process: &Process) -> Option<Arc<Plan>> {
        self.look(process);
        if !self.active.load(Acquire) {
            return None;
        }
        Some(self.plan.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn look(&self, process: &Process) {
        let Some((name, path)) = &self.path else { return };
        // SAFETY: stat is plain data, for which zeroes are valid.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: a C string and room for the answer.
        let is_there = unsafe { libc::stat(name.as_ptr(), &mut stat) } == 0;
        let written = stat.st_mtime as u64 * 1_000_000_000 + stat.st_mtime_nsec as u64;
        let identity = if is_there { hash((stat.st_ino, written, stat.st_size)).max(1) } else { 0 };
        let unchanged = identity == self.seen.load(Acquire);
        if unchanged && !self.fresh.load(Acquire) {
            return;
        }
        self.fresh.store(is_there && nanoseconds(SystemTime::now()).saturating_sub(written) < GRAIN, Release);
        let text = if is_there { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        let epoch = hash((identity, &text));
        if self.plan.read().unwrap_or_else(PoisonError::into_inner).epoch != epoch {
            let requests = &process.settings.requests;
            let faults = faults::parse(&text, epoch, requests).unwrap_or_else(|problem| {
                process.log_line(&problem);
                eprintln!("cloudhsm stand-in: {problem}");
                Vec::new()
            });
            let is_active = !faults.is_empty();
            let mut plan = self.plan.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been here first: its plan remembers what was applied.
            if plan.epoch != epoch {
                *plan = Arc::new(Plan { faults, written, epoch });
            }
            self.active.store(is_active, Release);
        }
        self.seen.store(identity, Release);
    }
}

impl Plan {
    /// Is this still the newest plan?
    pub fn is_current(&self, process: &Process) -> bool {
        process.control.plan(process).is_some_and(|plan| plan.epoch == self.epoch)
    }

    fn age(&self) -> Duration {
        Duration::from_nanos(nanoseconds(SystemTime::now()).saturating_sub(self.written))
    }

    /// Applies what happens to whole processes. Returns the losses that go on, as slot and code.
    pub fn apply(&self, process: &Process) -> Vec<(Option<usize>, cryptoki_sys::CK_RV)> {
        let mut going_on = Vec::new();
        for fault in self.faults.iter().filter(|fault| fault.now) {
            let (count, is_open) = fault.due(self.age());
            if fault.take(count) {
                let state = &process.state;
                match fault.kind {
                    Kind::SessionLost => state.lose_sessions(fault.slot),
                    Kind::LoginLost => state.lose_login(fault.slot),
                    Kind::HandlesChanged => state.objects.forget(fault.slot),
                    Kind::TokenChanged => state.change_token(fault.slot),
                    Kind::NotInitialized => state.stop(),
                    Kind::AllLost => {
                        state.lose_login(fault.slot);
                        state.lose_sessions(fault.slot);
                    }
                    _ => {}
                }
                process.counters.more(crate::counters::Count::faults);
            }
            if is_open {
                going_on.push((fault.slot, fault.code));
            }
        }
        going_on
    }
}
