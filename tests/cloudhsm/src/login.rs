//! C_Login and C_Logout: `user:password`, one login for all sessions of a slot, a lock after too many wrong ones (rules 7, 8).

use std::{
    fs::OpenOptions,
    io::{Read, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::PathBuf,
    sync::PoisonError,
};

use cryptoki_sys::*;

use crate::{
    call::Call,
    logs,
    sessions::Session,
    softhsm::{Answer, ask},
    startup,
    state::{Login, Slot},
};

/// C_Login, and its line in the log.
pub unsafe fn login(
    call: &Call,
    session: &Session,
    user: CK_USER_TYPE,
    pin: *const CK_BYTE,
    length: CK_ULONG,
) -> Answer {
    let slot = session.slot(call);
    // SAFETY: the caller's contract.
    let pin = unsafe { logs::bytes(pin, length) };
    let answer = attempt(call, slot, user, pin);
    logs::login(call.process, slot.id, user, &logs::user(pin), answer.err().unwrap_or(CKR_OK));
    answer
}

fn attempt(call: &Call, slot: &Slot, user_type: CK_USER_TYPE, pin: &[u8]) -> Answer {
    let settings = &call.process.settings;
    if user_type != CKU_USER {
        return Err(settings.user_type_code);
    }
    if slot.login() == Login::User {
        return Err(CKR_USER_ALREADY_LOGGED_IN);
    }
    if settings.processes_refused_at_login && !call.process.shared.enter_client(settings.processes) {
        return Err(settings.processes_code);
    }
    if !is_well_formed(pin) {
        return Err(settings.pin_syntax_code);
    }
    let tries = Tries::of(call, &logs::user(pin));
    if tries.wrong() >= settings.lockout {
        return Err(settings.lockout_code);
    }
    if !is_right(call, slot, pin)? {
        tries.set(|wrong| wrong + 1);
        return Err(CKR_PIN_INCORRECT);
    }
    if tries.wrong() > 0 {
        tries.set(|_| 0);
    }
    // New handles after each login.
    call.process.state.objects.forget(Some(slot.index));
    let mine = slot.change_login(Login::None, Login::User) || slot.change_login(Login::Lost, Login::User);
    if mine { Ok(()) } else { Err(CKR_USER_ALREADY_LOGGED_IN) }
}

/// `user:password`, with CloudHSM's limits on both.
fn is_well_formed(pin: &[u8]) -> bool {
    let Some(colon) = pin.iter().position(|byte| *byte == b':') else { return false };
    (1..=31).contains(&colon) && (8..=32).contains(&(pin.len() - colon - 1))
}

/// Asks SoftHSM2 the first time; it stays logged in, and later PINs are compared with the one it took.
fn is_right(call: &Call, slot: &Slot, pin: &[u8]) -> Result<bool, CK_RV> {
    let users = &call.process.settings.users;
    let mut inner = pin.to_vec();
    if !users.is_empty() {
        let known = users.iter().find(|(user, _)| user.as_bytes() == pin);
        match known {
            Some((_, token_pin)) => inner = token_pin.clone().into_bytes(),
            None => return Ok(false),
        }
    }
    if let Some(accepted) = &*slot.accepted.lock().unwrap_or_else(PoisonError::into_inner) {
        return Ok(*accepted == inner);
    }
    let pin = (inner.as_mut_ptr(), inner.len() as CK_ULONG);
    match startup::one_at_a_time(|| ask!(C_Login(slot.keeper, CKU_USER, pin.0, pin.1))) {
        Ok(()) => {
            *slot.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(inner);
            Ok(true)
        }
        // Another thread logs in at this moment and will say whether the PIN is right.
        Err(CKR_USER_ALREADY_LOGGED_IN) => {
            let accepted = slot.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(accepted.as_ref().is_none_or(|accepted| *accepted == inner))
        }
        Err(CKR_PIN_INCORRECT | CKR_PIN_LEN_RANGE | CKR_PIN_INVALID) => Ok(false),
        Err(other) => Err(other),
    }
}

/// The wrong logins of one user, in `<dir>/lockout/<user>`: they survive the process. Deleting the file unlocks the user.
struct Tries(Option<PathBuf>);

impl Tries {
    fn of(call: &Call, user: &str) -> Tries {
        let directory = call.process.settings.directory.as_ref().map(|directory| directory.join("lockout"));
        if let Some(directory) = directory.as_ref().filter(|directory| !directory.is_dir()) {
            let _ = std::fs::create_dir(directory);
            let _ = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777));
        }
        Tries(directory.map(|directory| directory.join(user.replace('.', "_"))))
    }

    fn wrong(&self) -> u64 {
        let text = self.0.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn set(&self, change: impl FnOnce(u64) -> u64) {
        let Some(path) = &self.0 else { return };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o666);
        let Ok(mut file) = options.open(path) else { return };
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o666));
        // Two processes with a wrong PIN at one moment are two wrong logins. Closing lets go.
        // SAFETY: an open descriptor.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        let wrong = change(text.trim().parse().unwrap_or(0));
        // Always as long as before: a reader never finds it empty.
        let _ = file.rewind().and_then(|()| writeln!(file, "{wrong:08}"));
    }
}

/// C_Logout: for all sessions.
pub fn logout(call: &Call, session: &Session) -> Answer {
    let slot = session.slot(call);
    session.needs_login(call)?;
    slot.set_login(Login::None);
    call.process.state.objects.forget(Some(slot.index));
    Ok(())
}
