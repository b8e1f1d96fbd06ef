//! Finding things: which slots, one login, one search, and one request for each object.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use cryptoki_sys::*;

use super::module::{Instance, Module};
use super::object::{self, Attributes, Template};
use super::pair::Elliptic;
use super::private_key::Binding;
use super::recover::{Ladder, Rung, Trouble};
use super::rv::Failed;
use super::slot::Slot;
use super::token;
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
}

impl Seen {
    /// What was lost in one of several slots: it is that slot's login that may have to be made again, and not the last one's.
    fn lost(&mut self, (failed, login): (Failed, Option<(Arc<Slot>, u64)>)) -> Trouble {
        self.login = login;
        failed.into()
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

/// Gives back or lets go of a session in which something failed.
pub(super) fn after_failure(slot: &Slot, session: CK_SESSION_HANDLE, trouble: &Trouble, seen: &Seen) {
    match trouble {
        Trouble::Call(failed) | Trouble::Doubtful(failed) | Trouble::Undecryptable(failed) => {
            slot.pool.discard(session, failed.rv, seen.failures > 0);
        }
        // Nothing was called, or the call that failed was none of this session's.
        Trouble::Permanent(_) | Trouble::Unreachable { .. } => slot.pool.put(session),
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
        let visit = Visit::new(hsm, query, authenticator, ladder);
        seen.login = None;
        let visited = visit.slot(&slot, seen, |session, seen| {
            for class in classes.clone() {
                visit.class(&slot, session, class, reach.epoch, seen, &mut objects)?;
            }
            Ok(())
        });
        match visited {
            // Other tokens of that name are looked at only where this one has nothing.
            Ok(()) if !objects.is_empty() => return Ok(objects),
            Ok(()) => {}
            // What it has may be at home elsewhere as well.
            Err(Trouble::Call(failed)) => {
                lost = lost.or_else(|| Some((failed, seen.login.take())));
                objects.clear();
            }
            Err(trouble) => return Err(trouble),
        }
    }
    match lost {
        Some(lost) => Err(seen.lost(lost)),
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
        let visit = Visit::new(hsm, query, authenticator, ladder);
        let mut binding = None;
        seen.login = None;
        let visited = visit.slot(&slot, seen, |session, seen| {
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
                    (visit.private_half(&slot, session, several, public, verifier)?, true)
                }
                // Several of one public half are one key.
                ([first, ..], None) if query.public.is_some() => (Some(*first), true),
                ([one], None) => (Some(*one), true),
                (several, None) => return Err(visit.ambiguous(&slot, session, several)?.into()),
            };
            let login = Some(login.0);
            binding = handle.map(|handle| Binding::new(&slot, handle, reach.epoch, login, proven));
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
    if let Some(lost) = lost {
        return Err(seen.lost(lost));
    }
    let (reason, advice) = if others {
        (Reason::KeyMismatch, "where that is the right one, write the key file anew")
    } else {
        (Reason::KeyNotFound, "it was deleted, or the user has no share in it")
    };
    Err(Error::new(reason, format!("{}; {advice}", address(query))).into())
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
}

impl Reach {
    pub(super) fn new(hsm: &Hsm, query: &Query, ladder: &Ladder, seen: &mut Seen) -> Result<Self, Trouble> {
        let module = hsm.module()?;
        let (instance, epoch) = module.initialised(ladder.patience())?;
        seen.instance = Some(epoch);
        seen.login = None;
        let wanted = match &hsm.settings().token {
            Some(token) if query.token.is_empty() => token.clone(),
            _ => query.token.clone(),
        };
        let asked = token::asked(&wanted);
        if asked.library && !module.library_info()?.matches(&wanted) {
            return Err(Error::new(Reason::TokenNotFound, "the URI names another PKCS#11 library").into());
        }
        let slots = module.slots(&instance, false)?;
        let (position, matched, asked_anew) = (0, false, false);
        Ok(Self { module, instance, epoch, wanted, slots, position, matched, asked_anew })
    }

    /// The epoch of the module's initialisation.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
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
                    if self.is_wanted(&slot)? {
                        self.matched = true;
                        return Ok(Some(slot));
                    }
                }
                if self.matched {
                    return Ok(None);
                }
            }
            if self.asked_anew {
                return Err(self.nothing().into());
            }
            // A token may have come since the slots were listed.
            self.asked_anew = true;
            self.slots = self.module.slots(&self.instance, true)?;
            self.position = 0;
        }
    }

    fn only(&self) -> Result<Option<Arc<Slot>>, Trouble> {
        if let [slot] = &self.slots[..] {
            return Ok(Some(Arc::clone(slot)));
        }
        let mut usable = Vec::new();
        for slot in self.slots.iter() {
            let token = slot.token()?;
            if token.initialised {
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

    fn is_wanted(&self, slot: &Slot) -> Result<bool, Trouble> {
        let asked = token::asked(&self.wanted);
        #[allow(clippy::useless_conversion, reason = "a slot's number has 32 bits on other machines")]
        let id: u64 = slot.id().into();
        if self.wanted.slot_id.is_some_and(|wanted| wanted != id) {
            return Ok(false);
        }
        if asked.slot && !self.module.slot_info(slot.id())?.matches(&self.wanted) {
            return Ok(false);
        }
        Ok(!asked.token || slot.token()?.matches(&self.wanted))
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

/// One search.
pub(super) struct Visit<'a> {
    pub(super) hsm: &'a Hsm,
    pub(super) query: &'a Query,
    pub(super) authenticator: &'a Arc<dyn Authenticator>,
    pub(super) ladder: &'a Ladder,
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
        Self { hsm, query, authenticator, ladder, public_keys: RefCell::default() }
    }

    /// Does something in a session of a slot.
    pub(super) fn slot(
        &self,
        slot: &Slot,
        seen: &mut Seen,
        work: impl FnOnce(CK_SESSION_HANDLE, &mut Seen) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let limit = self.hsm.settings().max_sessions;
        let open = || slot.module().open_session(slot.id());
        let close = |session| slot.module().close_session(session);
        let session = slot.pool.take(limit, self.ladder.deadline(), open, close)?;
        let result = work(session, seen);
        match &result {
            Ok(()) => slot.pool.put(session),
            Err(trouble) => after_failure(slot, session, trouble, seen),
        }
        result
    }

    /// The login, and whether it was made now.
    pub(super) fn log_in(
        &self,
        slot: &Arc<Slot>,
        session: CK_SESSION_HANDLE,
        seen: &mut Seen,
    ) -> Result<(u64, bool), Trouble> {
        let (settings, deadline) = (self.hsm.settings(), self.ladder.patience());
        let login = slot.log_in(session, &**self.authenticator, settings, deadline)?;
        seen.login = Some((Arc::clone(slot), login.0));
        Ok(login)
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
    /// does not always say so: where nothing is found under an older one, or while things are being lost, it is made again.
    pub(super) fn find_private(
        &self,
        slot: &Arc<Slot>,
        session: CK_SESSION_HANDLE,
        login: (u64, bool),
        seen: &mut Seen,
    ) -> Result<(Vec<CK_OBJECT_HANDLE>, (u64, bool)), Trouble> {
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
        let (epoch, now) = login;
        if !found.is_empty() || now && seen.failures == 0 {
            return Ok((found, login));
        }
        slot.lose_login(epoch);
        let login = self.log_in(slot, session, seen)?;
        Ok((object::find(slot.module(), session, &mut template())?, login))
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
        session: CK_SESSION_HANDLE,
        class: ObjectClass,
        instance: u64,
        seen: &mut Seen,
        objects: &mut Vec<Object>,
    ) -> Result<(), Trouble> {
        let found = if class == ObjectClass::PrivateKey {
            let login = self.log_in(slot, session, seen)?;
            self.find_private(slot, session, login, seen)?.0
        } else {
            self.find_public(slot, session, class, seen)?
        };
        let login = slot.login_epoch();
        for handle in found {
            let number = if class == ObjectClass::Certificate { CKO_CERTIFICATE } else { CKO_PRIVATE_KEY };
            let mut attributes = object::read(slot.module(), session, handle, number)?;
            let (public, proven) = match &attributes.public {
                None if class == ObjectClass::PrivateKey => {
                    self.public_half(slot, session, handle, &attributes)?.unzip()
                }
                public => (public.clone(), Some(true)),
            };
            attributes.public = public;
            let binding = Binding::new(slot, handle, instance, login, proven.unwrap_or(false));
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
        login: u64,
    ) -> Result<Object, Trouble> {
        let mut attributes = object::read(slot.module(), session, private, CKO_PRIVATE_KEY)?;
        if attributes.public.is_none() {
            attributes.public = object::read(slot.module(), session, public, CKO_PUBLIC_KEY)?.public;
        }
        let binding = Binding::new(slot, private, instance, Some(login), true);
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
        if !found.is_empty() || behaviour == LoginBehaviour::Never || slot.login_epoch().is_some() {
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
