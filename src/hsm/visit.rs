//! What is done in a slot to find things there: one login, one search, and one request for each object.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use cryptoki_sys::*;

use super::held::Held;
use super::object::{self, Attributes, Template};
use super::pair::Elliptic;
use super::private_key::Binding;
use super::reach;
use super::recover::{Ladder, Trouble};
use super::search::Seen;
use super::slot::{Client, Slot};
use super::{Authenticator, Hsm, Object, ObjectClass, Query};
use crate::config::LoginBehaviour;
use crate::error::{Error, Reason};
use crate::public::PublicKey;
use crate::uri::{TokenAttributes, Uri};

/// A search in one slot.
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
    pub(super) fn find_by_reading(
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
    pub(super) fn ambiguous(
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
    pub(super) fn class(
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
