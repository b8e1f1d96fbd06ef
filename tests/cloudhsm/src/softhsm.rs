//! The SoftHSM2 behind us.

use std::{
    ffi::{CStr, CString, c_char},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::null_mut,
};

use cryptoki_sys::*;

/// Loads the module at `path` as it is and asks for its function list.
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
