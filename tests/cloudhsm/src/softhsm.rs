//! The SoftHSM2 behind the rules: a copy of its own for each process, asked through [`ask!`].
//!
//! A child of fork loads a fresh copy of the library from an anonymous file, so that it has statics of its own and inherits no
//! lock and no session. Only libcrypto is shared; against its locks stands the gate: before a fork, calls inside
//! SoftHSM2 are waited for, briefly.

use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char},
    io::Write,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::null_mut,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    time::{Duration, Instant},
};

use cryptoki_sys::*;

use crate::exit;

/// Calls a function of this process's SoftHSM2: `ask!(C_Sign(session, ...))` is `Ok(())` or the CKR. No lock of ours may be held.
macro_rules! ask {
    ($function:ident ( $($argument:expr),* $(,)? )) => {
        $crate::softhsm::inside(|list| match list.$function {
            // SAFETY: the pointers are the application's, under its contract, or point into live locals of the caller.
            Some(function) => unsafe { function($($argument),*) },
            None => cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED,
        })
    };
}
pub(crate) use ask;

/// What a rule comes to.
pub type Answer = Result<(), CK_RV>;

static MODULE: AtomicPtr<CK_FUNCTION_LIST> = AtomicPtr::new(null_mut());
/// How many forks lie between this process and the first; names the copies apart.
static GENERATION: AtomicU32 = AtomicU32::new(0);

static INSIDE: AtomicU64 = AtomicU64::new(0);
static GATE: AtomicBool = AtomicBool::new(false);
/// The process ends: whoever is not inside stays outside.
static CLOSED: AtomicBool = AtomicBool::new(false);
static DRAINED: AtomicBool = AtomicBool::new(false);
const DRAIN: Duration = Duration::from_millis(100);
const HOLD: Duration = Duration::from_millis(5);

thread_local! {
    /// This thread's calls inside SoftHSM2: more than one when SoftHSM2's libcrypto calls us back.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs `call` on SoftHSM2's function list.
pub fn inside(call: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV) -> Answer {
    let list = MODULE.load(Acquire);
    if list.is_null() {
        return Err(CKR_GENERAL_ERROR);
    }
    enter();
    // SAFETY: stored by `start` from a list that lives for ever.
    let rv = call(unsafe { &*list });
    leave();
    if rv == CKR_OK { Ok(()) } else { Err(rv) }
}

fn enter() {
    let depth = DEPTH.get();
    DEPTH.set(depth + 1);
    INSIDE.fetch_add(1, SeqCst);
    if depth > 0 {
        return;
    }
    let mut drained = None;
    loop {
        // Looked at again after every rest: the process may have begun to end while this thread was not counted.
        if CLOSED.load(SeqCst) && !exit::is_this_thread() {
            INSIDE.fetch_sub(1, SeqCst);
            exit::wait_for_the_end();
        }
        // Other fork handlers may be waiting for this very call: do not make them wait long.
        let is_held = GATE.load(SeqCst) && drained.is_none_or(|since: Instant| since.elapsed() <= HOLD);
        if !is_held {
            return;
        }
        INSIDE.fetch_sub(1, SeqCst);
        std::thread::sleep(Duration::from_micros(50));
        INSIDE.fetch_add(1, SeqCst);
        if DRAINED.load(SeqCst) {
            drained.get_or_insert_with(Instant::now);
        }
    }
}

fn leave() {
    DEPTH.set(DEPTH.get() - 1);
    INSIDE.fetch_sub(1, SeqCst);
}

/// Before a fork: waits until nobody is inside SoftHSM2, for at most 100 ms.
pub fn close_gate() {
    if DEPTH.get() > 0 {
        return;
    }
    DRAINED.store(false, SeqCst);
    GATE.store(true, SeqCst);
    let start = Instant::now();
    while INSIDE.load(SeqCst) > 0 && start.elapsed() < DRAIN {
        std::thread::sleep(Duration::from_micros(50));
    }
    DRAINED.store(true, SeqCst);
}

/// At the end of the process: nobody but the ending thread goes in any more, and those inside get a second to come out.
pub fn close_for_good() {
    CLOSED.store(true, SeqCst);
    let start = Instant::now();
    while INSIDE.load(SeqCst) > u64::from(DEPTH.get() > 0) && start.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// After a fork, in the parent.
pub fn open_gate() {
    GATE.store(false, SeqCst);
}

/// In the child: this process has no SoftHSM2 yet.
pub fn forget() {
    MODULE.store(null_mut(), Release);
    GENERATION.fetch_add(1, Relaxed);
    INSIDE.store(0, SeqCst);
    GATE.store(false, SeqCst);
    CLOSED.store(false, SeqCst);
    DEPTH.set(0);
}

/// Is there a SoftHSM2 in this process?
pub fn is_there() -> bool {
    !MODULE.load(Acquire).is_null()
}

/// From now on [`ask!`] asks this one.
pub fn set(list: &'static CK_FUNCTION_LIST) {
    MODULE.store(std::ptr::from_ref(list).cast_mut(), Release);
}

/// The start failed.
pub fn unset() {
    MODULE.store(null_mut(), Release);
}

/// Loads a copy of the module at `path` that shares nothing with other copies.
///
/// In a root directory without /proc there are no copies: the first generation gets the module itself.
pub fn load_copy(path: &Path) -> Result<&'static CK_FUNCTION_LIST, String> {
    if GENERATION.load(Relaxed) == 0 && !Path::new("/proc/self/fd").exists() {
        return load(path);
    }
    let library = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // SAFETY: a C string.
    let file = unsafe { libc::memfd_create(c"libsofthsm2.so".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(format!("memfd_create: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: a file descriptor that is ours alone.
    let mut file = unsafe { std::fs::File::from_raw_fd(file) };
    file.write_all(&library).map_err(|error| error.to_string())?;
    // The loader takes a name that it has seen for the library that it has: each generation spells it with one slash more.
    let slashes = "/".repeat(GENERATION.load(Relaxed) as usize + 1);
    let name = CString::new(format!("/proc/self{slashes}fd/{}", file.as_raw_fd()))
        .map_err(|error| error.to_string())?;
    open(&name)
}

/// Loads the module at `path` as it is.
pub fn load(path: &Path) -> Result<&'static CK_FUNCTION_LIST, String> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    open(&path)
}

fn open(path: &CStr) -> Result<&'static CK_FUNCTION_LIST, String> {
    // SAFETY: a C string; what the module's constructors do is SoftHSM2's business.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(loader_error());
    }
    // SAFETY: a handle from dlopen and a C string.
    let symbol = unsafe { libc::dlsym(handle, c"C_GetFunctionList".as_ptr()) };
    if symbol.is_null() {
        return Err(loader_error());
    }
    type GetFunctionList = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;
    // SAFETY: PKCS#11 fixes the type of the function of this name.
    let get_function_list = unsafe { std::mem::transmute::<*mut libc::c_void, GetFunctionList>(symbol) };
    let mut list = null_mut();
    // SAFETY: a pointer to a pointer, as the function wants it.
    let rv = unsafe { get_function_list(&mut list) };
    if rv != CKR_OK || list.is_null() {
        return Err(format!("C_GetFunctionList: {rv:#x}"));
    }
    // SAFETY: the module is never unloaded, and its list with it.
    Ok(unsafe { &*list })
}

fn loader_error() -> String {
    // SAFETY: dlerror returns null or a C string that lives until this thread's next dl call.
    unsafe {
        let text: *const c_char = libc::dlerror();
        if text.is_null() { "dlopen".to_owned() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}
