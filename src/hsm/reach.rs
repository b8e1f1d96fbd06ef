//! Which slots a query may look at.

use std::sync::Arc;

use cryptoki_sys::*;

use super::module::{Instance, Module};
use super::recover::{Ladder, Trouble};
use super::rv::Failed;
use super::search::Seen;
use super::slot::Slot;
use super::token;
use super::{Hsm, Query};
use crate::error::{Error, Reason};
use crate::uri::{TokenAttributes, Uri};

/// What the token of a query is called: as it says itself, else as it is configured.
pub(super) fn wanted<'a>(hsm: &'a Hsm, query: &'a Query) -> &'a TokenAttributes {
    match &hsm.settings().token {
        Some(token) if query.token.is_empty() => token,
        _ => &query.token,
    }
}

/// The slots that a query may look at, one after the other.
pub(super) struct Reach {
    module: &'static Module,
    instance: Arc<Instance>,
    epoch: u64,
    wanted: TokenAttributes,
    slots: Arc<Vec<Arc<Slot>>>,
    position: usize,
    matched: bool,
    asked_anew: bool,
    /// Why one of the slots did not say what is in it.
    unanswered: Option<Failed>,
}

impl Reach {
    pub(super) fn new(hsm: &Hsm, query: &Query, ladder: &Ladder, seen: &mut Seen) -> Result<Self, Trouble> {
        let module = hsm.module()?;
        let (instance, epoch) = module.initialised(ladder.patience())?;
        seen.instance = Some(epoch);
        seen.login = None;
        let wanted = wanted(hsm, query).clone();
        let asked = token::asked(&wanted);
        if asked.library && !module.library_info()?.matches(&wanted) {
            return Err(Error::new(Reason::TokenNotFound, "the URI names another PKCS#11 library").into());
        }
        let slots = module.slots(&instance, false)?;
        let (position, matched, asked_anew, unanswered) = (0, false, false, None);
        Ok(Self { module, instance, epoch, wanted, slots, position, matched, asked_anew, unanswered })
    }

    /// The epoch of the module's initialisation.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Why one of the slots, which may have what was not found elsewhere, did not say what is in it.
    pub(super) fn unanswered(&self) -> Option<Failed> {
        self.unanswered
    }

    /// The next slot. Without a name it is the only one: a PIN that is sent to somebody else's token may lock it.
    pub(super) fn next(&mut self) -> Result<Option<Arc<Slot>>, Trouble> {
        loop {
            if self.wanted.is_empty() {
                if self.matched {
                    return Ok(None);
                }
                if let Some(slot) = self.only()? {
                    self.matched = true;
                    return Ok(Some(slot));
                }
            } else {
                while let Some(slot) = self.slots.get(self.position).cloned() {
                    self.position += 1;
                    match answered(self.is_wanted(&slot)) {
                        Ok(Some(true)) => {
                            self.matched = true;
                            return Ok(Some(slot));
                        }
                        Ok(_) => {}
                        // The others may be the ones that are meant.
                        Err(failed) => self.unanswered = Some(failed),
                    }
                }
                if self.matched {
                    return Ok(None);
                }
            }
            if self.asked_anew {
                return match self.unanswered {
                    Some(failed) => Err(failed.into()),
                    None => Err(self.nothing().into()),
                };
            }
            // A token may have come since the slots were listed.
            self.asked_anew = true;
            self.slots = self.module.slots(&self.instance, true)?;
            self.position = 0;
            self.unanswered = None;
        }
    }

    fn only(&self) -> Result<Option<Arc<Slot>>, Trouble> {
        if let [slot] = &self.slots[..] {
            return Ok(Some(Arc::clone(slot)));
        }
        let mut usable = Vec::new();
        for slot in self.slots.iter() {
            // One that does not answer may be the second one.
            if let Some(token) = answered(slot.ask_token())?.filter(|token| token.initialised) {
                usable.push((slot, token.label.clone()));
            }
        }
        match &usable[..] {
            [] => Ok(None),
            [(slot, _)] => Ok(Some(Arc::clone(slot))),
            several => {
                let labels: Vec<&str> = several.iter().map(|(_, label)| label.as_str()).collect();
                let detail = format!(
                    "name one, as in pkcs11:token=LABEL or hsmkey-token; there are {}",
                    labels.join(", ")
                );
                Err(Error::new(Reason::TokenAmbiguous, detail).into())
            }
        }
    }

    fn is_wanted(&self, slot: &Slot) -> Result<bool, Failed> {
        let asked = token::asked(&self.wanted);
        #[allow(clippy::useless_conversion, reason = "a slot's number has 32 bits on other machines")]
        let id: u64 = slot.id().into();
        if self.wanted.slot_id.is_some_and(|wanted| wanted != id) {
            return Ok(false);
        }
        if asked.slot && !self.module.slot_info(slot.id())?.matches(&self.wanted) {
            return Ok(false);
        }
        Ok(!asked.token || slot.has_token(&self.wanted)?)
    }

    fn nothing(&self) -> Error {
        if self.wanted.is_empty() {
            return Error::new(Reason::TokenNotFound, "the module shows no initialised token");
        }
        let there: Vec<String> = self
            .slots
            .iter()
            .filter_map(|slot| slot.known_token())
            .map(|token| token.label.clone())
            .collect();
        let wanted = Uri { token: self.wanted.clone(), ..Uri::default() };
        let labels: Vec<&str> = there.iter().map(String::as_str).filter(|label| !label.is_empty()).collect();
        Error::new(Reason::TokenNotFound, format!("{}; there are: {}", wanted.address(), labels.join(", ")))
    }
}

/// What a slot said; `None` where it has no token, or one that the module does not know.
fn answered<T>(said: Result<T, Failed>) -> Result<Option<T>, Failed> {
    match said {
        Ok(said) => Ok(Some(said)),
        Err(Failed { rv: CKR_TOKEN_NOT_PRESENT | CKR_TOKEN_NOT_RECOGNIZED, .. }) => Ok(None),
        Err(failed) => Err(failed),
    }
}
