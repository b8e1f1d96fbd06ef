//! The same with PKCS#11 calls alone, beside the tests of forks: what fails here too is the module's own.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use cryptoki_sys::*;

use crate::scenario::*;
use crate::support::{Recorder, softhsm};

const DATA: &[u8] = b"digest info";
/// A child that has not signed by then hangs.
const LIMIT: Duration = Duration::from_secs(2);

/// A module without hsmkey.
#[derive(Clone, Copy)]
struct Raw(*const CK_FUNCTION_LIST);

// SAFETY: a module's function list is constant, and the module is told that it is called from several threads.
unsafe impl Send for Raw {}
// SAFETY: as for Send.
unsafe impl Sync for Raw {}

/// Calls a function of the module; the error is its return value.
macro_rules! call {
    ($raw:expr, $function:ident($($argument:expr),*)) => {{
        // SAFETY: the list is the module's, and the arguments are locals that outlive the call.
        match unsafe { ((*$raw.0).$function.unwrap())($($argument),*) } {
            CKR_OK => Ok(()),
            rv => Err(rv),
        }
    }};
}

impl Raw {
    fn load(path: &Path) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut list = ptr::null_mut();
        // SAFETY: C_GetFunctionList has this type in every module, which stays loaded.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null());
            let get: unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV =
                std::mem::transmute(libc::dlsym(handle, c"C_GetFunctionList".as_ptr()));
            assert_eq!(get(&raw mut list), CKR_OK);
        }
        Self(list)
    }

    /// Initialised and logged in, with a session.
    fn connect(self, pin: &[u8]) -> Result<(CK_SLOT_ID, CK_SESSION_HANDLE), CK_RV> {
        let mut arguments = CK_C_INITIALIZE_ARGS { flags: CKF_OS_LOCKING_OK, ..Default::default() };
        match call!(self, C_Initialize((&raw mut arguments).cast())) {
            Ok(()) | Err(CKR_CRYPTOKI_ALREADY_INITIALIZED) => {}
            Err(rv) => return Err(rv),
        }
        let (mut slot, mut count) = ([0; 8], 8);
        call!(self, C_GetSlotList(CK_TRUE, slot.as_mut_ptr(), &raw mut count))?;
        let session = self.session(slot[0])?;
        match call!(self, C_Login(session, CKU_USER, pin.as_ptr().cast_mut(), pin.len() as CK_ULONG)) {
            Ok(()) | Err(CKR_USER_ALREADY_LOGGED_IN) => Ok((slot[0], session)),
            Err(rv) => Err(rv),
        }
    }

    fn session(self, slot: CK_SLOT_ID) -> Result<CK_SESSION_HANDLE, CK_RV> {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        call!(self, C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut session))?;
        Ok(session)
    }

    fn find(self, session: CK_SESSION_HANDLE) -> Result<CK_OBJECT_HANDLE, CK_RV> {
        let mut class = CKO_PRIVATE_KEY;
        let size = size_of::<CK_OBJECT_CLASS>() as CK_ULONG;
        let mut template =
            [CK_ATTRIBUTE { type_: CKA_CLASS, pValue: (&raw mut class).cast(), ulValueLen: size }];
        let (mut key, mut count) = (0, 0);
        call!(self, C_FindObjectsInit(session, template.as_mut_ptr(), 1))?;
        call!(self, C_FindObjects(session, &raw mut key, 1, &raw mut count))?;
        call!(self, C_FindObjectsFinal(session))?;
        if count == 1 { Ok(key) } else { Err(CKR_KEY_HANDLE_INVALID) }
    }

    fn sign(self, session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> Result<(), CK_RV> {
        let mut mechanism =
            CK_MECHANISM { mechanism: CKM_RSA_PKCS, pParameter: ptr::null_mut(), ulParameterLen: 0 };
        call!(self, C_SignInit(session, &raw mut mechanism, key))?;
        let (mut signature, mut length) = ([0; 512], 512);
        let data = DATA.as_ptr().cast_mut();
        call!(self, C_Sign(session, data, DATA.len() as CK_ULONG, signature.as_mut_ptr(), &raw mut length))
    }
}

/// Forks while eight threads sign: how many signatures of threads failed, and how many children did not sign.
fn forks_while_threads_sign(inside: &Inside, module: &Path, forks: usize) -> (u32, u32) {
    let raw = Raw::load(module);
    let pin = std::fs::read(inside.directory.join("pin")).unwrap();
    let (slot, session) = raw.connect(&pin).unwrap();
    let key = raw.find(session).unwrap();
    let (done, failed) = (AtomicBool::new(false), AtomicU32::new(0));
    let lost = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let session = raw.session(slot).unwrap();
                while !done.load(Relaxed) {
                    if raw.sign(session, key).is_err() {
                        failed.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        let child = || {
            let (_, session) = raw.connect(&pin).unwrap();
            raw.sign(session, raw.find(session).unwrap()).unwrap();
        };
        let lost = (0..forks).filter(|_| !in_child(LIMIT, child)).count();
        done.store(true, Relaxed);
        lost
    });
    (failed.load(Relaxed), u32::try_from(lost).unwrap())
}

#[test]
fn control_forks_while_threads_sign() {
    scenario(CLOUDHSM, one_key, |inside| {
        assert_eq!(forks_while_threads_sign(inside, Recorder::module(), soak(10, 40)), (0, 0))
    });
}

#[test]
fn control_forks_while_threads_sign_on_bare_softhsm() {
    let hsm = scenario(RECORDER, one_key, |inside| {
        // SoftHSM2's own children hang or not, as it happens; its threads do not fail.
        let (failed, lost) = forks_while_threads_sign(inside, softhsm().as_ref(), soak(5, 40));
        std::fs::write(inside.directory.join("lost"), lost.to_string()).unwrap();
        assert_eq!(failed, 0);
    });
    if let Some(hsm) = hsm {
        let lost = std::fs::read_to_string(hsm.token.path("lost")).unwrap();
        eprintln!("without hsmkey {lost} of {} children did not sign", soak(5, 40));
    }
}
