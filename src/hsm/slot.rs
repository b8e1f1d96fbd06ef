//! One slot: its token, its sessions, and its login, which all sessions share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::family;
use super::module::Module;
use super::once::Shared;
use super::recover::Trouble;
use super::rejected::{Notice, user};
use super::rv::Failed;
use super::session::Pool;
use super::token::TokenInfo;
use super::{Authenticator, Credential, Settings};
use crate::error::{Error, Reason};
use crate::secret::Pin;

/// How long to wait for a thread that logs in again.
const PATIENCE: Duration = Duration::from_secs(2);

/// A slot with a token in it.
pub(super) struct Slot {
    module: &'static Module,
    id: CK_SLOT_ID,
    token: Mutex<Option<Arc<TokenInfo>>>,
    /// Its sessions.
    pub(super) pool: Pool,
    /// The PIN that it is logged in with.
    login: Shared<Arc<Pin>>,
}

impl Slot {
    pub(super) fn new(module: &'static Module, id: CK_SLOT_ID) -> Self {
        Self { module, id, token: Mutex::default(), pool: Pool::default(), login: Shared::default() }
    }

    /// Its number. It says nothing: another token may have it tomorrow.
    pub(super) fn id(&self) -> CK_SLOT_ID {
        self.id
    }

    /// The module.
    pub(super) fn module(&self) -> &'static Module {
        self.module
    }

    /// What the token says of itself, asked once.
    pub(super) fn token(&self) -> Result<Arc<TokenInfo>, Failed> {
        let lock = || self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &*lock() {
            return Ok(Arc::clone(token));
        }
        let token = Arc::new(self.module.token_info(self.id)?);
        *lock() = Some(Arc::clone(&token));
        Ok(token)
    }

    /// The token, if it was asked already.
    pub(super) fn known_token(&self) -> Option<Arc<TokenInfo>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the user is logged in, and since when.
    pub(super) fn login_epoch(&self) -> Option<u64> {
        self.login.standing()
    }

    /// Logs in with the next use, unless somebody has since this epoch.
    pub(super) fn lose_login(&self, epoch: u64) {
        self.login.lose(epoch);
    }

    /// Logs the user in, once for all sessions. The result is the epoch of the login and whether it was made now.
    ///
    /// # Errors
    /// What is wrong with the PIN: a rejected one is never sent again. `IdentityConflict` where somebody else is logged in.
    pub(super) fn log_in(
        &self,
        session: CK_SESSION_HANDLE,
        authenticator: &dyn Authenticator,
        settings: &Settings,
        deadline: Instant,
    ) -> Result<(u64, bool), Trouble> {
        // A PIN that was accepted before may be sent again while the first try is still on its way; another one may not.
        let accepted = self.module.user(self.id);
        let again = authenticator.pin().is_ok_and(|ours| accepted.is_some_and(|pin| ours.pin.same_as(&pin)));
        let patience = again.then_some(PATIENCE);
        let mut now = false;
        let result = self.login.get_or_take_over(deadline, patience, || {
            now = true;
            self.c_login(session, authenticator, settings)
        });
        let Some(result) = result else {
            let detail = "another thread is still waiting for C_Login";
            return Err(Error::new(Reason::HsmUnavailable, detail).into());
        };
        let (pin, epoch) = result?;
        if !now {
            // Whoever has no PIN of his own uses the login that there is.
            match authenticator.pin() {
                Ok(ours) if !same_identity(&ours.pin, &pin) => return Err(conflict().into()),
                _ => {}
            }
        }
        Ok((epoch, now))
    }

    fn c_login(
        &self,
        session: CK_SESSION_HANDLE,
        authenticator: &dyn Authenticator,
        settings: &Settings,
    ) -> Result<Arc<Pin>, Trouble> {
        let mut credential = authenticator.pin()?;
        // A lost login is its user's: where somebody else's were made now, all that the user signs would fail from then on.
        if let Some(user) = self.module.user(self.id) {
            let gone = self.module.rejected.known(self.id, &user).is_some();
            if !gone && !same_identity(&credential.pin, &user) {
                return Err(conflict().into());
            }
        }
        let mut refreshed = false;
        loop {
            let pin = &credential.pin;
            let notice = self.notice(&credential, settings);
            let known = self.module.rejected.known(self.id, pin);
            let known = known.or_else(|| notice.as_ref().and_then(Notice::stands));
            let error = match known {
                Some(error) => error,
                None => match family::attempt(&credential, (self.module.path(), self.id)) {
                    Err(error) => error,
                    Ok(attempt) => match self.module.login(session, pin.as_bytes()) {
                        Ok(()) => {
                            attempt.accepted();
                            self.module.set_user(self.id, pin);
                            if let Some(notice) = notice {
                                notice.withdraw();
                            }
                            return Ok(Arc::clone(pin));
                        }
                        // Another user of the module in this process, or a process that this is a child of.
                        Err(Failed { rv: CKR_USER_ALREADY_LOGGED_IN, .. }) => return Ok(Arc::clone(pin)),
                        Err(failed) => {
                            let Some(error) = self.rejection(failed, pin, &authenticator.advice()) else {
                                return Err(failed.into());
                            };
                            attempt.rejected();
                            self.module.rejected.add(self.id, pin, &error);
                            if let Some(notice) = notice {
                                notice.post();
                            }
                            error
                        }
                    },
                },
            };
            // The source may have changed since it was read. Once: the PIN that is read now is the last.
            match authenticator.refresh() {
                Ok(Some(fresh)) if !refreshed && !fresh.pin.same_as(pin) => {
                    credential = fresh;
                    refreshed = true;
                }
                _ => return Err(error.into()),
            }
        }
    }

    fn notice(&self, credential: &Credential, settings: &Settings) -> Option<Notice> {
        let directory = settings.runtime_directory.as_deref()?;
        let stamp = credential.stamp.as_ref()?;
        let token = self.token().map(|token| format!("{}/{}", token.label, token.serial)).unwrap_or_default();
        Some(Notice::new(directory, &token, &credential.pin, stamp))
    }

    /// The error of a login that failed because of the PIN; `None` where it failed for another reason.
    fn rejection(&self, failed: Failed, pin: &Pin, advice: &str) -> Option<Error> {
        let nameless = user(pin.as_bytes()).is_none();
        match failed.rv {
            CKR_PIN_LOCKED => Some(failed.error()),
            // SDK 5 and SDK 3 for a PIN without a user.
            CKR_PIN_INCORRECT | CKR_PIN_INVALID | CKR_PIN_LEN_RANGE | CKR_ARGUMENTS_BAD
                if nameless && self.is_cloudhsm() =>
            {
                let detail = "CloudHSM wants user:password";
                Some(Error::new(Reason::PinFormat, detail).with_call(failed.call()))
            }
            CKR_PIN_INCORRECT | CKR_PIN_INVALID | CKR_PIN_LEN_RANGE | CKR_PIN_EXPIRED => {
                let separator = if advice.is_empty() { "" } else { "; " };
                let detail = format!("{advice}{separator}it is not tried again before it is changed");
                Some(Error::new(Reason::PinRejected, detail).with_call(failed.call()))
            }
            _ => None,
        }
    }

    fn is_cloudhsm(&self) -> bool {
        self.module.path().to_string_lossy().contains("cloudhsm")
            || self.token().is_ok_and(|token| token.is_cloudhsm())
    }
}

fn conflict() -> Error {
    Error::new(Reason::IdentityConflict, "one process can be one user of a token; use another process")
}

/// Whether two PINs are one user's: equal, or of one name, where the password was changed.
fn same_identity(one: &Pin, other: &Pin) -> bool {
    let name = user(one.as_bytes());
    one.same_as(other) || (name.is_some() && name == user(other.as_bytes()))
}
