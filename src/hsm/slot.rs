//! One slot: its token, its sessions, and its login, which all sessions share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::family;
use super::module::Module;
use super::once::Shared;
use super::recover::{Fate, Trouble, session_fate};
use super::rejected::Notice;
use super::rv::Failed;
use super::session::{Pool, Session};
use super::token::{self, TokenInfo};
use super::turn::Turn;
use super::{Authenticator, Credential, Settings};
use crate::error::{Error, Reason};
use crate::secret::Pin;
use crate::uri::TokenAttributes;

/// How long to wait for a thread that logs in again.
const PATIENCE: Duration = Duration::from_secs(2);

/// For so long after C_GetTokenInfo, and until the next C_Login, the token is taken to be still the one.
const SURE: Duration = Duration::from_secs(2);

/// A slot with a token in it.
pub(super) struct Slot {
    module: &'static Module,
    id: CK_SLOT_ID,
    token: Mutex<Option<Known>>,
    /// Its sessions.
    pub(super) pool: Pool,
    /// The PIN that it is logged in with.
    login: Shared<Arc<Pin>>,
}

/// What the token has said of itself.
#[derive(Clone)]
struct Known {
    token: Arc<TokenInfo>,
    /// When that was; `None` where a login was made since.
    asked: Option<Instant>,
}

/// On whose behalf a login is made.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) authenticator: &'a dyn Authenticator,
    pub(super) settings: &'a Settings,
    /// What the token has to call itself.
    pub(super) token: &'a TokenAttributes,
    pub(super) deadline: Instant,
}

/// How a login came about.
enum Login {
    /// C_Login returned CKR_OK: handles of before may be other objects' now.
    Made(Arc<Pin>),
    /// Somebody has been logged in already.
    Stood(Arc<Pin>),
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

    /// A session for the caller alone: see [`Pool::take`]. None is opened where the module was initialised since `instance`: it would be
    /// in a pool that nobody uses.
    pub(super) fn session(
        &self,
        settings: &Settings,
        deadline: Instant,
        instance: Option<u64>,
        fresh: bool,
    ) -> Result<Session, Trouble> {
        let open = || (self.module.epoch() == instance).then(|| self.module.open_session(self.id));
        let close = |session| self.module.close_session(session);
        self.pool.take(settings.max_sessions, deadline, fresh, open, close)
    }

    /// Gives back a session or, where something failed in it or a secret stays in it, lets go of it. The result says whether the module
    /// did not know it any more: idle ones may be as dead.
    pub(super) fn after(&self, session: Session, trouble: Option<&Trouble>, secret_stays: bool) -> bool {
        let Some(trouble) = trouble else {
            if secret_stays {
                self.pool.discard(session, Fate::Close);
            } else {
                self.pool.put(session);
            }
            return false;
        };
        let fate = match trouble {
            Trouble::Call(failed) | Trouble::Doubtful(failed) | Trouble::Undecryptable(failed) => {
                session_fate(*failed)
            }
            Trouble::Unclear(failed, _) => session_fate(*failed),
            // Nothing was called, or the call that failed was none of this session's.
            Trouble::Permanent(_) | Trouble::Unreachable { .. } | Trouble::Overtaken => Fate::Keep,
        };
        // Elsewhere an operation that is still there, against the standard, is met as CKR_OPERATION_ACTIVE by the next one.
        let closes = secret_stays && fate != Fate::Dead || fate == Fate::Ended && self.is_cloudhsm();
        self.pool.discard(session, if closes { Fate::Close } else { fate });
        fate == Fate::Dead
    }

    fn lock_token(&self) -> MutexGuard<'_, Option<Known>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the token is one that is meant. Another one may have been put into the slot: one that is not meant is asked again, and where
    /// nobody is logged in each one.
    pub(super) fn has_token(&self, wanted: &TokenAttributes) -> Result<bool, Failed> {
        let stands = self.login.standing().is_some();
        let known = self.lock_token().clone().filter(|known| stands || known.is_sure());
        let matches = known.is_some_and(|known| known.token.matches(wanted));
        Ok(matches || self.ask_token()?.matches(wanted))
    }

    /// What the token says of itself, now.
    pub(super) fn ask_token(&self) -> Result<Arc<TokenInfo>, Failed> {
        let token = Arc::new(self.module.token_info(self.id)?);
        *self.lock_token() = Some(Known { token: Arc::clone(&token), asked: Some(Instant::now()) });
        Ok(token)
    }

    /// The token, if it was asked already.
    pub(super) fn known_token(&self) -> Option<Arc<TokenInfo>> {
        self.lock_token().as_ref().map(|known| Arc::clone(&known.token))
    }

    /// Fails where the token in the slot is not the one that is meant, any more. The next one to log in asks it again.
    fn check_token(&self, wanted: &TokenAttributes) -> Result<(), Failed> {
        if !token::asked(wanted).token {
            return Ok(());
        }
        let known = self.lock_token().clone().filter(Known::is_sure);
        let token = known.map_or_else(|| self.ask_token(), |known| Ok(known.token))?;
        if let Some(known) = &mut *self.lock_token() {
            known.asked = None;
        }
        if token.matches(wanted) {
            Ok(())
        } else {
            Err(Failed { function: "C_GetTokenInfo", rv: CKR_TOKEN_NOT_PRESENT })
        }
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
    pub(super) fn log_in(&self, session: CK_SESSION_HANDLE, client: &Client) -> Result<(u64, bool), Trouble> {
        // A PIN that was accepted before may be sent again while the first try is still on its way; another one may not.
        let accepted = self.module.user(self.id);
        let ours = client.authenticator.pin();
        let again = ours.as_ref().is_ok_and(|ours| accepted.is_some_and(|pin| ours.pin.same_as(&pin)));
        let patience = again.then_some(PATIENCE);
        let mut now = false;
        let result = self.login.get_or_take_over(client.deadline, patience, || {
            now = true;
            self.c_login(session, client).map(|(Login::Made(pin) | Login::Stood(pin))| pin)
        });
        let Some(result) = result else {
            let detail = "another thread is still waiting for C_Login";
            return Err(Error::new(Reason::HsmUnavailable, detail).into());
        };
        let (pin, epoch) = result?;
        if !now {
            // Whoever has no PIN of his own uses the login that there is.
            match client.authenticator.pin() {
                Ok(ours) if !self.same_identity(&ours.pin, &pin) => return Err(conflict().into()),
                _ => {}
            }
        }
        Ok((epoch, now))
    }

    /// Calls C_Login under a login of which nothing says whether it still stands. One that does keeps its epoch: what others have found
    /// under it is as good as before.
    ///
    /// # Errors
    /// As for [`Slot::log_in`].
    pub(super) fn renew_login(
        &self,
        epoch: u64,
        session: CK_SESSION_HANDLE,
        client: &Client,
    ) -> Result<u64, Trouble> {
        match client.authenticator.pin() {
            // Whoever has no PIN has to take it as it is.
            Err(error) if error.reason() == Reason::PinMissing => return Ok(epoch),
            _ => {}
        }
        match self.c_login(session, client)? {
            Login::Made(pin) => Ok(self.login.put(pin)),
            Login::Stood(_) if self.login.standing() == Some(epoch) => Ok(epoch),
            // Another thread has met the loss.
            Login::Stood(_) => Ok(self.log_in(session, client)?.0),
        }
    }

    fn c_login(&self, session: CK_SESSION_HANDLE, client: &Client) -> Result<Login, Trouble> {
        let mut credential = client.authenticator.pin()?;
        // A lost login is its user's: where somebody else's were made now, all that the user signs would fail from then on.
        if let Some(user) = self.module.user(self.id) {
            let gone = self.module.rejected.known(self.id, &user).is_some();
            if !gone && !self.same_identity(&credential.pin, &user) {
                return Err(conflict().into());
            }
        }
        let mut refreshed = false;
        loop {
            let error = match self.send_pin(session, &credential, client)? {
                Ok(login) => return Ok(login),
                Err(error) => error,
            };
            // The source may have changed since it was read. Once: the PIN that is read now is the last.
            match client.authenticator.refresh() {
                Ok(Some(fresh)) if !refreshed && !fresh.pin.same_as(&credential.pin) => {
                    credential = fresh;
                    refreshed = true;
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// Calls C_Login, when it is this PIN's turn; or says why it is rejected, where it has been before or is now.
    fn send_pin(
        &self,
        session: CK_SESSION_HANDLE,
        credential: &Credential,
        client: &Client,
    ) -> Result<Result<Login, Error>, Trouble> {
        let pin = &credential.pin;
        let (mut notice, known) = self.look(credential, client)?;
        if let Some(error) = known {
            return Ok(Err(error));
        }
        let attempt = match family::attempt(credential, (self.module.path(), self.id), client.deadline) {
            Ok(attempt) => attempt,
            Err(error) if error.reason() == Reason::PinRejected => return Ok(Err(error)),
            Err(error) => return Err(error.into()),
        };
        let turn = notice.as_mut().map(|notice| notice.turn(client.deadline)).transpose()?;
        if let Some(error) = notice.as_ref().and_then(Notice::stands) {
            return Ok(Err(error));
        }
        if attempt.has_waited() || turn.as_ref().is_some_and(Turn::has_waited) {
            // By now another process may have been told that it is wrong, and another token may be there.
            let (notice_now, known) = self.look(credential, client)?;
            if let Some(error) = known {
                return Ok(Err(error));
            }
            notice = notice_now;
        }
        match self.module.login(session, pin.as_bytes()) {
            Ok(()) => {
                attempt.accepted();
                if let Some(turn) = turn {
                    turn.accepted();
                }
                self.module.set_user(self.id, pin);
                if let Some(notice) = notice {
                    notice.withdraw();
                }
                Ok(Ok(Login::Made(Arc::clone(pin))))
            }
            // Another user of the module in this process, or a process that this is a child of.
            Err(Failed { rv: CKR_USER_ALREADY_LOGGED_IN, .. }) => Ok(Ok(Login::Stood(Arc::clone(pin)))),
            Err(failed) => {
                let Some(error) = self.rejection(failed, pin, &client.authenticator.advice()) else {
                    return Err(failed.into());
                };
                attempt.rejected();
                self.module.rejected.add(self.id, pin, &error);
                if let Some(notice) = notice {
                    notice.post();
                }
                Ok(Err(error))
            }
        }
    }

    /// What may be told to other processes of a PIN, and why it is rejected, where that is known.
    ///
    /// # Errors
    /// CKR_TOKEN_NOT_PRESENT where the token is not the one that is meant; C_GetTokenInfo's.
    fn look(
        &self,
        credential: &Credential,
        client: &Client,
    ) -> Result<(Option<Notice>, Option<Error>), Failed> {
        self.check_token(client.token)?;
        let notice = self.notice(credential, client.settings)?;
        let known = self.module.rejected.known(self.id, &credential.pin);
        let known = known.or_else(|| notice.as_ref().and_then(Notice::stands));
        Ok((notice, known))
    }

    /// What the token calls itself, or did when it was last asked.
    fn named(&self) -> Result<Arc<TokenInfo>, Failed> {
        self.known_token().map_or_else(|| self.ask_token(), Ok)
    }

    fn notice(&self, credential: &Credential, settings: &Settings) -> Result<Option<Notice>, Failed> {
        let Some((directory, stamp)) = settings.runtime_directory.as_deref().zip(credential.stamp.as_ref())
        else {
            return Ok(None);
        };
        let token = self.named()?;
        Ok(Some(Notice::new(directory, &format!("{}/{}", token.label, token.serial), stamp)))
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

    /// Whether two PINs are one user's: equal, or on a CloudHSM of one name, where the password was changed.
    fn same_identity(&self, one: &Pin, other: &Pin) -> bool {
        let name = user(one.as_bytes());
        one.same_as(other) || (name.is_some() && name == user(other.as_bytes()) && self.is_cloudhsm())
    }

    fn is_cloudhsm(&self) -> bool {
        self.module.path().to_string_lossy().contains("cloudhsm")
            || self.named().is_ok_and(|token| token.is_cloudhsm())
    }
}

impl Known {
    fn is_sure(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < SURE)
    }
}

fn conflict() -> Error {
    Error::new(Reason::IdentityConflict, "one process can be one user of a token; use another process")
}

/// The user's name in a CloudHSM's PIN, `user:password`.
fn user(pin: &[u8]) -> Option<&[u8]> {
    let colon = pin.iter().position(|&octet| octet == b':')?;
    Some(&pin[..colon])
}
