//! Which slots a query may look at.

use std::sync::Arc;

use cryptoki_sys::*;

use super::module::{Instance, Module};
use super::recover::{Ladder, Trouble};
use super::rv::Failed;
use super::search::Seen;
use super::slot::Slot;
use super::token;
use super::{Hsm, ObjectClass, Query};
use crate::error::{Error, Reason};
use crate::uri::{TokenAttributes, Uri};

/// What the token of a query is called: as it says itself, else as it is configured.
pub(super) fn wanted<'a>(hsm: &'a Hsm, query: &'a Query) -> &'a TokenAttributes {
    match &hsm.settings().token {
        Some(token) if query.token.is_empty() => token,
        _ => &query.token,
    }
}

/// Whether a token that is meant shows its private keys after a login only. What is wrong with the HSM is told by what needs it.
pub(super) fn wants_pin(hsm: &Hsm, query: &Query) -> bool {
    let ask = || {
        let ladder = Ladder::new(hsm.settings().retry_time);
        let mut reach = Reach::new(hsm, query, &ladder, &mut Seen::default())?;
        while let Some(slot) = reach.next()? {
            if reach.may_log_in() && slot.ask_token()?.login_required {
                return Ok(true);
            }
        }
        Ok(false)
    };
    // What has failed may be made good by the time the key is used.
    ask().unwrap_or_else(|trouble: Trouble| !matches!(trouble, Trouble::Permanent(_)))
}

/// The slots that a query may look at, one after the other.
pub(super) struct Reach {
    module: &'static Module,
    instance: Arc<Instance>,
    epoch: u64,
    wanted: TokenAttributes,
    class: Option<ObjectClass>,
    slots: Arc<Vec<Arc<Slot>>>,
    /// Which of them are meant where none is named.
    nameless: Option<Nameless>,
    position: usize,
    matched: bool,
    asked_anew: bool,
    /// Why one of the slots did not say what is in it.
    unanswered: Option<Failed>,
}

/// Where to look for what was given no token's name. A PIN that is sent to somebody else's token may lock it, so it is sent to the only
/// one that wants one; those that want none are looked into as they are.
struct Nameless {
    /// The one that wants a PIN, then those that want none.
    slots: Vec<Arc<Slot>>,
    /// To how many of them, from the first one on, a PIN may be sent.
    logins: usize,
    /// Why the search does not end with finding nothing: it has seen what is seen without a PIN, and several tokens want one.
    ambiguous: Option<Error>,
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
        let mut reach = Self {
            module,
            instance,
            epoch,
            wanted,
            class: query.class,
            slots,
            nameless: None,
            position: 0,
            matched: false,
            asked_anew: false,
            unanswered: None,
        };
        reach.nameless = reach.nameless()?;
        Ok(reach)
    }

    /// The epoch of the module's initialisation.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it is for tokens of a name: what is in one of them is in the others too, or should be.
    pub(super) fn is_named(&self) -> bool {
        self.nameless.is_none()
    }

    /// Whether a PIN may be sent to the last slot.
    pub(super) fn may_log_in(&self) -> bool {
        self.nameless.as_ref().is_none_or(|nameless| self.position <= nameless.logins)
    }

    /// Why what was not found may be there nevertheless: a slot did not say what is in it.
    pub(super) fn unanswered(&self) -> Option<Failed> {
        self.unanswered
    }

    /// Why what was not found may be there nevertheless: it may be hidden from who has not logged in.
    pub(super) fn ambiguous(&self) -> Option<&Error> {
        self.nameless.as_ref()?.ambiguous.as_ref()
    }

    /// The next slot.
    pub(super) fn next(&mut self) -> Result<Option<Arc<Slot>>, Trouble> {
        loop {
            let slots = self.nameless.as_ref().map_or(&self.slots[..], |nameless| &nameless.slots);
            while let Some(slot) = slots.get(self.position).cloned() {
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
            if self.asked_anew {
                return match self.unanswered {
                    Some(failed) => Err(failed.into()),
                    None => Err(self.nothing().into()),
                };
            }
            // A token may have come since the slots were listed.
            self.asked_anew = true;
            self.slots = self.module.slots(&self.instance, true)?;
            self.nameless = self.nameless()?;
            self.position = 0;
            self.unanswered = None;
        }
    }

    /// The slot that is meant, for what is done in one only.
    pub(super) fn one(&mut self) -> Result<Option<Arc<Slot>>, Trouble> {
        let first = self.next()?;
        // The one that wants a PIN is meant, if there is one.
        let several = match &self.nameless {
            Some(nameless) => nameless.logins == 0 && nameless.slots.len() > 1,
            None => self.next()?.is_some(),
        };
        Ok(first.filter(|_| !several))
    }

    fn nameless(&self) -> Result<Option<Nameless>, Trouble> {
        if !self.wanted.is_empty() {
            return Ok(None);
        }
        if let [slot] = &self.slots[..] {
            return Ok(Some(Nameless { slots: vec![Arc::clone(slot)], logins: 1, ambiguous: None }));
        }
        let (mut closed, mut open, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for slot in self.slots.iter() {
            // One that does not answer may be the second one.
            let Some(token) = answered(slot.ask_token())?.filter(|token| token.initialised) else { continue };
            if token.login_required {
                labels.push(token.label.clone());
                closed.push(Arc::clone(slot));
            } else {
                open.push(Arc::clone(slot));
            }
        }
        // The only token there is may be sent it whatever its flags say, as the one in an only slot, which is not asked.
        let is_only = closed.len() + open.len() == 1;
        let mut nameless =
            Nameless { logins: closed.len().max(is_only.into()), slots: closed, ambiguous: None };
        nameless.slots.append(&mut open);
        if labels.len() > 1 {
            let advice = "name one, as in pkcs11:token=LABEL or hsmkey-token";
            let detail = format!("{advice}; those that want a PIN are {}", labels.join(", "));
            let error = Error::new(Reason::TokenAmbiguous, detail);
            if self.class.is_none_or(|class| class == ObjectClass::PrivateKey) {
                return Err(error.into());
            }
            nameless.logins = 0;
            nameless.ambiguous = Some(error);
        }
        Ok(Some(nameless))
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
