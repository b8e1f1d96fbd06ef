//! The core's upcalls of one provider context (provider-base(7)): configuration, errors, BIOs.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use once_cell::race::OnceBox;
use zeroize::Zeroizing;

use super::bindings as c;
use super::boundary::Raise;
use super::dispatch;
use super::host::Host;
use super::job::{Jobs, Place};
use crate::error::{Error, Reason, Result, bail};
use crate::workers::Workers;

type VsetError = unsafe extern "C" fn(*const c::OSSL_CORE_HANDLE, u32, *const c_char, *mut c_void);

unsafe extern "C" {
    // src/openssl/raise.c
    fn hsmkey_raise(
        vset_error: VsetError,
        handle: *const c::OSSL_CORE_HANDLE,
        reason: u32,
        text: *const c_char,
    );
}

/// Whatever belongs to a provider context, and raises its errors there.
pub trait HasCore {
    /// The core of the provider context.
    fn core(&self) -> &Core;
}

/// One provider context's connection to the libcrypto that loaded it.
pub struct Core {
    handle: *const c::OSSL_CORE_HANDLE,
    get_params: c::OSSL_FUNC_core_get_params_fn,
    get_libctx: c::OSSL_FUNC_core_get_libctx_fn,
    new_error: c::OSSL_FUNC_core_new_error_fn,
    set_error_debug: c::OSSL_FUNC_core_set_error_debug_fn,
    vset_error: Option<VsetError>,
    set_error_mark: c::OSSL_FUNC_core_set_error_mark_fn,
    pop_error_to_mark: c::OSSL_FUNC_core_pop_error_to_mark_fn,
    bio_read_ex: c::OSSL_FUNC_BIO_read_ex_fn,
    bio_gets: c::OSSL_FUNC_BIO_gets_fn,
    bio_write_ex: c::OSSL_FUNC_BIO_write_ex_fn,
    bio_ctrl: c::OSSL_FUNC_BIO_ctrl_fn,
    jobs: OnceBox<Jobs>,
    workers: Option<Arc<Workers>>,
}

// SAFETY: the handle belongs to the core, which keeps it until teardown and lets any thread use it (provider-base(7)); the other fields
// are function addresses.
unsafe impl Send for Core {}
// SAFETY: as for Send; nothing in here changes after construction.
unsafe impl Sync for Core {}

impl Core {
    /// Takes the upcalls out of the table that OSSL_provider_init was given. Unknown numbers are skipped.
    ///
    /// # Safety
    /// `handle` is the core's handle and `upcalls` its table, ended by a number 0; both stay valid until teardown.
    pub(super) unsafe fn new(handle: *const c::OSSL_CORE_HANDLE, upcalls: *const c::OSSL_DISPATCH) -> Self {
        let mut core = Self {
            handle,
            get_params: None,
            get_libctx: None,
            new_error: None,
            set_error_debug: None,
            vset_error: None,
            set_error_mark: None,
            pop_error_to_mark: None,
            bio_read_ex: None,
            bio_gets: None,
            bio_write_ex: None,
            bio_ctrl: None,
            jobs: OnceBox::new(),
            workers: None,
        };
        let mut entry = upcalls;
        loop {
            // SAFETY: the table is readable up to its end mark, by the caller's contract.
            let dispatch = unsafe { &*entry };
            if dispatch.function_id == 0 {
                break;
            }
            // SAFETY: provider-base(7) fixes the C type of each number, and `upcall` is asked for that type.
            unsafe {
                match dispatch.function_id {
                    c::OSSL_FUNC_CORE_GET_PARAMS => core.get_params = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_CORE_GET_LIBCTX => core.get_libctx = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_CORE_NEW_ERROR => core.new_error = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_CORE_SET_ERROR_DEBUG => core.set_error_debug = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_CORE_VSET_ERROR => core.vset_error = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_CORE_SET_ERROR_MARK => core.set_error_mark = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_CORE_POP_ERROR_TO_MARK => {
                        core.pop_error_to_mark = dispatch::upcall(dispatch)
                    }
                    c::OSSL_FUNC_BIO_READ_EX => core.bio_read_ex = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_BIO_GETS => core.bio_gets = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_BIO_WRITE_EX => core.bio_write_ex = dispatch::upcall(dispatch),
                    c::OSSL_FUNC_BIO_CTRL => core.bio_ctrl = dispatch::upcall(dispatch),
                    _ => {}
                }
            }
            // SAFETY: this entry was not the end mark, so there is a next one.
            entry = unsafe { entry.add(1) };
        }
        core
    }

    /// What a directive of our configuration section, or a parameter of the core, is set to. `None` where it is not set
    /// or not UTF-8.
    pub fn parameter(&self, name: &CStr) -> Option<&str> {
        let get_params = self.get_params?;
        let mut value: *mut c_char = ptr::null_mut();
        let mut params = [
            c::OSSL_PARAM {
                key: name.as_ptr(),
                data_type: c::OSSL_PARAM_UTF8_PTR,
                data: (&raw mut value).cast(),
                data_size: 0,
                return_size: c::OSSL_PARAM_UNMODIFIED,
            },
            super::params::END,
        ];
        // SAFETY: our own handle; a request ended by END whose data is a place for one pointer, which is what
        // OSSL_PARAM_UTF8_PTR asks for (OSSL_PARAM(3)).
        let ok = unsafe { get_params(self.handle, params.as_mut_ptr()) };
        if ok != 1 || value.is_null() {
            return None;
        }
        // SAFETY: the core answered with a NUL-terminated string of its own, which it keeps as long as this provider
        // context, hence as long as `self`.
        unsafe { CStr::from_ptr(value) }.to_str().ok()
    }

    /// Major and minor version of the libcrypto that loaded us; (3, 0) where it does not say.
    pub fn version(&self) -> (u32, u32) {
        let text = self.parameter(c"openssl-version").unwrap_or_default();
        let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if major >= 3 => (major, minor),
            _ => (3, 0),
        }
    }

    /// The libcrypto behind the upcalls, for what the core does not offer.
    pub(super) fn host(&self) -> Result<Host> {
        let Some(address) = self.get_params else { bail!(HostUnusable, "the core has no get_params") };
        Host::of(address as *const c_void)
    }

    /// The application's library context that the provider was loaded into, as the functions of [`Core::host`] take it: they are of the
    /// libcrypto that gave it out. Null is the default one.
    pub(super) fn library_context(&self) -> Result<*mut c_void> {
        let Some(get_libctx) = self.get_libctx else { bail!(HostUnusable, "the core has no get_libctx") };
        // SAFETY: our own handle.
        Ok(unsafe { get_libctx(self.handle) }.cast())
    }

    /// Says who works for asynchronous jobs. Without that they do it themselves.
    pub fn set_workers(&mut self, workers: Arc<Workers>) {
        self.workers = Some(workers);
    }

    /// No worker uses this provider context from now on.
    pub(super) fn close(&self) {
        if let Some(workers) = &self.workers {
            workers.close();
        }
    }

    /// Whether an asynchronous job is current.
    pub(super) fn is_in_a_job(&self) -> bool {
        self.jobs().is_in_one()
    }

    /// Runs `work`, which may ask the HSM, where a PKCS#11 module has room for it.
    pub fn with_room<T>(&self, work: impl FnOnce() -> T) -> T {
        self.jobs().with_room(work)
    }

    fn jobs(&self) -> &Jobs {
        self.jobs.get_or_init(|| Box::new(Jobs::of(self.host())))
    }

    /// Has a worker do what `make` makes, where an asynchronous job is current: see [`Jobs::elsewhere`].
    pub(super) fn elsewhere<R, W>(&self, make: impl FnOnce() -> Result<W>) -> Place<R>
    where
        W: FnOnce() -> Result<R> + Send + 'static,
        R: Send + 'static,
    {
        self.jobs().elsewhere(|| match &self.workers {
            Some(workers) => Ok(Some((Arc::clone(workers), make()?))),
            None => Ok(None),
        })
    }

    /// Runs `work`, then takes off the queue whatever it left there: a PKCS#11 module may use the same libcrypto.
    pub fn shielded<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: our own handle. Where the queue is empty no mark is set, and popping then empties it: as it was.
        unsafe {
            if let Some(set_mark) = self.set_error_mark {
                set_mark(self.handle);
            }
        }
        let result = work();
        // SAFETY: our own handle.
        unsafe {
            if let Some(pop_to_mark) = self.pop_error_to_mark {
                pop_to_mark(self.handle);
            }
        }
        result
    }
}

impl Raise for Core {
    fn raise(&self, error: &Error) {
        let Some(vset_error) = self.vset_error else { return };
        // SAFETY: our own handle.
        unsafe {
            if let Some(new_error) = self.new_error {
                new_error(self.handle);
            }
        }
        if error.is_bare() {
            // OpenSSL tries things that are bound to fail before every signature and throws the error away: that has to be cheap.
            // SAFETY: our own handle; an empty text is none (raise.c).
            return unsafe { hsmkey_raise(vset_error, self.handle, error.reason() as u32, c"".as_ptr()) };
        }
        let mut data = error.data();
        data.retain(|character| character != '\0');
        let text = CString::new(data).unwrap_or_default();
        // SAFETY: our own handle; the strings are NUL-terminated and copied by the core; `text` is handed on as an
        // argument of "%s", never as a format (raise.c).
        unsafe {
            if let Some(set_error_debug) = self.set_error_debug {
                set_error_debug(self.handle, c"hsmkey".as_ptr(), 0, c"".as_ptr());
            }
            hsmkey_raise(vset_error, self.handle, error.reason() as u32, text.as_ptr());
        }
    }
}

/// BIO_seek(3), openssl/bio.h.
const BIO_C_FILE_SEEK: c_int = 128;
/// BIO_tell(3), openssl/bio.h.
const BIO_C_FILE_TELL: c_int = 133;

/// A BIO that the core lent us for one call.
pub struct Bio<'a> {
    core: &'a Core,
    bio: *mut c::OSSL_CORE_BIO,
    lent: PhantomData<&'a mut c::OSSL_CORE_BIO>,
}

impl<'a> Bio<'a> {
    /// # Safety
    /// `bio` belongs to `core` and stays valid and unshared during `'a`.
    pub(super) unsafe fn new(core: &'a Core, bio: *mut c::OSSL_CORE_BIO) -> Result<Self> {
        if bio.is_null() {
            bail!(InvalidArgument, "no BIO");
        }
        Ok(Self { core, bio, lent: PhantomData })
    }

    /// Reads one line with its line end, or what fits into `buffer`; `None` at the end.
    pub fn read_line<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let gets = self.core.bio_gets?;
        let size = c_int::try_from(buffer.len()).unwrap_or(c_int::MAX);
        // SAFETY: a live BIO of this core; `size` writable bytes.
        let read = unsafe { gets(self.bio, buffer.as_mut_ptr().cast(), size) };
        match usize::try_from(read) {
            Ok(read) if read > 0 => buffer.get(..read),
            _ => None,
        }
    }

    /// Where the next octet is read, as [`Bio::seek`] takes it; `None` where it cannot be told.
    pub fn tell(&self) -> Option<c_int> {
        let ctrl = self.core.bio_ctrl?;
        // SAFETY: a live BIO of this core; BIO_tell(3) has no argument.
        let position = unsafe { ctrl(self.bio, BIO_C_FILE_TELL, 0, ptr::null_mut()) };
        (position >= 0).then_some(position)
    }

    /// Reads on at a place that [`Bio::tell`] told.
    pub fn seek(&mut self, position: c_int) {
        if let Some(ctrl) = self.core.bio_ctrl {
            // SAFETY: a live BIO of this core; the position is passed by value. What can tell can seek.
            unsafe { ctrl(self.bio, BIO_C_FILE_SEEK, position.into(), ptr::null_mut()) };
        }
    }

    /// Whether what follows is there to be read and read again, as in a file. Of a pipe nothing is: to read on would be to wait for whoever
    /// writes, and what was read too much would be lost.
    pub fn lies_open(&mut self) -> bool {
        let Some((start, next)) = self.tell().and_then(|start| Some((start, start.checked_add(1)?))) else {
            return false;
        };
        // What a BIO returns for a place that it cannot go to, its kinds do not agree on.
        self.seek(next);
        let moved = self.tell() == Some(next);
        self.seek(start);
        moved
    }

    /// Reads up to `limit` bytes, to the end. More than `limit` is cut. It may be a secret, so nothing of it is left behind.
    pub fn read_to_end(&mut self, limit: usize) -> Zeroizing<Vec<u8>> {
        let mut data = Zeroizing::new(Vec::new());
        let Some(read_ex) = self.core.bio_read_ex else { return data };
        let mut chunk = Zeroizing::new([0_u8; 4096]);
        while data.len() < limit {
            let wanted = chunk.len().min(limit - data.len());
            let mut read = 0_usize;
            // SAFETY: a live BIO of this core; `wanted` writable bytes and a place for their number.
            let ok = unsafe { read_ex(self.bio, chunk.as_mut_ptr().cast(), wanted, &raw mut read) };
            if ok != 1 || read == 0 || read > wanted {
                break;
            }
            if data.capacity() - data.len() < read {
                // A Vec that grows by itself leaves what it held in memory that it has given back.
                let mut larger = Zeroizing::new(Vec::with_capacity(2 * (data.len() + read)));
                larger.extend_from_slice(&data);
                data = larger;
            }
            data.extend_from_slice(&chunk[..read]);
        }
        data
    }
}

/// A BIO that the core lent us for one call, to be written to.
pub struct OutputBio<'a> {
    core: &'a Core,
    bio: *mut c::OSSL_CORE_BIO,
    lent: PhantomData<&'a mut c::OSSL_CORE_BIO>,
}

impl<'a> OutputBio<'a> {
    /// # Safety
    /// `bio` belongs to `core` and stays valid and unshared during `'a`.
    pub(super) unsafe fn new(core: &'a Core, bio: *mut c::OSSL_CORE_BIO) -> Result<Self> {
        if bio.is_null() {
            bail!(InvalidArgument, "no BIO");
        }
        Ok(Self { core, bio, lent: PhantomData })
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// `HostUnusable` where it cannot be written.
    pub fn write(&mut self, mut data: &[u8]) -> Result<()> {
        let Some(write_ex) = self.core.bio_write_ex else {
            bail!(HostUnusable, "the core has no BIO_write_ex")
        };
        while !data.is_empty() {
            let mut written = 0_usize;
            // SAFETY: a live BIO of this core; `data.len()` readable bytes and a place for the number of those written.
            let ok = unsafe { write_ex(self.bio, data.as_ptr().cast(), data.len(), &raw mut written) };
            match data.get(written..) {
                Some(rest) if ok == 1 && written > 0 => data = rest,
                _ => bail!(HostUnusable, "the output cannot be written"),
            }
        }
        Ok(())
    }
}

/// The application's passphrase callback, lent for one call (OSSL_PASSPHRASE_CALLBACK, core_dispatch.h).
pub struct Prompt<'a> {
    callback: c::OSSL_PASSPHRASE_CALLBACK,
    argument: *mut c_void,
    lent: PhantomData<&'a mut ()>,
}

impl Prompt<'_> {
    /// # Safety
    /// `callback` is null or may be called with `argument` during `'a`.
    pub(super) unsafe fn new(callback: c::OSSL_PASSPHRASE_CALLBACK, argument: *mut c_void) -> Self {
        Self { callback, argument, lent: PhantomData }
    }

    /// Asks the application for a secret; `what` is shown to the user where the application shows anything.
    /// `None` where nothing was entered.
    ///
    /// # Errors
    /// `InvalidArgument` where the application claims more bytes than there was room for.
    pub fn ask(&mut self, what: &CStr) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(callback) = self.callback else { return Ok(None) };
        let params = [
            c::OSSL_PARAM {
                key: c"info".as_ptr(),
                data_type: c::OSSL_PARAM_UTF8_STRING,
                data: what.as_ptr().cast_mut().cast(),
                data_size: what.count_bytes(),
                return_size: c::OSSL_PARAM_UNMODIFIED,
            },
            super::params::END,
        ];
        let mut secret = Zeroizing::new(vec![0_u8; 1024]);
        let mut length = 0_usize;
        // SAFETY: callable by `new`'s contract; a writable buffer with its size, a place for the length, and parameters
        // ended by END that the callback only reads.
        let ok = unsafe {
            callback(
                secret.as_mut_ptr().cast(),
                secret.len(),
                &raw mut length,
                params.as_ptr(),
                self.argument,
            )
        };
        if ok != 1 || length == 0 {
            return Ok(None);
        }
        if length > secret.len() {
            return Err(Error::new(Reason::InvalidArgument, "the passphrase callback wrote too much"));
        }
        secret.truncate(length);
        Ok(Some(secret))
    }
}
