//! Asking the user for a PIN, by the application's UI_METHOD (UI_new(3)).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;

use zeroize::Zeroizing;

use super::functions::UI_METHOD;
use super::library::Library;
use crate::error::Result;

/// The longest PIN that can be typed, with room for a NUL.
const SIZE: usize = 1024;

/// The way to ask, lent for one call.
pub struct Prompt<'a> {
    library: &'static Library,
    method: *mut UI_METHOD,
    data: *mut c_void,
    lent: PhantomData<&'a mut ()>,
}

impl Prompt<'_> {
    /// # Safety
    /// `method` is null or, like `data`, what the application lets UI_process use during `'a`.
    pub(super) unsafe fn new(library: &'static Library, method: *mut UI_METHOD, data: *mut c_void) -> Self {
        Self { library, method, data, lent: PhantomData }
    }

    /// Asks for a secret; `what` is shown. `None` where the application has named no way to ask, or nothing was entered.
    ///
    /// # Errors
    /// None of its own.
    pub fn ask(&mut self, what: &CStr) -> Result<Option<Zeroizing<Vec<u8>>>> {
        // Without a method OpenSSL would read from the terminal of a server.
        if self.method.is_null() {
            return Ok(None);
        }
        let functions = &self.library.functions;
        let mut secret = Zeroizing::new(vec![0_u8; SIZE]);
        // SAFETY: usable by `new`'s contract.
        let ui = unsafe { (functions.UI_new_method)(self.method) };
        if ui.is_null() {
            return Ok(None);
        }
        // SAFETY: a UI of ours, which is freed below; the prompt is NUL-terminated and outlives it, and so does the buffer, which has
        // room for the longest result and its NUL.
        let answered = unsafe {
            (functions.UI_add_user_data)(ui, self.data);
            let longest = (SIZE - 1) as c_int;
            let result = secret.as_mut_ptr().cast::<c_char>();
            let added = (functions.UI_add_input_string)(ui, what.as_ptr(), 0, result, 1, longest);
            added > 0 && (functions.UI_process)(ui) == 0
        };
        // SAFETY: made above, freed once.
        unsafe { (functions.UI_free)(ui) };
        let length = secret.iter().position(|octet| *octet == 0).unwrap_or(0);
        if !answered || length == 0 {
            return Ok(None);
        }
        secret.truncate(length);
        Ok(Some(secret))
    }
}
