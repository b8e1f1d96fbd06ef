//! What became of a PIN, for a process and all its children: a server with many workers has many processes that all log in with the PIN
//! of one configuration, and five that are wrong lock the user.
//!
//! One tries and the others wait for what comes of it; after an acceptance all log in side by side, for a moment. So it is with the first
//! login and with every later one: the password may have been changed in between. They share numbers in memory, never the PIN or a hash
//! of it: who knew the PIN before the fork has the same numbers after it, and so have those that read it later from the same state of
//! the same file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Credential, SourceStamp, fork};
use crate::chain::Chain;
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;

/// How long to wait for another's login, in milliseconds. Its process may have been killed, or the HSM may not answer.
const PATIENCE: u64 = 5000;
/// How long an acceptance lets all others log in without waiting for each other, in milliseconds.
const SIDE_BY_SIDE: u64 = 1000;
const POLL: Duration = Duration::from_millis(5);

/// In how many places (a slot of a module) a PIN's attempts are told apart. More share the last number.
const PLACES: usize = 4;

// A number: the state, when that was ([`fork::shared_time`]), and the place.
const STATE: u64 = 0b11;
const UNTRIED: u64 = 0;
const TRYING: u64 = 1;
const ACCEPTED: u64 = 2;
const REJECTED: u64 = 3;
const TIME_BITS: u32 = 40;
const TIME: u64 = (1 << TIME_BITS) - 1;
const TIME_SHIFT: u32 = 2;
const PLACE: u64 = !(TIME << TIME_SHIFT | STATE);

/// How old a number's state is, in milliseconds.
fn age(number: u64) -> u64 {
    fork::shared_time().wrapping_sub(number >> TIME_SHIFT) & TIME
}

/// A state of now.
fn now(place: u64, state: u64) -> u64 {
    place | (fork::shared_time() & TIME) << TIME_SHIFT | state
}

/// The PINs that this process knows, each with its numbers.
static KNOWN: Chain<Known> = Chain::new();

struct Known {
    pin: Arc<Pin>,
    numbers: &'static [AtomicU64],
}

/// Makes the memory that the children will share with this process and with each other.
pub(crate) fn begin() {
    fork::shared_numbers();
}

/// Gives a PIN its numbers, before the children are born that are to share it.
pub(crate) fn know(credential: &Credential) {
    numbers(credential);
}

/// Whether a PIN was rejected somewhere.
pub(crate) fn is_rejected(pin: &Pin) -> bool {
    let known = KNOWN.iter().find(|known| known.pin.same_as(pin));
    let is_rejected = |number: &AtomicU64| number.load(Ordering::Acquire) & STATE == REJECTED;
    known.is_some_and(|known| known.numbers.iter().any(is_rejected))
}

fn numbers(credential: &Credential) -> Option<&'static [AtomicU64]> {
    let Credential { pin, stamp } = credential;
    let make = || Some(Known { pin: Arc::clone(pin), numbers: take_numbers(stamp.as_ref())? });
    KNOWN.find_or_push(|known| known.pin.same_as(pin), make).map(|known| known.numbers)
}

/// Numbers: those that were given to this state of this file, by whichever process of the family; else some that nobody has.
fn take_numbers(stamp: Option<&SourceStamp>) -> Option<&'static [AtomicU64]> {
    /// Whose they are: nobody's, somebody's, or (odd) those of a file's state.
    const NOBODY: u64 = 0;
    const SOMEBODY: u64 = 2;
    let shared = fork::shared_numbers()?;
    let (owners, numbers) = shared.split_at(shared.len() / (1 + PLACES));
    let ours = stamp.map_or(SOMEBODY, |stamp| hash(stamp) | 1);
    owners.iter().zip(numbers.chunks_exact(PLACES)).find_map(|(owner, numbers)| {
        match owner.compare_exchange(NOBODY, ours, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(numbers),
            Err(owner) => (owner == ours && ours != SOMEBODY).then_some(numbers),
        }
    })
}

/// The number of a place: the one that it has, else the next that no place has, else the last.
fn number_of(place: u64, numbers: &'static [AtomicU64]) -> Option<&'static AtomicU64> {
    let (last, numbers) = numbers.split_last()?;
    let its = |number: &&AtomicU64| match number.compare_exchange(
        0,
        place | UNTRIED,
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        Ok(_) => true,
        Err(value) => value & PLACE == place,
    };
    numbers.iter().find(its).or(Some(last))
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
    /// What the number says as long as it is this attempt's turn; `None` for one of many side by side.
    turn: Option<u64>,
}

/// Waits its turn to try a PIN on a slot of a module.
///
/// # Errors
/// `PinRejected` where another process of the family was told so; `HsmUnavailable` where another attempt has not come back by the
/// deadline.
pub(super) fn attempt(credential: &Credential, place: impl Hash, deadline: Instant) -> Result<Attempt> {
    // A place is never 0: that is a number without one.
    let place = hash(place) & PLACE | (PLACE & PLACE.wrapping_neg());
    let number = numbers(credential).and_then(|numbers| number_of(place, numbers));
    let Some(word) = number else { return Ok(Attempt { number, place, turn: None }) };
    loop {
        let value = word.load(Ordering::Acquire);
        let here = value & PLACE == place;
        match value & STATE {
            REJECTED if here => {
                let detail = "another process of this application was told so; it is not tried again before it is changed";
                return Err(Error::new(Reason::PinRejected, detail));
            }
            ACCEPTED if here && age(value) < SIDE_BY_SIDE => {
                return Ok(Attempt { number, place, turn: None });
            }
            TRYING if here && age(value) < PATIENCE => {
                if Instant::now() >= deadline {
                    let detail = "another process or thread is still waiting for C_Login";
                    return Err(Error::new(Reason::HsmUnavailable, detail));
                }
                std::thread::sleep(POLL);
            }
            // Of those who have waited for long enough one goes on: for the others the number is another one by then.
            _ => {
                let turn = now(place, TRYING);
                if word.compare_exchange(value, turn, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return Ok(Attempt { number, place, turn: Some(turn) });
                }
            }
        }
    }
}

impl Attempt {
    /// The PIN is right.
    pub(super) fn accepted(mut self) {
        self.turn = None;
        let is_rejected = |value: u64| value & PLACE == self.place && value & STATE == REJECTED;
        if let Some(number) = self.number {
            // A rejection stands: the password was changed between the two.
            let _ = number.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
                (!is_rejected(value)).then(|| now(self.place, ACCEPTED))
            });
        }
    }

    /// The PIN is wrong.
    pub(super) fn rejected(mut self) {
        self.turn = None;
        if let Some(number) = self.number {
            number.store(now(self.place, REJECTED), Ordering::Release);
        }
    }
}

impl Drop for Attempt {
    /// It came to nothing: the next one may try.
    fn drop(&mut self) {
        if let (Some(turn), Some(number)) = (self.turn, self.number) {
            // Where the number says something else by now, that stands.
            let untried = self.place | UNTRIED;
            let _ = number.compare_exchange(turn, untried, Ordering::AcqRel, Ordering::Acquire);
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

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// The number of a PIN in its only place.
    fn number(credential: &Credential) -> &'static AtomicU64 {
        &numbers(credential).unwrap()[0]
    }

    /// As if what the number says were older.
    fn grow_older(number: &AtomicU64, milliseconds: u64) {
        let value = number.load(Ordering::SeqCst);
        let time = (value >> TIME_SHIFT).wrapping_sub(milliseconds) & TIME;
        number.store(value & !(TIME << TIME_SHIFT) | time << TIME_SHIFT, Ordering::SeqCst);
    }

    /// How many of eight threads try; the others are told what the first one hears.
    fn tried(pin: &Credential, decide: impl Fn(Attempt) + Sync) -> usize {
        let tried = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    if let Ok(attempt) = attempt(pin, 1, soon()) {
                        tried.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(30));
                        decide(attempt);
                    }
                });
            }
        });
        tried.into_inner()
    }

    #[test]
    fn processes_that_read_a_file_for_themselves_have_one_number_for_it() {
        let stamp = |changed: &str| SourceStamp { source: "/etc/pin".into(), changed: changed.into() };
        let first = take_numbers(Some(&stamp("1"))).unwrap();
        assert!(std::ptr::eq(first, take_numbers(Some(&stamp("1"))).unwrap()));
        assert!(!std::ptr::eq(first, take_numbers(Some(&stamp("2"))).unwrap()));
        assert!(!std::ptr::eq(take_numbers(None).unwrap(), take_numbers(None).unwrap()));
    }

    #[test]
    fn a_rejected_pin_is_rejected_for_all_and_on_its_slot_only() {
        let wrong = pin("family:wrong");
        assert!(!is_rejected(&wrong.pin));
        attempt(&wrong, 1, soon()).unwrap().rejected();
        let again = || attempt(&pin("family:wrong"), 1, soon()).err().map(|error| error.reason());
        assert_eq!(again(), Some(Reason::PinRejected));
        assert!(attempt(&pin("family:another"), 1, soon()).is_ok());
        // What other slots say of it changes nothing.
        attempt(&wrong, 2, soon()).unwrap().accepted();
        assert_eq!(again(), Some(Reason::PinRejected));
        assert!(is_rejected(&wrong.pin));
    }

    #[test]
    fn one_tries_and_the_others_wait_for_what_comes_of_it() {
        assert_eq!(tried(&pin("family:tried"), Attempt::rejected), 1);
    }

    #[test]
    fn after_an_acceptance_all_go_on_and_later_one_tries_again() {
        let pin = pin("family:accepted");
        assert_eq!(tried(&pin, Attempt::accepted), 8);
        grow_older(number(&pin), SIDE_BY_SIDE);
        assert_eq!(tried(&pin, Attempt::rejected), 1);
    }

    #[test]
    fn whoever_was_accepted_before_another_was_rejected_does_not_undo_it() {
        let pin = pin("family:changed");
        attempt(&pin, 1, soon()).unwrap().accepted();
        let [early, late] = [(); 2].map(|()| attempt(&pin, 1, soon()).unwrap());
        late.rejected();
        early.accepted();
        assert!(attempt(&pin, 1, soon()).is_err());
    }

    #[test]
    fn for_one_who_does_not_come_back_one_other_goes_on() {
        let pin = pin("family:gone");
        let gone = attempt(&pin, 1, soon()).unwrap();
        assert!(
            attempt(&pin, 1, Instant::now()).is_err_and(|error| error.reason() == Reason::HsmUnavailable)
        );
        grow_older(number(&pin), PATIENCE);
        assert_eq!(tried(&pin, Attempt::rejected), 1);
        // What it brings at last is nobody's turn.
        drop(gone);
        assert!(attempt(&pin, 1, soon()).is_err());
    }

    #[test]
    fn an_attempt_that_came_to_nothing_lets_the_next_one_try() {
        let pin = pin("family:nothing");
        drop(attempt(&pin, 1, soon()).unwrap());
        let begun = Instant::now();
        attempt(&pin, 1, soon()).unwrap().accepted();
        assert!(begun.elapsed() < Duration::from_millis(PATIENCE));
    }

    #[test]
    fn more_places_than_numbers_share_the_last() {
        let pin = pin("family:places");
        for place in 0..2 * PLACES {
            attempt(&pin, place, soon()).unwrap().rejected();
        }
        for place in [0, 2 * PLACES - 1] {
            assert!(attempt(&pin, place, soon()).is_err());
        }
    }
}
