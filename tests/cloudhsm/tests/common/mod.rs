//! Runs each scenario in a process of its own, with its own token and settings, on the module that cargo built beside the test.
// Not every test program uses every helper.
#![allow(dead_code, unused_imports)]

use std::{
    collections::HashMap,
    ffi::CString,
    path::{Path, PathBuf},
    process::Command,
    ptr::null_mut,
    time::Duration,
};

use cryptoki_sys::*;

pub const PIN: &str = "cu1:password1";
pub const SLOT: CK_SLOT_ID = 0x2000_0000_0000_0001;
const CHILD: &str = "SCENARIO_DIRECTORY";
const LINE: &str = "SCENARIO_LINE";

/// One token `alpha`, no latency, no throughput cap, `settings` on top, and `test` in a process that has loaded nothing yet.
#[track_caller]
pub fn scenario<F: FnOnce(&Hsm)>(settings: &[(&str, &str)], test: F) {
    scenario_on(&["alpha"], settings, test);
}

/// The same with several SoftHSM2 tokens.
#[track_caller]
pub fn scenario_on<F: FnOnce(&Hsm)>(tokens: &[&str], settings: &[(&str, &str)], test: F) {
    // A test may have several scenarios: each process runs one.
    let line = std::panic::Location::caller().line().to_string();
    if let Some(directory) = std::env::var_os(CHILD) {
        if std::env::var(LINE).as_ref() == Ok(&line) {
            test(&Hsm::load(Path::new(&directory)));
        }
        return;
    }
    // The closure's name holds the test's.
    let name =
        std::any::type_name::<F>().trim_end_matches("::{{closure}}").split_once("::").expect("a test").1;
    let directory = tempfile::tempdir().expect("directory");
    let configuration = directory.path().join("softhsm2.conf");
    make_tokens(directory.path(), &configuration, tokens);
    let text: String = [("latency", "0"), ("signs_per_second", "none")]
        .iter()
        .chain(settings)
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect();
    std::fs::write(directory.path().join("settings"), text).expect("settings");
    let output = Command::new(std::env::current_exe().expect("test program"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory.path())
        .env(LINE, line)
        .env("SOFTHSM2_CONF", &configuration)
        .env("CLOUDHSM_STANDIN", directory.path().join("settings"))
        .output()
        .expect("test process");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn make_tokens(directory: &Path, configuration: &Path, tokens: &[&str]) {
    let store = directory.join("tokens");
    std::fs::create_dir(&store).expect("token directory");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", store.display());
    std::fs::write(configuration, text).expect("configuration");
    for label in tokens {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN])
            .env("SOFTHSM2_CONF", configuration)
            .output()
            .expect("softhsm2-util");
        assert!(made.status.success(), "{made:?}");
    }
}

/// The stand-in's module, for programs that the tests start.
pub fn module() -> PathBuf {
    std::env::current_exe().expect("test program").with_file_name("libcloudhsm_pkcs11.so")
}

/// The module as an application sees it.
#[derive(Clone, Copy)]
pub struct Hsm {
    pub list: &'static CK_FUNCTION_LIST,
    pub directory: &'static Path,
}

/// Calls a function of the list: `c!(hsm, C_Sign(...))` is its CK_RV.
macro_rules! c {
    ($hsm:expr, $function:ident ( $($argument:expr),* $(,)? )) => {
        // SAFETY: the tests hand in pointers to their own live locals, or null on purpose.
        unsafe { $hsm.list.$function.expect(stringify!($function))($($argument),*) }
    };
}

pub(crate) use c;

impl Hsm {
    fn load(directory: &Path) -> Hsm {
        let path = CString::new(module().into_os_string().into_encoded_bytes()).expect("path");
        // SAFETY: a C string, then a handle and a symbol whose type PKCS#11 fixes.
        let list = unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!handle.is_null(), "{path:?}");
            let symbol = libc::dlsym(handle, c"C_GetFunctionList".as_ptr());
            let get: unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV = std::mem::transmute(symbol);
            let mut list = null_mut();
            assert_eq!(get(&mut list), CKR_OK);
            &*list
        };
        Hsm { list, directory: Box::leak(directory.to_owned().into_boxed_path()) }
    }

    pub fn initialize(&self) -> CK_RV {
        let mut arguments = CK_C_INITIALIZE_ARGS { flags: CKF_OS_LOCKING_OK, ..Default::default() };
        c!(self, C_Initialize((&raw mut arguments).cast()))
    }

    pub fn open_on(&self, slot: CK_SLOT_ID) -> Result<CK_SESSION_HANDLE, CK_RV> {
        let mut session = 0;
        let rv = c!(
            self,
            C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, null_mut(), None, &mut session)
        );
        if rv == CKR_OK { Ok(session) } else { Err(rv) }
    }

    pub fn open(&self) -> CK_SESSION_HANDLE {
        self.open_on(SLOT).expect("session")
    }

    pub fn login(&self, session: CK_SESSION_HANDLE, pin: &str) -> CK_RV {
        let mut pin = pin.as_bytes().to_vec();
        c!(self, C_Login(session, CKU_USER, pin.as_mut_ptr(), pin.len() as CK_ULONG))
    }

    /// Initialised, a session open, logged in.
    pub fn ready(&self) -> CK_SESSION_HANDLE {
        assert_eq!(self.initialize(), CKR_OK);
        let session = self.open();
        assert_eq!(self.login(session, PIN), CKR_OK);
        session
    }

    /// A pair as the AWS CLI makes it: on the token, id empty, a label for each half; public handle, private handle.
    pub fn pair(&self, session: CK_SESSION_HANDLE, label: &str) -> (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) {
        let (public_label, private_label) = (format!("{label}_pub"), format!("{label}_private"));
        let public =
            [flag(CKA_TOKEN, true), flag(CKA_VERIFY, true), text(CKA_LABEL, &public_label), bits(2048)];
        let private = [flag(CKA_TOKEN, true), flag(CKA_SIGN, true), text(CKA_LABEL, &private_label)];
        self.generate(session, &public, &private).expect("pair")
    }

    pub fn generate(
        &self,
        session: CK_SESSION_HANDLE,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), CK_RV> {
        let mut mechanism = mechanism(CKM_RSA_PKCS_KEY_PAIR_GEN);
        let (mut public, mut private) = (raw(public), raw(private));
        let (mut public_key, mut private_key) = (0, 0);
        let rv = c!(
            self,
            C_GenerateKeyPair(
                session,
                &mut mechanism,
                public.as_mut_ptr(),
                public.len() as CK_ULONG,
                private.as_mut_ptr(),
                private.len() as CK_ULONG,
                &mut public_key,
                &mut private_key
            )
        );
        if rv == CKR_OK { Ok((public_key, private_key)) } else { Err(rv) }
    }

    /// Everything that matches, or the code of the first call that failed.
    pub fn find(
        &self,
        session: CK_SESSION_HANDLE,
        template: &[Attribute],
    ) -> Result<Vec<CK_OBJECT_HANDLE>, CK_RV> {
        let mut template = raw(template);
        let ok = |rv| if rv == CKR_OK { Ok(()) } else { Err(rv) };
        ok(c!(self, C_FindObjectsInit(session, template.as_mut_ptr(), template.len() as CK_ULONG)))?;
        let (mut room, mut count) = ([0; 64], 0);
        ok(c!(self, C_FindObjects(session, room.as_mut_ptr(), room.len() as CK_ULONG, &mut count)))?;
        ok(c!(self, C_FindObjectsFinal(session)))?;
        Ok(room[..count as usize].to_vec())
    }

    pub fn find_key(&self, session: CK_SESSION_HANDLE, label: &str) -> CK_OBJECT_HANDLE {
        let found = self
            .find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY), text(CKA_LABEL, label)])
            .expect("search");
        assert_eq!(found.len(), 1, "{label}");
        found[0]
    }

    /// CKM_RSA_PKCS, as hsmkey signs.
    pub fn sign(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
    ) -> Result<Vec<u8>, CK_RV> {
        let mut mechanism = mechanism(CKM_RSA_PKCS);
        match c!(self, C_SignInit(session, &mut mechanism, key)) {
            CKR_OK => self.sign_only(session, data),
            rv => Err(rv),
        }
    }

    pub fn sign_only(&self, session: CK_SESSION_HANDLE, data: &[u8]) -> Result<Vec<u8>, CK_RV> {
        let (mut data, mut out) = (data.to_vec(), vec![0; 512]);
        let mut length = out.len() as CK_ULONG;
        match c!(
            self,
            C_Sign(session, data.as_mut_ptr(), data.len() as CK_ULONG, out.as_mut_ptr(), &mut length)
        ) {
            CKR_OK => {
                out.truncate(length as usize);
                Ok(out)
            }
            rv => Err(rv),
        }
    }

    /// One attribute of an object.
    pub fn attribute(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        type_: CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<u8>, CK_RV> {
        let mut value = vec![0u8; 1024];
        let mut attribute = CK_ATTRIBUTE { type_, pValue: value.as_mut_ptr().cast(), ulValueLen: 1024 };
        match c!(self, C_GetAttributeValue(session, object, &mut attribute, 1)) {
            CKR_OK => {
                value.truncate(attribute.ulValueLen as usize);
                Ok(value)
            }
            rv => Err(rv),
        }
    }

    pub fn standin_directory(&self) -> PathBuf {
        self.directory.join("tokens.standin")
    }

    /// Replaces the control file in one step.
    pub fn control(&self, lines: &str) {
        let directory = self.standin_directory();
        std::fs::write(directory.join("control.new"), lines).expect("control");
        std::fs::rename(directory.join("control.new"), directory.join("control")).expect("control");
    }

    /// The counters of a process.
    pub fn counts(&self, pid: u32) -> HashMap<String, u64> {
        let text =
            std::fs::read_to_string(self.standin_directory().join(format!("{pid}.counts"))).expect("counts");
        let pairs = text.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        });
        pairs.collect()
    }

    /// One counter of this process.
    pub fn count(&self, name: &str) -> u64 {
        self.counts(std::process::id())[name]
    }
}

/// An attribute with its value.
pub type Attribute = (CK_ATTRIBUTE_TYPE, Vec<u8>);

pub fn flag(type_: CK_ATTRIBUTE_TYPE, flag: bool) -> Attribute {
    (type_, vec![u8::from(flag)])
}

pub fn text(type_: CK_ATTRIBUTE_TYPE, text: &str) -> Attribute {
    (type_, text.as_bytes().to_vec())
}

pub fn number(type_: CK_ATTRIBUTE_TYPE, number: CK_ULONG) -> Attribute {
    (type_, number.to_ne_bytes().to_vec())
}

pub fn bits(bits: CK_ULONG) -> Attribute {
    number(CKA_MODULUS_BITS, bits)
}

/// Points into `attributes`, which must therefore have a name.
pub fn raw(attributes: &[Attribute]) -> Vec<CK_ATTRIBUTE> {
    let raw = |(type_, value): &Attribute| CK_ATTRIBUTE {
        type_: *type_,
        pValue: value.as_ptr().cast_mut().cast(),
        ulValueLen: value.len() as CK_ULONG,
    };
    attributes.iter().map(raw).collect()
}

pub fn mechanism(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: null_mut(), ulParameterLen: 0 }
}

/// The exit code of a child whose assertions failed.
pub const PANICKED: i32 = 250;

/// Forks, runs `child` there, and returns its exit code (a signal as a negative number); `None` if it had to be killed after `limit`.
pub fn in_child(limit: Duration, child: impl FnOnce() -> i32) -> Option<i32> {
    wait_for(start_child(child), limit)
}

/// Forks and runs `child` there, whose answer is its exit code, or [`PANICKED`].
pub fn start_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child uses what a PKCS#11 application would use after fork, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // The test harness has no thread here that would see the panic: the child would end as if all were well.
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(PANICKED);
        // SAFETY: ends this process without running the test harness's exit.
        unsafe { libc::_exit(code) };
    }
    assert!(pid > 0);
    pid
}

/// Waits for a child that is ours: its exit code, or its signal as a negative number.
pub fn wait_for(pid: i32, limit: Duration) -> Option<i32> {
    let end = std::time::Instant::now() + limit;
    loop {
        let mut status = 0;
        // SAFETY: our own child.
        if unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == pid {
            return Some(match libc::WIFEXITED(status) {
                true => libc::WEXITSTATUS(status),
                false => -libc::WTERMSIG(status),
            });
        }
        if std::time::Instant::now() > end {
            // SAFETY: our own child, not yet waited for.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &mut status, 0);
            }
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
