//! A PKCS#11 module: loaded and initialised once per process, and never unloaded or finalised while it may be in use.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cryptoki_sys::*;

use super::fork::{self, PerProcess};
use super::once::Shared;
use super::recover::Trouble;
use super::rejected::Rejected;
use super::rv::{Failed, check};
use super::slot::Slot;
use super::token::{self, LibraryInfo, SlotInfo, TokenInfo};
use crate::error::{Error, Reason, Result, bail};
use crate::secret::Pin;

/// A loaded module. It stays until the process ends.
pub(super) struct Module {
    path: PathBuf,
    init_args: Option<CString>,
    handle: *mut c_void,
    functions: *const CK_FUNCTION_LIST,
    /// CKR_CANT_LOCK: one call at a time.
    alone: AtomicBool,
    /// It was initialised once, here or in a process that this is a child of.
    ever: AtomicBool,
    state: PerProcess<State>,
    /// Rejected PINs are remembered in children too.
    pub(super) rejected: Rejected,
    next: AtomicPtr<Module>,
}

// SAFETY: the handle and the function list belong to the loader and the module, which stay mapped and constant; a PKCS#11 module is
// called from any thread (C_Initialize is told so), or one at a time where it cannot lock.
unsafe impl Send for Module {}
// SAFETY: as for Send.
unsafe impl Sync for Module {}

/// What this process knows of the module.
#[derive(Default)]
struct State {
    initialised: Shared<Arc<Instance>>,
    /// The last one, which is still good where C_Initialize says that nothing was lost.
    last: Mutex<Option<Arc<Instance>>>,
    /// Whose PIN was accepted last, in each slot. It outlasts what is lost.
    users: Mutex<Vec<(CK_SLOT_ID, Arc<Pin>)>>,
    call: Mutex<()>,
}

/// Slots, as the module showed them.
type Slots = Arc<Vec<Arc<Slot>>>;

/// The module as it was initialised: its slots. Initialising it again makes another one.
#[derive(Default)]
pub(super) struct Instance {
    /// How often something was lost that may have been a token: it may stand in another slot now.
    losses: AtomicU64,
    /// The slots, and the losses that they were asked for after.
    slots: Mutex<Option<(u64, Slots)>>,
}

/// Every module that was loaded, the last first. No lock: a child of fork may need it.
static MODULES: AtomicPtr<Module> = AtomicPtr::new(ptr::null_mut());

/// The function of a module, called as one call in flight; CKR_FUNCTION_NOT_SUPPORTED where the module has none. To be used in an
/// unsafe block that vouches for the arguments; the function list is the module's own and constant (PKCS#11 v2.40 section 5.4).
macro_rules! call {
    ($module:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        let module: &$crate::hsm::module::Module = $module;
        match (*module.functions()).$function {
            Some(function) => module.run(|| function($($argument),*)),
            None => cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED,
        }
    }};
}
pub(super) use call;

impl Module {
    /// The module in a file, loaded with the first use of it.
    ///
    /// # Errors
    /// `ModuleLoad` and `ModuleInvalid`, with the file and what is wrong with it; `BadDirective` where the process has it with other
    /// arguments for C_Initialize, which is called once.
    pub(super) fn load(path: &Path, init_args: Option<&CString>) -> Result<&'static Self> {
        let module = Self::loaded(path, init_args)?;
        if init_args.is_some() && init_args != module.init_args.as_ref() {
            bail!(BadDirective, "pkcs11-module-init-args: {} is in use with others", module.path.display());
        }
        Ok(module)
    }

    fn loaded(path: &Path, init_args: Option<&CString>) -> Result<&'static Self> {
        if let Some(module) = find(|module| module.path == path) {
            return Ok(module);
        }
        fork::watch();
        let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
            bail!(ModuleLoad, "the path has a NUL");
        };
        super::load_error::check_whole(path)?;
        // RTLD_LOCAL: the module's symbols are nobody else's. RTLD_NODELETE: threads of it may outlive every user.
        let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE;
        // A fork waits as for a call: a child can load nothing where the loader was at work, and has a module that is never finished.
        // SAFETY: a NUL-terminated name. What the file's constructors do is the administrator's choice.
        let handle = fork::in_flight(|| unsafe { libc::dlopen(name.as_ptr(), flags) });
        if handle.is_null() {
            // SAFETY: null or a NUL-terminated text of this thread's last failure.
            let said = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text).to_string_lossy()) };
            return Err(super::load_error::explain(path, &said.unwrap_or_default()));
        }
        fork::module_is_there();
        // The same file under another name is the same module.
        if let Some(module) = find(|module| module.handle == handle) {
            return Ok(module);
        }
        let functions = function_list(handle, path)?;
        Ok(publish(Box::new(Self::new(path, init_args.cloned(), handle, functions))))
    }

    fn new(
        path: &Path,
        init_args: Option<CString>,
        handle: *mut c_void,
        functions: *const CK_FUNCTION_LIST,
    ) -> Self {
        Self {
            path: path.to_owned(),
            init_args,
            handle,
            functions,
            alone: AtomicBool::new(false),
            ever: AtomicBool::new(false),
            state: PerProcess::new(),
            rejected: Rejected::default(),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn functions(&self) -> *const CK_FUNCTION_LIST {
        self.functions
    }

    /// One call in flight. A module that cannot lock for itself is driven one call at a time.
    pub(super) fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        if self.alone.load(Ordering::Relaxed) {
            let _one = self.state.get().call.lock().unwrap_or_else(PoisonError::into_inner);
            fork::in_flight(call)
        } else {
            fork::in_flight(call)
        }
    }

    /// The module initialised in this process, and the epoch of that.
    pub(super) fn initialised(&self, deadline: Instant) -> Result<(Arc<Instance>, u64), Trouble> {
        match self.state.get().initialised.get(deadline, || self.initialise()) {
            Some(Ok(initialised)) => {
                self.ever.store(true, Ordering::Relaxed);
                Ok(initialised)
            }
            Some(Err(failed)) => {
                Err(Trouble::Unreachable { failed, ever: self.ever.load(Ordering::Relaxed) })
            }
            None => Err(Trouble::Permanent(Error::new(
                Reason::HsmUnavailable,
                "another thread is still waiting for C_Initialize",
            ))),
        }
    }

    /// The epoch in which the module is initialised in this process.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.state.get().initialised.standing()
    }

    /// Initialises again with the next use, unless somebody has since this epoch.
    pub(super) fn lose(&self, epoch: u64) {
        self.state.get().initialised.lose(epoch);
    }

    /// Whose PIN was accepted last.
    pub(super) fn user(&self, slot: CK_SLOT_ID) -> Option<Arc<Pin>> {
        let users = self.state.get().users.lock().unwrap_or_else(PoisonError::into_inner);
        users.iter().find(|(id, _)| *id == slot).map(|(_, pin)| Arc::clone(pin))
    }

    /// Says whose PIN was accepted.
    pub(super) fn set_user(&self, slot: CK_SLOT_ID, pin: &Arc<Pin>) {
        let mut users = self.state.get().users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|(id, _)| *id != slot);
        users.push((slot, Arc::clone(pin)));
    }

    fn initialise(&self) -> Result<Arc<Instance>, Failed> {
        let result = self.c_initialize();
        let last = || self.state.get().last.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {}
            // Nothing was lost, or somebody else in this process uses the module too.
            Err(Failed { rv: CKR_CRYPTOKI_ALREADY_INITIALIZED, .. }) => {
                if let Some(instance) = &*last() {
                    instance.losses.fetch_add(1, Ordering::AcqRel);
                    return Ok(Arc::clone(instance));
                }
                // Or it is what a child has inherited and cannot use.
                if fork::is_child() && self.slot_ids().is_err() {
                    self.c_finalize();
                    self.c_initialize()?;
                }
            }
            Err(failed) => return Err(failed),
        }
        fork::module_is_there();
        let instance = Arc::default();
        *last() = Some(Arc::clone(&instance));
        Ok(instance)
    }

    /// C_Initialize, with the module's own locks or, where it has none, without.
    fn c_initialize(&self) -> Result<(), Failed> {
        if !self.alone.load(Ordering::Relaxed) {
            match self.c_initialize_with(CKF_OS_LOCKING_OK) {
                Err(Failed { rv: CKR_CANT_LOCK, .. }) => self.alone.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        self.c_initialize_with(0)
    }

    fn c_initialize_with(&self, flags: CK_FLAGS) -> Result<(), Failed> {
        let reserved = self.init_args.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let mut arguments = CK_C_INITIALIZE_ARGS {
            CreateMutex: None,
            DestroyMutex: None,
            LockMutex: None,
            UnlockMutex: None,
            flags,
            pReserved: reserved.cast_mut().cast(),
        };
        // SAFETY: CK_C_INITIALIZE_ARGS of ours for the time of the call (PKCS#11 v2.40 section 5.4); pReserved is null or a
        // NUL-terminated text that lives as long as the module.
        let rv = unsafe { call!(self, C_Initialize((&raw mut arguments).cast())) };
        check("C_Initialize", rv)
    }

    /// Only for a child that has inherited an initialised module that it cannot use.
    fn c_finalize(&self) {
        // SAFETY: pReserved is null, as it has to be. Nothing of this process uses the module: nobody got past `initialised`.
        let _ = unsafe { call!(self, C_Finalize(ptr::null_mut())) };
    }

    fn slot_ids(&self) -> Result<Vec<CK_SLOT_ID>, Failed> {
        // One call where there are no more slots than this: asking for the number first would be another.
        let mut ids = vec![0; 64];
        loop {
            let mut count: CK_ULONG = ids.len() as CK_ULONG;
            // SAFETY: room for `count` slot identifiers.
            let rv = unsafe { call!(self, C_GetSlotList(CK_TRUE, ids.as_mut_ptr(), &raw mut count)) };
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if rv == CKR_BUFFER_TOO_SMALL && count > ids.len() && count <= 1 << 16 {
                ids.resize(count, 0);
                continue;
            }
            check("C_GetSlotList", rv)?;
            ids.truncate(count);
            return Ok(ids);
        }
    }

    /// The slots with a token, as the module showed them when it was initialised; `anew` asks again.
    pub(super) fn slots(&'static self, instance: &Instance, anew: bool) -> Result<Slots, Failed> {
        let lock = || instance.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // What is lost while the module is asked is a loss that it was not asked after.
        let losses = instance.losses.load(Ordering::Acquire);
        let known = lock().clone();
        if let Some((_, known)) = known.filter(|(asked, _)| !anew && *asked == losses) {
            return Ok(known);
        }
        let ids = self.slot_ids()?;
        let mut current = lock();
        // Two threads may have asked: a slot that one of them knows is the other's too, with its sessions and its login.
        let known = || current.iter().flat_map(|(_, slots)| slots.iter());
        let old = |id| known().find(|slot| slot.id() == id).cloned();
        let slots: Slots = Arc::new(
            ids.into_iter().map(|id| old(id).unwrap_or_else(|| Arc::new(Slot::new(self, id)))).collect(),
        );
        *current = Some((losses, Arc::clone(&slots)));
        Ok(slots)
    }

    /// C_GetTokenInfo.
    pub(super) fn token_info(&self, slot: CK_SLOT_ID) -> Result<TokenInfo, Failed> {
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: room for one CK_TOKEN_INFO.
        let rv = unsafe { call!(self, C_GetTokenInfo(slot, &raw mut info)) };
        check("C_GetTokenInfo", rv)?;
        Ok(token::token_info(&info))
    }

    /// C_GetSlotInfo.
    pub(super) fn slot_info(&self, slot: CK_SLOT_ID) -> Result<SlotInfo, Failed> {
        let mut info = CK_SLOT_INFO::default();
        // SAFETY: room for one CK_SLOT_INFO.
        let rv = unsafe { call!(self, C_GetSlotInfo(slot, &raw mut info)) };
        check("C_GetSlotInfo", rv)?;
        Ok(token::slot_info(&info))
    }

    /// C_GetInfo.
    pub(super) fn library_info(&self) -> Result<LibraryInfo, Failed> {
        let mut info = CK_INFO::default();
        // SAFETY: room for one CK_INFO.
        let rv = unsafe { call!(self, C_GetInfo(&raw mut info)) };
        check("C_GetInfo", rv)?;
        Ok(token::library_info(&info))
    }

    /// C_OpenSession, for reading and writing: CloudHSM has no other. CloudHSM takes neither callback nor its argument.
    pub(super) fn open_session(&self, slot: CK_SLOT_ID) -> Result<CK_SESSION_HANDLE, Failed> {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        // SAFETY: room for one handle; no callback.
        let rv = unsafe { call!(self, C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut session)) };
        check("C_OpenSession", rv).map(|()| session)
    }

    /// C_CloseSession.
    pub(super) fn close_session(&self, session: CK_SESSION_HANDLE) -> Result<(), Failed> {
        // SAFETY: a handle is a number.
        check("C_CloseSession", unsafe { call!(self, C_CloseSession(session)) })
    }

    /// C_Login of the user.
    pub(super) fn login(&self, session: CK_SESSION_HANDLE, pin: &[u8]) -> Result<(), Failed> {
        let Ok(length) = CK_ULONG::try_from(pin.len()) else {
            return Err(Failed { function: "C_Login", rv: CKR_PIN_LEN_RANGE });
        };
        // SAFETY: `length` readable octets, which the module does not change although their type in C lets it.
        let rv = unsafe { call!(self, C_Login(session, CKU_USER, pin.as_ptr().cast_mut(), length)) };
        check("C_Login", rv)
    }
}

/// C_GetFunctionList of a loaded file.
fn function_list(handle: *mut c_void, path: &Path) -> Result<*const CK_FUNCTION_LIST> {
    // SAFETY: a live handle and a NUL-terminated name.
    let address = unsafe { libc::dlsym(handle, c"C_GetFunctionList".as_ptr()) };
    if address.is_null() {
        bail!(ModuleInvalid, "{} has no C_GetFunctionList", path.display());
    }
    // SAFETY: the function of this name has this type in every PKCS#11 module (PKCS#11 v2.40 section 5.4).
    let get: unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV =
        unsafe { std::mem::transmute(address) };
    let mut functions: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: room for one pointer.
    let rv = fork::in_flight(|| unsafe { get(&raw mut functions) });
    if let Err(failed) = check("C_GetFunctionList", rv) {
        return Err(Error::new(Reason::ModuleInvalid, path.display().to_string()).with_call(failed.call()));
    }
    if functions.is_null() {
        bail!(ModuleInvalid, "{} has no function list", path.display());
    }
    Ok(functions)
}

/// The first module that is wanted.
fn find(wanted: impl Fn(&Module) -> bool) -> Option<&'static Module> {
    let mut next = MODULES.load(Ordering::Acquire);
    // SAFETY: null or a module that `publish` put there and that nobody frees.
    while let Some(module) = unsafe { next.as_ref() } {
        if wanted(module) {
            return Some(module);
        }
        next = module.next.load(Ordering::Acquire);
    }
    None
}

/// Puts a module on the list, unless another thread has put the same one there: the one that lost the race is known to nobody.
fn publish(mut fresh: Box<Module>) -> &'static Module {
    loop {
        let first = MODULES.load(Ordering::Acquire);
        if let Some(known) = find(|known| known.handle == fresh.handle) {
            return known;
        }
        *fresh.next.get_mut() = first;
        let module = Box::into_raw(fresh);
        match MODULES.compare_exchange(first, module, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just published; nobody frees what is on the list.
            Ok(_) => return unsafe { &*module },
            // SAFETY: made by Box::into_raw above, and on no list: nobody else has it.
            Err(_) => fresh = unsafe { Box::from_raw(module) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets that the allocator has given out.
    fn given_out() -> usize {
        // SAFETY: no argument.
        let all = unsafe { libc::mallinfo2() };
        all.uordblks + all.hblkhd
    }

    #[test]
    fn a_module_that_lost_the_race_to_be_loaded_is_not_left_behind() {
        const LONG: usize = 4 << 20;
        static HANDLE: u8 = 0;
        let path = PathBuf::from("m".repeat(LONG));
        let handle = (&raw const HANDLE).cast_mut().cast();
        let load = || publish(Box::new(Module::new(&path, None, handle, ptr::null())));
        let first = load();
        let before = given_out();
        for _ in 0..16 {
            assert!(ptr::eq(load(), first));
        }
        let left = given_out().saturating_sub(before);
        assert!(left < 8 * LONG, "{left} octets");
    }

    #[test]
    fn many_threads_that_load_one_module_have_one() {
        static HANDLE: u8 = 0;
        let handle = (&raw const HANDLE).addr();
        let load = |_| {
            let handle = ptr::without_provenance_mut(handle);
            ptr::from_ref(publish(Box::new(Module::new(Path::new("m"), None, handle, ptr::null())))).addr()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|number| scope.spawn(move || load(number))).collect();
            let modules: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert!(modules.iter().all(|module| *module == modules[0]));
        });
    }

    /// What the module below shows: the number of its only slot, an error, and whether something is lost while it is asked.
    static SLOT: AtomicU64 = AtomicU64::new(1);
    static FAILS: AtomicBool = AtomicBool::new(false);
    static LOSES: AtomicPtr<Instance> = AtomicPtr::new(ptr::null_mut());

    unsafe extern "C" fn slot_list(_: CK_BBOOL, ids: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
        // SAFETY: null or the test's instance, which outlives the call.
        if let Some(instance) = unsafe { LOSES.swap(ptr::null_mut(), Ordering::SeqCst).as_ref() } {
            instance.losses.fetch_add(1, Ordering::SeqCst);
        }
        if FAILS.swap(false, Ordering::SeqCst) {
            return CKR_DEVICE_ERROR;
        }
        // SAFETY: the caller's room, for 64 numbers.
        unsafe { (*ids, *count) = (SLOT.load(Ordering::SeqCst) as CK_SLOT_ID, 1) };
        CKR_OK
    }

    #[test]
    fn after_a_loss_the_slots_are_asked_for_until_the_module_says_which_there_are() {
        let functions =
            Box::leak(Box::new(CK_FUNCTION_LIST { C_GetSlotList: Some(slot_list), ..Default::default() }));
        let module = Box::leak(Box::new(Module::new(Path::new("s"), None, ptr::null_mut(), functions)));
        let instance = Instance::default();
        let lost_while_asked = (&raw const instance).cast_mut();
        let slot = || module.slots(&instance, false).map(|slots| slots[0].id()).ok();
        assert_eq!(slot(), Some(1));
        SLOT.store(2, Ordering::SeqCst);
        assert_eq!(slot(), Some(1));
        instance.losses.fetch_add(1, Ordering::SeqCst);
        FAILS.store(true, Ordering::SeqCst);
        assert_eq!(slot(), None);
        assert_eq!(slot(), Some(2));
        instance.losses.fetch_add(1, Ordering::SeqCst);
        LOSES.store(lost_while_asked, Ordering::SeqCst);
        assert_eq!(slot(), Some(2));
        SLOT.store(3, Ordering::SeqCst);
        assert_eq!(slot(), Some(3));
    }
}
