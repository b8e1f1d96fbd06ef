//! What is written down besides numbers: `<dir>/logins.log`, every C_Login with its result and never the PIN;
//! `<dir>/cloudhsm-pkcs11.log`, what CloudHSM's library logs; `<dir>/trace.log`, every call, on request.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use cryptoki_sys::*;

use crate::{counters::Count, entry::Function, process::Process};

/// Counts a login and appends its line, in one write so that processes do not mix theirs.
pub fn login(process: &Process, slot: CK_SLOT_ID, user_type: CK_USER_TYPE, user: &str, rv: CK_RV) {
    process.counters.more(match rv {
        CKR_OK => Count::login_ok,
        CKR_PIN_INCORRECT => Count::login_pin_incorrect,
        CKR_PIN_LOCKED => Count::login_pin_locked,
        CKR_USER_ALREADY_LOGGED_IN => Count::login_already,
        _ => Count::login_other,
    });
    let line = format!(
        "{} pid={} tid={} slot={slot:#x} type={user_type} user={user} rv={rv:#010x}\n",
        now(),
        std::process::id(),
        thread()
    );
    append(process.settings.directory.as_deref(), "logins.log", &line);
}

/// The user's name in a PIN, for the log: what is before the first `:`, reduced to harmless characters; `-` if there is none.
pub fn user(pin: &[u8]) -> String {
    match pin.iter().position(|byte| *byte == b':') {
        Some(colon) if colon > 0 => String::from_utf8_lossy(&pin[..colon])
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "_-.@".contains(c) { c } else { '?' })
            .collect(),
        _ => "-".to_owned(),
    }
}

impl Process {
    /// A line in `<dir>/cloudhsm-pkcs11.log`.
    pub fn log_line(&self, text: &str) {
        if self.settings.log {
            let line = format!("{} ERROR [{}] ThreadId({}) {text}\n", now(), std::process::id(), thread());
            append(self.settings.directory.as_deref(), "cloudhsm-pkcs11.log", &line);
        }
    }

    /// The line that CloudHSM's library writes for a failed call (rule 33); with `trace` every call has a line of its own.
    pub fn log_call(&self, function: Function, rv: CK_RV) {
        if rv != CKR_OK && self.settings.log {
            let chapter = chapter(function);
            self.log_line(&format!(
                "[cloudhsm_pkcs11::{chapter}::{function:?}] {function:?} failed, returning {rv:#010x}"
            ));
        }
        if self.settings.trace {
            let line =
                format!("{} pid={} tid={} {function:?} {rv:#010x}\n", now(), std::process::id(), thread());
            append(self.settings.directory.as_deref(), "trace.log", &line);
        }
    }
}

fn chapter(function: Function) -> &'static str {
    use Function::*;
    match function {
        C_OpenSession | C_CloseSession | C_CloseAllSessions | C_GetSessionInfo | C_Login | C_Logout => {
            "session"
        }
        C_Initialize | C_Finalize | C_GetInfo | C_GetFunctionList => "general",
        C_GetSlotList | C_GetSlotInfo | C_GetTokenInfo | C_GetMechanismList | C_GetMechanismInfo => {
            "slot_token"
        }
        C_SignInit | C_Sign | C_SignUpdate | C_SignFinal => "sign",
        C_CreateObject | C_DestroyObject | C_GetAttributeValue | C_FindObjectsInit | C_FindObjects
        | C_FindObjectsFinal => "object",
        _ => "function",
    }
}

/// A C pointer and length as a slice; empty if null.
///
/// # Safety
/// `first` is null or points to `length` bytes that nobody changes during `'a`.
pub unsafe fn bytes<'a>(first: *const CK_BYTE, length: CK_ULONG) -> &'a [u8] {
    if first.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller's contract, and not null.
    unsafe { std::slice::from_raw_parts(first, length as usize) }
}

/// Seconds since 1970 with microseconds.
pub fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:06}", now.as_secs(), now.subsec_micros())
}

/// The kernel's number of this thread.
pub fn thread() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Appends to a file that all processes share, whoever they run as.
pub fn append(directory: Option<&Path>, name: &str, line: &str) {
    let Some(path) = directory.map(|directory| directory.join(name)) else { return };
    let fresh = !path.exists();
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(0o666).open(path) {
        if fresh {
            let _ = file.set_permissions(std::fs::Permissions::from_mode(0o666));
        }
        let _ = file.write_all(line.as_bytes());
    }
}
