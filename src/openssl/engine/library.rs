//! The libcryptos that this shared library is bound into as an engine.
//!
//! OpenSSL calls back with nothing but an RSA of its own, and to ask that RSA anything takes a function of the libcrypto that it
//! belongs to. So each libcrypto has a place of its own in a small table, and callbacks of its own that know the place: two
//! libcryptos never meet.

use std::ffi::{CString, c_int, c_ulong};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicPtr;

use once_cell::race::OnceBox;

use super::super::boundary::Raise;
use super::super::host::Host;
use super::super::job::{Jobs, Place};
use super::super::stack::with_room;
use super::ec::Ec;
use super::functions::{ErrorString, Errors, Functions};
use super::pkey_method::Methods;
use super::rsa::Rsa;
use super::{Engine, callbacks};
use crate::error::{Error, Reason, Result, bail};

/// More libcryptos than this are in no process; each costs a copy of the callbacks.
pub(super) const PLACES: usize = 4;

static LIBRARIES: [OnceBox<Library>; PLACES] = [const { OnceBox::new() }; PLACES];

/// One libcrypto, for as long as the process lives: keys may outlive the engine that loaded them.
pub(super) struct Library {
    host: Host,
    pub(super) functions: Functions,
    /// The number of our errors.
    number: c_int,
    /// Their texts, which the libcrypto keeps for good: a search for lost memory finds them here. Null where they were there before.
    _texts: AtomicPtr<ErrorString>,
    /// Where an ENGINE keeps our state.
    pub(super) engine_index: c_int,
    pub(super) rsa: Rsa,
    pub(super) ec: Ec,
    pub(super) methods: Methods,
    jobs: Jobs,
}

/// CRYPTO_EX_INDEX_ENGINE, crypto.h.
const EX_INDEX_ENGINE: c_int = 10;
/// What the library is called where OpenSSL shows errors. The provider's are called by the provider's name.
const NAME: &std::ffi::CStr = c"hsmkey engine";

impl Library {
    /// The libcrypto that bound to place `P`.
    pub(super) fn at<const P: usize>() -> Option<&'static Self> {
        LIBRARIES[P].get()
    }

    /// The place of a libcrypto, a new one where it has none.
    pub(super) fn of<T: Engine>(host: Host) -> Result<(usize, &'static Self)> {
        for (place, library) in LIBRARIES.iter().enumerate() {
            let library = library.get_or_try_init(|| Self::new::<T>(host, place).map(Box::new))?;
            if library.host == host {
                return Ok((place, library));
            }
        }
        bail!(HostUnusable, "{PLACES} other libcryptos of this process use hsmkey");
    }

    fn new<T: Engine>(host: Host, place: usize) -> Result<Self> {
        let functions = Functions::of(host)?;
        let (number, texts) = error_library(&functions);
        // SAFETY: an index without callbacks.
        let engine_index = unsafe {
            (functions.CRYPTO_get_ex_new_index)(EX_INDEX_ENGINE, 0, ptr::null_mut(), None, None, None)
        };
        if engine_index < 0 {
            bail!(HostUnusable, "it has no room for our state");
        }
        let callbacks = callbacks::of::<T>(place);
        let rsa = Rsa::new(&functions, &callbacks.rsa)?;
        let ec = Ec::new(&functions, &callbacks.ec)?;
        let methods = Methods::new(&functions, &callbacks.pkey)?;
        Ok(Self {
            host,
            functions,
            number,
            _texts: texts,
            engine_index,
            rsa,
            ec,
            methods,
            jobs: Jobs::of(Ok(host)),
        })
    }

    /// Does work with a key, in an asynchronous job by a worker of the key's: see [`Jobs::elsewhere`]. `None` where `make` has no key. It
    /// makes the work anew where no worker could do it; the caller holds nothing that he would have to give back.
    pub(super) fn perform<T: Engine, R: Send + 'static, W>(
        &'static self,
        make: impl Fn() -> Result<Option<(Arc<T::Key>, W)>>,
    ) -> Result<Option<R>>
    where
        W: FnOnce(&T::Key) -> Result<R> + Send + 'static,
    {
        // The key may have to be looked up.
        let apart = || {
            let Some((key, work)) = with_room(&make)? else { return Ok(None) };
            let workers = Arc::clone(T::workers(&key));
            Ok(Some((workers, move || self.shielded(|| work(&key)))))
        };
        match self.jobs.elsewhere(apart) {
            Place::Elsewhere(result) => result.map(Some),
            Place::Here(here) => {
                here.run(|| make()?.map(|(key, work)| self.shielded(|| work(&key))).transpose())
            }
        }
    }

    /// Runs `work`, then takes off the queue whatever it left there: a PKCS#11 module may use the same libcrypto.
    pub(super) fn shielded<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: functions of this thread's queue. Where it is empty no mark is set, and popping then empties it: as it was.
        unsafe { (self.functions.ERR_set_mark)() };
        let result = work();
        // SAFETY: as above.
        unsafe { (self.functions.ERR_pop_to_mark)() };
        result
    }

    /// The same for what looks for keys, which no worker does.
    pub(super) fn at_length<T>(&self, work: impl FnOnce() -> T) -> T {
        self.jobs.with_room(|| self.shielded(work))
    }
}

impl Raise for Library {
    fn raise(&self, error: &Error) {
        let mut data = error.data();
        data.retain(|character| character != '\0');
        let text = CString::new(data).unwrap_or_default();
        let reason = error.reason() as c_int;
        // SAFETY: NUL-terminated strings; file names are literals, which the queue may keep; the text is copied, and is an argument of
        // "%s", never a format.
        unsafe {
            match &self.functions.errors {
                Errors::Set { new, set_debug, set_error } => {
                    new();
                    set_debug(c"hsmkey".as_ptr(), 0, c"".as_ptr());
                    if text.is_empty() {
                        set_error(self.number, reason, ptr::null());
                    } else {
                        set_error(self.number, reason, c"%s".as_ptr(), text.as_ptr());
                    }
                }
                Errors::Put { put_error, add_error_data } => {
                    put_error(self.number, 0, reason, c"hsmkey".as_ptr(), 0);
                    if !text.is_empty() {
                        add_error_data(1, text.as_ptr());
                    }
                }
            }
        }
    }
}

/// The number of our errors in a libcrypto, with the texts that go with the reasons. Who was bound into it before left them there.
fn error_library(functions: &Functions) -> (c_int, AtomicPtr<ErrorString>) {
    // ERR_LIB_USER, err.h, and the last that has room in a packed code.
    const NUMBERS: std::ops::RangeInclusive<c_int> = 128..=255;
    let is_ours = |number: &c_int| {
        // SAFETY: it looks up a packed code.
        let name = unsafe { (functions.ERR_lib_error_string)(functions.errors.pack(*number)) };
        // SAFETY: not null: the name of a library, which is NUL-terminated.
        !name.is_null() && unsafe { std::ffi::CStr::from_ptr(name) } == NAME
    };
    if let Some(number) = NUMBERS.into_iter().find(is_ours) {
        return (number, AtomicPtr::default());
    }
    // SAFETY: it counts.
    let number = unsafe { (functions.ERR_get_next_error_library)() };
    let mut strings = vec![ErrorString { error: functions.errors.pack(number), string: NAME.as_ptr() }];
    let reasons = Reason::ALL.iter();
    strings.extend(
        reasons.map(|reason| ErrorString { error: *reason as c_ulong, string: reason.text_c().as_ptr() }),
    );
    strings.push(ErrorString { error: 0, string: ptr::null() });
    let strings = strings.leak().as_mut_ptr();
    // SAFETY: a table ended by an error 0, which OpenSSL writes the number into and keeps for good: hence it is leaked.
    unsafe { (functions.ERR_load_strings)(number, strings) };
    (number, AtomicPtr::new(strings))
}
