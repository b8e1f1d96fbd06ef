//! The boundary: every callback runs inside [`run`], so that no panic crosses it and every failure is raised once.
//!
//! A Rust outcome becomes a C return value in one place, [`Outcome`]; no callback decides on its convention itself.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::core::HasCore;
use crate::error::{Error, Reason, Result, bail};

/// Where errors are raised: a queue of the libcrypto that called.
pub(super) trait Raise {
    /// Puts an error on the application's queue.
    fn raise(&self, error: &Error);
}

/// A Rust value that leaves as the return value of a callback.
pub(super) trait Outcome {
    /// The C type.
    type C;
    /// What the callback returns when it failed.
    const FAILURE: Self::C;
    /// What the callback returns when it succeeded.
    fn into_c(self) -> Self::C;
}

/// Most callbacks: 1 for success, 0 for failure.
impl Outcome for () {
    type C = c_int;
    const FAILURE: c_int = 0;
    fn into_c(self) -> c_int {
        1
    }
}

/// The answer of a predicate, or of a callback of the application that we called last: `false` is 0 without an error of ours.
pub(super) struct Verdict(pub bool);

impl Outcome for Verdict {
    type C = c_int;
    const FAILURE: c_int = 0;
    fn into_c(self) -> c_int {
        c_int::from(self.0)
    }
}

/// A constructor: the pointer that OpenSSL gives back in every later call, null for failure.
impl<T> Outcome for Box<T> {
    type C = *mut c_void;
    const FAILURE: *mut c_void = std::ptr::null_mut();
    fn into_c(self) -> *mut c_void {
        Box::into_raw(self).cast()
    }
}

/// A constructor of something with several owners.
impl<T> Outcome for Arc<T> {
    type C = *mut c_void;
    const FAILURE: *mut c_void = std::ptr::null_mut();
    fn into_c(self) -> *mut c_void {
        Arc::into_raw(self).cast_mut().cast()
    }
}

/// Runs the body of a callback: a panic and an error both end on the application's error queue and as the
/// callback's failure value.
pub(super) fn run<T: Outcome>(caller: &impl Raise, body: impl FnOnce() -> Result<T>) -> T::C {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value.into_c(),
        Ok(Err(error)) => error,
        Err(_) => Error::new(Reason::Internal, "panic"),
    };
    caller.raise(&error);
    T::FAILURE
}

/// Runs the body of a callback on something of ours that OpenSSL hands back, and may be using in other threads too.
/// A null pointer is a failure without an error: there is no core to raise it on.
///
/// # Safety
/// Where `object` is not null it is a pointer to a live `T` that nobody changes during the call.
pub(super) unsafe fn on<T: HasCore, R: Outcome>(
    object: *const c_void,
    body: impl FnOnce(&T) -> Result<R>,
) -> R::C {
    // SAFETY: live and unchanged by the caller's contract, or null.
    match unsafe { object.cast::<T>().as_ref() } {
        Some(object) => run(object.core(), || body(object)),
        None => R::FAILURE,
    }
}

/// Runs the body of a callback on a context of ours, which one thread uses at a time (provider(7): operation contexts are not shared).
///
/// # Safety
/// Where `context` is not null it is a pointer to a live `T` that nobody else uses during the call.
pub(super) unsafe fn on_mut<T: HasCore, R: Outcome>(
    context: *mut c_void,
    body: impl FnOnce(&mut T) -> Result<R>,
) -> R::C {
    // SAFETY: live and not shared by the caller's contract, or null.
    let Some(context) = (unsafe { context.cast::<T>().as_mut() }) else { return R::FAILURE };
    let error = match catch_unwind(AssertUnwindSafe(|| body(context))) {
        Ok(Ok(value)) => return value.into_c(),
        Ok(Err(error)) => error,
        Err(_) => Error::new(Reason::Internal, "panic"),
    };
    context.core().raise(&error);
    R::FAILURE
}

/// Runs the body of a callback that cannot fail and has nowhere to report to: destructors.
pub(super) fn quietly(body: impl FnOnce()) {
    // A destructor that panics has nothing to undo; what it owned is lost, the process goes on.
    let _ = catch_unwind(AssertUnwindSafe(body));
}

/// The bytes of an input buffer.
///
/// # Errors
/// `InvalidArgument` for a null pointer with a length, or a length beyond what Rust allows.
///
/// # Safety
/// Where `data` is not null it points to `length` readable bytes that nobody changes during `'a`.
pub(super) unsafe fn input<'a>(data: *const u8, length: usize) -> Result<&'a [u8]> {
    if length == 0 {
        return Ok(&[]);
    }
    if data.is_null() || isize::try_from(length).is_err() {
        bail!(InvalidArgument, "an input buffer is null or has an impossible length");
    }
    // SAFETY: not null, `length` readable bytes by the caller's contract, at most isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

/// A C string argument; `None` for null.
///
/// # Errors
/// `InvalidArgument` where it is not UTF-8.
///
/// # Safety
/// Where `text` is not null it is NUL-terminated and stays unchanged during `'a`.
pub(super) unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not null and NUL-terminated by the caller's contract.
    let text = unsafe { CStr::from_ptr(text) };
    // Most are names of a few letters, of which this is known sooner.
    if text.to_bytes().is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Ok(Some(unsafe { std::str::from_utf8_unchecked(text.to_bytes()) }));
    }
    match text.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => bail!(InvalidArgument, "a name is not UTF-8"),
    }
}

/// The octets of a C string argument, without its NUL; `None` for null.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn octets<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: not null, and NUL-terminated by the caller's contract.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Where a callback puts a result of variable size: `(buffer, &length, capacity)`, with a null buffer asking for the size.
pub(super) enum Output<'a> {
    /// Only the size is wanted.
    Size(&'a mut usize),
    /// The result is wanted, and its length.
    Buffer(&'a mut [u8], &'a mut usize),
}

impl<'a> Output<'a> {
    /// The three arguments of a C function that writes a result.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no place for the length.
    ///
    /// # Safety
    /// `length` is null or points to a writable size; `buffer` is null or points to `capacity` writable bytes; nothing
    /// else refers to them during `'a`.
    pub(super) unsafe fn new(buffer: *mut u8, length: *mut usize, capacity: usize) -> Result<Self> {
        if length.is_null() || isize::try_from(capacity).is_err() {
            bail!(InvalidArgument, "no place for the length of the result");
        }
        // SAFETY: not null; writable and not shared by the caller's contract.
        let length = unsafe { &mut *length };
        if buffer.is_null() {
            return Ok(Output::Size(length));
        }
        // SAFETY: not null, `capacity` writable bytes that are not shared, by the caller's contract; at most isize::MAX.
        Ok(Output::Buffer(unsafe { std::slice::from_raw_parts_mut(buffer, capacity) }, length))
    }

    /// Answers with the size, or with what `write` wrote into a buffer of at least that size.
    ///
    /// # Errors
    /// `BufferTooSmall`, or those of `write`.
    pub(super) fn answer(self, size: usize, write: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<()> {
        match self {
            Output::Size(length) => *length = size,
            Output::Buffer(buffer, length) => {
                if buffer.len() < size {
                    bail!(BufferTooSmall, "{size} bytes are needed, {} were given", buffer.len());
                }
                *length = write(buffer)?;
            }
        }
        Ok(())
    }
}
