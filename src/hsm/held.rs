//! The session of a search, which goes on in another one where a call leaves it in the middle of something.

use std::time::Instant;

use cryptoki_sys::{CK_INVALID_HANDLE, CK_SESSION_HANDLE};

use super::Settings;
use super::module::Module;
use super::recover::{Fate, Trouble, session_fate};
use super::rv::Failed;
use super::session::Session;
use super::slot::Slot;

/// A session of a slot.
pub(super) struct Held<'a> {
    slot: &'a Slot,
    settings: &'a Settings,
    deadline: Instant,
    instance: Option<u64>,
    /// `None` where there was no other one to go on with.
    session: Option<Session>,
    /// There is a secret in it that could not be destroyed.
    pub(super) secret_stays: bool,
}

impl<'a> Held<'a> {
    /// See [`Slot::session`].
    pub(super) fn new(
        slot: &'a Slot,
        settings: &'a Settings,
        deadline: Instant,
        instance: Option<u64>,
        fresh: bool,
    ) -> Result<Self, Trouble> {
        let mut held = Self { slot, settings, deadline, instance, session: None, secret_stays: false };
        held.take(fresh)?;
        Ok(held)
    }

    fn take(&mut self, fresh: bool) -> Result<(), Trouble> {
        let session = self.slot.session(self.settings, self.deadline, self.instance, fresh)?;
        // Whoever waited for one may have waited too long: its number may be another session's in the module as it is now.
        if self.module().epoch() != self.instance {
            self.slot.pool.put(session);
            return Err(Trouble::Overtaken);
        }
        self.session = Some(session);
        Ok(())
    }

    pub(super) fn module(&self) -> &'static Module {
        self.slot.module()
    }

    /// The number of the session.
    pub(super) fn handle(&self) -> CK_SESSION_HANDLE {
        self.session.as_ref().map_or(CK_INVALID_HANDLE, Session::handle)
    }

    /// After a call that failed and is not to end the search: another session where it is not known what was begun in this one.
    pub(super) fn go_on(&mut self, failed: Failed) -> Result<(), Trouble> {
        if session_fate(failed) == Fate::Keep {
            return Ok(());
        }
        self.let_go(&Err::<(), _>(failed.into()));
        self.take(false)
    }

    /// Gives it back, or lets go of it. The result is that of [`Slot::after`].
    pub(super) fn let_go<T>(&mut self, result: &Result<T, Trouble>) -> bool {
        let stays = std::mem::take(&mut self.secret_stays);
        self.session.take().is_some_and(|session| self.slot.after(session, result.as_ref().err(), stays))
    }
}
