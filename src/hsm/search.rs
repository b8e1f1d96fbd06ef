//! Finding things: in which slots, and what is rebuilt and tried again where something is lost on the way. What is done in one of the slots
//! is a [`Visit`].

use std::sync::Arc;

use super::pair::Elliptic;
use super::private_key::Binding;
use super::reach::Reach;
use super::recover::{Ladder, Rung, Trouble};
use super::rv::Failed;
use super::slot::Slot;
use super::visit::{Visit, address};
use super::{Authenticator, Hsm, Object, ObjectClass, Query};
use crate::error::{Error, Reason, Result};

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
