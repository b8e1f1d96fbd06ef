//! The boundary: every callback runs inside [`run`], so that no panic crosses it and every failure is raised once.
//!
//! A Rust outcome becomes a C return value in one place, [`Outcome`]; no callback decides on its convention itself.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use zeroize::Zeroizing;

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
///
/// What is in the buffer before may never have been written, and may be the input itself: OpenSSL's own provider works in place.
pub(super) struct Output<'a> {
    buffer: *mut u8,
    capacity: usize,
    length: &'a mut usize,
}

impl<'a> Output<'a> {
    /// The three arguments of a C function that writes a result.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no place for the length.
    ///
    /// # Safety
    /// `length` is null or points to a writable size that nothing else refers to during `'a`; `buffer` is null or points to `capacity`
    /// writable bytes that nobody but the caller's own input refers to during `'a`.
    pub(super) unsafe fn new(buffer: *mut u8, length: *mut usize, capacity: usize) -> Result<Self> {
        if length.is_null() || isize::try_from(capacity).is_err() {
            bail!(InvalidArgument, "no place for the length of the result");
        }
        // SAFETY: not null; writable and not shared by the caller's contract.
        Ok(Self { buffer, capacity, length: unsafe { &mut *length } })
    }

    /// Answers with the size, or with what `write` makes of the input in exactly so many octets, which are zero before.
    ///
    /// # Errors
    /// `BufferTooSmall`, or those of [`input`] and of `write`.
    ///
    /// # Safety
    /// `data` is a buffer and its length, as for [`input`].
    pub(super) unsafe fn answer(
        self,
        size: usize,
        data: (*const u8, usize),
        write: impl FnOnce(&[u8], &mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        if self.buffer.is_null() {
            *self.length = size;
            return Ok(());
        }
        self.has_room_for(size)?;
        // SAFETY: by the caller's contract.
        let given = unsafe { input(data.0, data.1) }?;
        let copy;
        let given = if overlap((self.buffer, size), data) {
            copy = Zeroizing::new(given.to_vec());
            copy.as_slice()
        } else {
            given
        };
        // SAFETY: not null, and `size` writable octets of the `capacity` that `new`'s contract says, at most isize::MAX. They are
        // initialised here, and nobody refers to them: the input lies elsewhere, or was copied.
        let buffer = unsafe {
            self.buffer.write_bytes(0, size);
            std::slice::from_raw_parts_mut(self.buffer, size)
        };
        *self.length = write(given, buffer)?;
        Ok(())
    }

    /// Answers with the largest size, or with what `make` made, which may be shorter: it needs only its own room.
    ///
    /// # Errors
    /// `BufferTooSmall`, or those of `make`.
    pub(super) fn give(
        self,
        largest: usize,
        make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<()> {
        if self.buffer.is_null() {
            *self.length = largest;
            return Ok(());
        }
        let made = make()?;
        self.has_room_for(made.len())?;
        // SAFETY: not null, and so many writable octets by `new`'s contract; what was made is ours and lies elsewhere.
        unsafe { self.buffer.copy_from_nonoverlapping(made.as_ptr(), made.len()) };
        *self.length = made.len();
        Ok(())
    }

    fn has_room_for(&self, size: usize) -> Result<()> {
        if self.capacity < size {
            bail!(BufferTooSmall, "{size} bytes are needed, {} were given", self.capacity);
        }
        Ok(())
    }
}

/// Whether two buffers have an octet in common.
fn overlap(one: (*mut u8, usize), other: (*const u8, usize)) -> bool {
    let (a, b) = (one.0.addr(), other.0.addr());
    a < b.saturating_add(other.1) && b < a.saturating_add(one.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_may_take_the_place_of_its_input_and_nothing_behind_it() {
        for at in [0, 3, 8] {
            let mut memory = *b"0123456789abcdef";
            let (buffer, data) = (memory.as_mut_ptr(), memory.as_ptr().wrapping_add(at));
            let mut length = 0;
            // SAFETY: memory of ours, of that size.
            let answered = unsafe {
                Output::new(buffer, &raw mut length, 16).unwrap().answer(5, (data, 4), |given, room| {
                    assert_eq!((given, &*room), (&b"0123456789abcdef"[at..at + 4], &[0; 5][..]));
                    room[..4].copy_from_slice(given);
                    Ok(4)
                })
            };
            assert_eq!((answered, length), (Ok(()), 4));
            assert_eq!(memory[..4], b"0123456789abcdef"[at..at + 4]);
            assert_eq!(memory[5..], b"0123456789abcdef"[5..]);
        }
    }

    #[test]
    fn what_has_no_room_is_not_written() {
        let mut memory = [7; 4];
        let mut length = 9;
        let made = || Ok(Zeroizing::new(vec![1; 5]));
        // SAFETY: memory of ours, of that size.
        let output =
            |capacity: usize| unsafe { Output::new(memory.as_mut_ptr(), &raw mut length, capacity).unwrap() };
        let mut output = output;
        assert_eq!(output(4).give(256, made).unwrap_err().reason(), Reason::BufferTooSmall);
        // SAFETY: no input.
        let answered = unsafe { output(4).answer(5, (std::ptr::null(), 0), |_, _| Ok(5)) };
        assert_eq!(answered.unwrap_err().reason(), Reason::BufferTooSmall);
        output(4).give(256, || Ok(Zeroizing::new(vec![1; 3]))).unwrap();
        assert_eq!((memory, length), ([1, 1, 1, 7], 3));
    }
}
