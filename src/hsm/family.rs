//! What became of a PIN, for a process and all its children: a server with many workers has many processes that all log in with the PIN
//! of one configuration, and five that are wrong lock the user.
//!
//! The first to try a PIN is waited for by the others, for a moment. They share numbers in memory, never the PIN or a hash of it: who
//! knew the PIN before the fork has the same number after it, and so have those that read it later from the same state of the same
//! file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;

use super::{Credential, SourceStamp, fork};
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;

/// How long to wait for another process's login. It may have been killed.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// The state in the lower bits of a number; the upper ones say where it was tried.
const STATE: u64 = 0b11;
const UNTRIED: u64 = 0;
const TRYING: u64 = 1;
const ACCEPTED: u64 = 2;
const REJECTED: u64 = 3;

/// The PINs that this process knows, each with its number. The list only grows, without a lock that a child could inherit.
static KNOWN: OnceBox<Known> = OnceBox::new();

struct Known {
    pin: Arc<Pin>,
    number: &'static AtomicU64,
    next: OnceBox<Known>,
}

/// Gives a PIN its number, before the children are born that are to share it.
pub(crate) fn know(credential: &Credential) {
    number(credential);
}

fn number(credential: &Credential) -> Option<&'static AtomicU64> {
    let Credential { pin, stamp } = credential;
    let mut place = &KNOWN;
    let mut fresh = None;
    loop {
        match place.get() {
            Some(known) if known.pin.same_as(pin) => return Some(known.number),
            Some(known) => place = &known.next,
            None => {
                let entry = match fresh.take() {
                    Some(entry) => entry,
                    None => {
                        let number = take_number(stamp.as_ref())?;
                        Box::new(Known { pin: Arc::clone(pin), number, next: OnceBox::new() })
                    }
                };
                let number = entry.number;
                match place.set(entry) {
                    Ok(()) => return Some(number),
                    // Another thread was faster; it may have brought the same PIN.
                    Err(back) => fresh = Some(back),
                }
            }
        }
    }
}

/// A number: the one that was given to this state of this file, by whichever process of the family; else one that nobody has.
fn take_number(stamp: Option<&SourceStamp>) -> Option<&'static AtomicU64> {
    /// Whose number it is: nobody's, somebody's, or (odd) that of a file's state.
    const NOBODY: u64 = 0;
    const SOMEBODY: u64 = 2;
    let shared = fork::shared_numbers()?;
    let (owners, numbers) = shared.split_at(shared.len() / 2);
    let ours = stamp.map_or(SOMEBODY, |stamp| hash(stamp) | 1);
    owners.iter().zip(numbers).find_map(|(owner, number)| {
        match owner.compare_exchange(NOBODY, ours, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(number),
            Err(owner) => (owner == ours && ours != SOMEBODY).then_some(number),
        }
    })
}

/// The same in all processes of a family.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A login that is about to be tried.
pub(super) struct Attempt {
    number: Option<&'static AtomicU64>,
    place: u64,
    decided: bool,
}

/// Waits its turn to try a PIN on a slot of a module.
///
/// # Errors
/// `PinRejected` where another process of the family was told so.
pub(super) fn attempt(credential: &Credential, place: impl Hash) -> Result<Attempt> {
    let place = hash(place) & !STATE;
    let number = number(credential);
    let until = Instant::now() + PATIENCE;
    while let Some(number) = number {
        let value = number.load(Ordering::Acquire);
        match value & STATE {
            REJECTED if value & !STATE == place => {
                let detail = "another process of this application was told so; it is not tried again before it is changed";
                return Err(Error::new(Reason::PinRejected, detail));
            }
            TRYING if value & !STATE == place && Instant::now() < until => std::thread::sleep(POLL),
            // Accepted, or about another slot: nobody has to wait.
            ACCEPTED | REJECTED => break,
            _ => {
                let trying = place | TRYING;
                if number.compare_exchange(value, trying, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    break;
                }
            }
        }
    }
    Ok(Attempt { number, place, decided: false })
}

impl Attempt {
    /// The PIN is right.
    pub(super) fn accepted(mut self) {
        self.decide(ACCEPTED);
    }

    /// The PIN is wrong.
    pub(super) fn rejected(mut self) {
        self.decide(REJECTED);
    }

    fn decide(&mut self, state: u64) {
        self.decided = true;
        if let Some(number) = self.number {
            number.store(self.place | state, Ordering::Release);
        }
    }
}

impl Drop for Attempt {
    /// It came to nothing: the next one may try.
    fn drop(&mut self) {
        if let (false, Some(number)) = (self.decided, self.number) {
            let trying = self.place | TRYING;
            // Where the number says something else by now, that stands.
            let _ = number.compare_exchange(trying, UNTRIED, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn pin(text: &str) -> Credential {
        Credential { pin: Arc::new(Pin::new(text.into())), stamp: None }
    }

    #[test]
    fn processes_that_read_a_file_for_themselves_have_one_number_for_it() {
        let stamp = |changed: &str| SourceStamp { source: "/etc/pin".into(), changed: changed.into() };
        let first = take_number(Some(&stamp("1"))).unwrap();
        assert!(std::ptr::eq(first, take_number(Some(&stamp("1"))).unwrap()));
        assert!(!std::ptr::eq(first, take_number(Some(&stamp("2"))).unwrap()));
        assert!(!std::ptr::eq(take_number(None).unwrap(), take_number(None).unwrap()));
    }

    #[test]
    fn a_rejected_pin_is_rejected_for_all_and_on_its_slot_only() {
        let wrong = pin("family:wrong");
        attempt(&wrong, 1).unwrap().rejected();
        assert_eq!(
            attempt(&pin("family:wrong"), 1).err().map(|error| error.reason()),
            Some(Reason::PinRejected)
        );
        assert!(attempt(&wrong, 2).is_ok());
        assert!(attempt(&pin("family:another"), 1).is_ok());
    }

    #[test]
    fn one_tries_and_the_others_wait_for_what_comes_of_it() {
        let (pin, tried) = (pin("family:tried"), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    if let Ok(attempt) = attempt(&pin, 1) {
                        tried.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(30));
                        attempt.rejected();
                    }
                });
            }
        });
        assert_eq!(tried.into_inner(), 1);
    }

    #[test]
    fn an_attempt_that_came_to_nothing_lets_the_next_one_try() {
        let pin = pin("family:nothing");
        drop(attempt(&pin, 1).unwrap());
        let begun = Instant::now();
        attempt(&pin, 1).unwrap().accepted();
        assert!(begun.elapsed() < PATIENCE);
    }
}
