//! Finding things: which slots, one login, one search, and one request for each object.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use cryptoki_sys::*;

use super::held::Held;
use super::object::{self, Attributes, Template};
use super::pair::Elliptic;
use super::private_key::Binding;
use super::reach::{self, Reach};
use super::recover::{Ladder, Rung, Trouble};
use super::rv::Failed;
use super::slot::{Client, Slot};
use super::{Authenticator, Hsm, Object, ObjectClass, Query};
use crate::config::LoginBehaviour;
use crate::error::{Error, Reason, Result};
use crate::public::PublicKey;
use crate::uri::{TokenAttributes, Uri};

/// What an attempt relied on, so that exactly that is rebuilt when it fails, and once for all threads.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) instance: Option<u64>,
    pub(super) login: Option<(Arc<Slot>, u64)>,
    pub(super) binding: Option<u64>,
    pub(super) failures: u32,
    /// The module did not know the last session any more: the next one is not to be an idle one.
    pub(super) fresh: bool,
}

/// What failed in one of several slots, and the login there.
type Lost = (Failed, Option<(Arc<Slot>, u64)>);

impl Seen {
    /// Fails where one of the slots was lost, or did not say what is in it: it may have what was not found in the others. It is that slot's
    /// login that may have to be made again, and not the last one's.
    fn all_answered(&mut self, lost: Option<Lost>, reach: &Reach) -> Result<(), Trouble> {
        match lost.or(reach.unanswered().map(|failed| (failed, None))) {
            Some((failed, login)) => {
                self.login = login;
                Err(failed.into())
            }
            None => Ok(()),
        }
    }

    /// An attempt with a key that was found before, in an epoch of its binding, has failed.
    pub(super) fn relied_on(&mut self, binding: &Binding, epoch: u64) {
        self.instance = Some(binding.instance);
        self.login = binding.login.map(|epoch| (Arc::clone(&binding.slot), epoch));
        self.binding = Some(epoch);
    }
}

/// Takes down what an attempt relied on, up to a rung; the next attempt builds it up again.
pub(super) fn rebuild(hsm: &Hsm, rung: Rung, seen: &Seen) {
    if rung >= Rung::Login {
        if let Some((slot, epoch)) = &seen.login {
            slot.lose_login(*epoch);
        }
    }
    if rung == Rung::Initialise {
        if let (Ok(module), Some(epoch)) = (hsm.module(), seen.instance) {
            module.lose(epoch);
        }
    }
}

/// The objects that a query matches, however often the HSM has to be asked.
pub(super) fn list(hsm: &Hsm, query: &Query, authenticator: &Arc<dyn Authenticator>) -> Result<Vec<Object>> {
    let mut ladder = Ladder::new(hsm.settings().retry_time);
    let mut seen = Seen::default();
    loop {
        match list_once(hsm, query, authenticator, &ladder, &mut seen) {
            Ok(objects) => return Ok(objects),
            Err(trouble) => {
                let rung = ladder.climb(trouble)?;
                rebuild(hsm, rung, &seen);
                seen.failures += 1;
            }
        }
    }
}

fn list_once(
    hsm: &Hsm,
    query: &Query,
    authenticator: &Arc<dyn Authenticator>,
    ladder: &Ladder,
    seen: &mut Seen,
) -> Result<Vec<Object>, Trouble> {
    const ALL: [ObjectClass; 3] = [ObjectClass::PrivateKey, ObjectClass::PublicKey, ObjectClass::Certificate];
    let classes = ALL.into_iter().filter(|class| query.class.is_none_or(|wanted| wanted == *class));
    let mut objects = Vec::new();
    let mut lost = None;
    let mut reach = Reach::new(hsm, query, ladder, seen)?;
    while let Some(slot) = reach.next()? {
        let visit = Visit { may_log_in: reach.may_log_in(), ..Visit::new(hsm, query, authenticator, ladder) };
        seen.login = None;
        let before = objects.len();
        let visited = visit.slot(&slot, seen, |held, seen| {
            for class in classes.clone() {
                visit.class(&slot, held, class, reach.epoch(), seen, &mut objects)?;
            }
            Ok(())
        });
        match visited {
            // Other tokens of that name are looked at only where this one has nothing.
            Ok(()) if reach.is_named() && !objects.is_empty() => return Ok(objects),
            Ok(()) => {}
            // What it has may be at home elsewhere as well.
            Err(Trouble::Call(failed)) => {
                lost = lost.or_else(|| Some((failed, seen.login.take())));
                objects.truncate(before);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    seen.all_answered(lost, &reach)?;
    match reach.ambiguous().filter(|_| objects.is_empty()) {
        Some(error) => Err(error.clone().into()),
        None => Ok(objects),
    }
}

/// Finds a private key: by what it is called and by its public half. Where several tokens have the name, and one is lost, the key is
/// used in another.
pub(super) fn bind(
    hsm: &Hsm,
    query: &Query,
    authenticator: &Arc<dyn Authenticator>,
    ladder: &Ladder,
    seen: &mut Seen,
) -> Result<Binding, Trouble> {
    let mut reach = Reach::new(hsm, query, ladder, seen)?;
    let (mut others, mut lost) = (false, None);
    while let Some(slot) = reach.next()? {
        let visit = Visit { may_log_in: reach.may_log_in(), ..Visit::new(hsm, query, authenticator, ladder) };
        let mut binding = None;
        seen.login = None;
        let visited = visit.slot(&slot, seen, |held, seen| {
            let session = held.handle();
            let login = visit.log_in(&slot, session, seen)?;
            let (found, login) = visit.find_private(&slot, session, login, seen)?;
            let elliptic = query.public.as_ref().filter(|public| Elliptic::of(public).is_some());
            let (handle, proven) = match (&found[..], elliptic) {
                ([], _) => (visit.find_by_reading(&slot, session, &mut others)?, true),
                // What its search cannot tell, its first signature will.
                ([one], Some(_)) => (Some(*one), false),
                (several, Some(public)) => {
                    let Some(verifier) = hsm.verifier() else {
                        return Err(visit.ambiguous(&slot, session, several)?.into());
                    };
                    others = true;
                    (visit.private_half(held, several, public, verifier)?, true)
                }
                // Several of one public half are one key.
                ([first, ..], None) if query.public.is_some() => (Some(*first), true),
                ([one], None) => (Some(*one), true),
                (several, None) => return Err(visit.ambiguous(&slot, session, several)?.into()),
            };
            binding = handle.map(|handle| Binding::new(&slot, handle, reach.epoch(), login, proven));
            Ok(())
        });
        match (visited, binding) {
            (Ok(()), Some(binding)) => return Ok(binding),
            (Ok(()), None) => {}
            // The key may be at home elsewhere as well.
            (Err(Trouble::Call(failed)), _) => lost = lost.or_else(|| Some((failed, seen.login.take()))),
            (Err(trouble), _) => return Err(trouble),
        }
    }
    seen.all_answered(lost, &reach)?;
    let (reason, advice) = if others {
        (Reason::KeyMismatch, "where that is the right one, write the key file anew")
    } else {
        (Reason::KeyNotFound, "it was deleted, or the user has no share in it")
    };
    Err(Error::new(reason, format!("{}; {advice}", address(query))).into())
}

/// One search.
pub(super) struct Visit<'a> {
    pub(super) hsm: &'a Hsm,
    pub(super) query: &'a Query,
    pub(super) authenticator: &'a Arc<dyn Authenticator>,
    pub(super) ladder: &'a Ladder,
    /// Whether the token may be sent a PIN.
    pub(super) may_log_in: bool,
    /// What was read on the way to a pair.
    pub(super) public_keys: RefCell<HashMap<CK_OBJECT_HANDLE, Option<PublicKey>>>,
}

impl<'a> Visit<'a> {
    pub(super) fn new(
        hsm: &'a Hsm,
        query: &'a Query,
        authenticator: &'a Arc<dyn Authenticator>,
        ladder: &'a Ladder,
    ) -> Self {
        Self { hsm, query, authenticator, ladder, may_log_in: true, public_keys: RefCell::default() }
    }

    /// Does something in a session of a slot.
    pub(super) fn slot(
        &self,
        slot: &Slot,
        seen: &mut Seen,
        work: impl FnOnce(&mut Held, &mut Seen) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let fresh = std::mem::take(&mut seen.fresh);
        let mut held = Held::new(slot, self.hsm.settings(), self.ladder.deadline(), seen.instance, fresh)?;
        let result = work(&mut held, seen);
        seen.fresh = held.let_go(&result);
        result
    }

    fn client(&self) -> Client<'_> {
        Client {
            authenticator: &**self.authenticator,
            settings: self.hsm.settings(),
            token: reach::wanted(self.hsm, self.query),
            deadline: self.ladder.patience(),
        }
    }

    /// The login, and whether it was made now; none in a token that wants none, where no PIN is given for it or none may be sent.
    pub(super) fn log_in(
        &self,
        slot: &Arc<Slot>,
        session: CK_SESSION_HANDLE,
        seen: &mut Seen,
    ) -> Result<(Option<u64>, bool), Trouble> {
        if !self.may_log_in {
            // Somebody who may can have made one.
            let login = slot.login_epoch();
            seen.login = login.map(|epoch| (Arc::clone(slot), epoch));
            return Ok((login, false));
        }
        match slot.log_in(session, &self.client()) {
            Ok((epoch, now)) => {
                seen.login = Some((Arc::clone(slot), epoch));
                Ok((Some(epoch), now))
            }
            Err(Trouble::Permanent(error))
                if error.reason() == Reason::PinMissing && !slot.ask_token()?.login_required =>
            {
                Ok((None, false))
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn template(&self, class: ObjectClass) -> Template {
        let class = match class {
            ObjectClass::PrivateKey => CKO_PRIVATE_KEY,
            ObjectClass::PublicKey => CKO_PUBLIC_KEY,
            ObjectClass::Certificate => CKO_CERTIFICATE,
        };
        Template::class(class)
            .octets(CKA_LABEL, self.query.label.as_deref().unwrap_or_default().as_bytes())
            .octets(CKA_ID, self.query.id.as_deref().unwrap_or_default())
    }

    /// The private keys, and the login under which they were found. Without a login there are none, and a login that was lost
    /// does not always say so: where nothing is found under an older one, or while things are being lost, C_Login tells.
    pub(super) fn find_private(
        &self,
        slot: &Arc<Slot>,
        session: CK_SESSION_HANDLE,
        (epoch, now): (Option<u64>, bool),
        seen: &mut Seen,
    ) -> Result<(Vec<CK_OBJECT_HANDLE>, Option<u64>), Trouble> {
        let template = || {
            let template = self.template(ObjectClass::PrivateKey);
            match &self.query.public {
                Some(PublicKey::Rsa(rsa)) => {
                    template.number(CKA_KEY_TYPE, CKK_RSA).octets(CKA_MODULUS, &rsa.modulus)
                }
                Some(public) => match Elliptic::of(public) {
                    Some(elliptic) => elliptic.restrict(template),
                    None => template,
                },
                None => template,
            }
        };
        let found = object::find(slot.module(), session, &mut template())?;
        let in_doubt = self.may_log_in && found.is_empty() && !(now && seen.failures == 0);
        let Some(login) = epoch.filter(|_| in_doubt) else { return Ok((found, epoch)) };
        let login = slot.renew_login(login, session, &self.client())?;
        seen.login = Some((Arc::clone(slot), login));
        Ok((object::find(slot.module(), session, &mut template())?, Some(login)))
    }

    /// The key among those of its name, by reading their public halves: for tokens that cannot search for a modulus. `others` says
    /// whether there are keys of the name.
    fn find_by_reading(
        &self,
        slot: &Slot,
        session: CK_SESSION_HANDLE,
        others: &mut bool,
    ) -> Result<Option<CK_OBJECT_HANDLE>, Trouble> {
        const MOST: usize = 16;
        let named = self.query.label.is_some() || self.query.id.is_some();
        let Some(public) = self.query.public.as_ref().filter(|_| named) else { return Ok(None) };
        let found = object::find(slot.module(), session, &mut self.template(ObjectClass::PrivateKey))?;
        *others |= !found.is_empty();
        for handle in found.into_iter().take(MOST) {
            let attributes = object::read(slot.module(), session, handle, CKO_PRIVATE_KEY)?;
            if attributes.public.as_ref() == Some(public) {
                return Ok(Some(handle));
            }
        }
        Ok(None)
    }

    /// The error for a name that is several keys': it lists them.
    fn ambiguous(
        &self,
        slot: &Slot,
        session: CK_SESSION_HANDLE,
        found: &[CK_OBJECT_HANDLE],
    ) -> Result<Error, Trouble> {
        const SHOWN: usize = 10;
        let mut list = Vec::new();
        for handle in found.iter().take(SHOWN) {
            let attributes = object::read(slot.module(), session, *handle, CKO_PRIVATE_KEY)?;
            let (label, id) = (Some(attributes.label), Some(attributes.id));
            list.push(address(&Query {
                token: self.query.token.clone(),
                label: label.filter(|label| !label.is_empty()),
                id: id.filter(|id| !id.is_empty()),
                ..Query::default()
            }));
        }
        if found.len() > SHOWN {
            list.push("...".into());
        }
        Ok(Error::new(Reason::KeyAmbiguous, format!("{} keys: {}", found.len(), list.join(", "))))
    }

    /// The objects of a class, with what they say of themselves.
    fn class(
        &self,
        slot: &Arc<Slot>,
        held: &mut Held,
        class: ObjectClass,
        instance: u64,
        seen: &mut Seen,
        objects: &mut Vec<Object>,
    ) -> Result<(), Trouble> {
        let session = held.handle();
        let found = if class == ObjectClass::PrivateKey {
            let login = self.log_in(slot, session, seen)?;
            self.find_private(slot, session, login, seen)?.0
        } else {
            self.find_public(slot, session, class, seen)?
        };
        let login = slot.login_epoch();
        let mut read = Vec::with_capacity(found.len());
        for handle in found {
            let number = if class == ObjectClass::Certificate { CKO_CERTIFICATE } else { CKO_PRIVATE_KEY };
            let mut attributes = object::read(slot.module(), held.handle(), handle, number)?;
            let (public, proven) = match &attributes.public {
                None if class == ObjectClass::PrivateKey => {
                    self.public_half(held, handle, &attributes, true)?.unzip()
                }
                public => (public.clone(), Some(true)),
            };
            attributes.public = public;
            read.push((handle, attributes, proven.unwrap_or(false)));
        }
        if class == ObjectClass::PrivateKey {
            self.tell_apart(held, &mut read)?;
        }
        for (handle, attributes, proven) in read {
            let binding = Binding::new(slot, handle, instance, login, proven);
            objects.push(self.object(class, attributes, binding));
        }
        Ok(())
    }

    /// The private half of a pair that was just made, with the public half.
    pub(super) fn generated(
        &self,
        slot: &Arc<Slot>,
        session: CK_SESSION_HANDLE,
        (public, private): (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE),
        instance: u64,
        login: Option<u64>,
    ) -> Result<Object, Trouble> {
        let mut attributes = object::read(slot.module(), session, private, CKO_PRIVATE_KEY)?;
        if attributes.public.is_none() {
            attributes.public = object::read(slot.module(), session, public, CKO_PUBLIC_KEY)?.public;
        }
        let binding = Binding::new(slot, private, instance, login, true);
        Ok(self.object(ObjectClass::PrivateKey, attributes, binding))
    }

    fn object(&self, class: ObjectClass, attributes: Attributes, binding: Binding) -> Object {
        Object {
            class,
            label: attributes.label,
            id: attributes.id,
            token: self.token(&binding.slot),
            asked: self.query.token.clone(),
            public: attributes.public,
            certificate: attributes.certificate,
            pss_only: object::pss_only(&attributes.mechanisms),
            hsm: self.hsm.clone(),
            authenticator: Arc::clone(self.authenticator),
            binding,
        }
    }

    /// Public keys and certificates: without a login where they can be seen so, and where the configuration allows one, with.
    fn find_public(
        &self,
        slot: &Arc<Slot>,
        session: CK_SESSION_HANDLE,
        class: ObjectClass,
        seen: &mut Seen,
    ) -> Result<Vec<CK_OBJECT_HANDLE>, Trouble> {
        let behaviour = self.hsm.settings().login;
        if behaviour == LoginBehaviour::Always {
            self.log_in(slot, session, seen)?;
        }
        let found = object::find(slot.module(), session, &mut self.template(class))?;
        let seen_so = behaviour == LoginBehaviour::Never || slot.login_epoch().is_some() || !self.may_log_in;
        if !found.is_empty() || seen_so {
            return Ok(found);
        }
        match self.log_in(slot, session, seen) {
            Ok(_) => Ok(object::find(slot.module(), session, &mut self.template(class))?),
            // Nobody has to have a PIN to see that there is no certificate.
            Err(Trouble::Permanent(error)) if error.reason() == Reason::PinMissing => Ok(Vec::new()),
            Err(trouble) => Err(trouble),
        }
    }

    /// The token by what it calls itself, or by what the query calls it.
    fn token(&self, slot: &Slot) -> TokenAttributes {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        match slot.known_token() {
            Some(token) => TokenAttributes {
                token: text(&token.label),
                serial: text(&token.serial),
                ..TokenAttributes::default()
            },
            None => self.query.token.clone(),
        }
    }
}

/// What a query asks for, as a URI.
pub(super) fn address(query: &Query) -> String {
    let uri = Uri {
        token: query.token.clone(),
        object: query.label.clone(),
        id: query.id.clone(),
        ..Uri::default()
    };
    uri.address().to_string()
}
