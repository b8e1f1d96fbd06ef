//! What became of a PIN, for a process and all its children: a server with many workers has many processes that all log in with the PIN
//! of one configuration, and five that are wrong lock the user.
//!
//! One tries and the others wait for what comes of it; after an acceptance all log in side by side, for a moment. So it is with the first
//! login and with every later one: the password may have been changed in between. They share numbers in memory, never the PIN or a hash
//! of it: who knew the PIN before the fork has the same numbers after it, and so have those that read it later from the same state of
//! the same file.
//!
//! What a PIN without a file takes goes when the last process ends that could know it from there. What a state of a file takes stays, and so
//! does what a PIN takes in its fifth place and those that follow: where there is no room for it, as after a thousand states of files, a
//! process shares it with nobody but the children that it has afterwards.

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

/// So many numbers are taken at once, one for each place (a slot of a module) where the PIN is tried.
const GROUP: usize = 4;

// A number: the state, when that was ([`fork::shared_time`], which comes round in seven weeks), and the place. Two places of a PIN are taken
// for one where all bits agree, which happens to one of a thousand million pairs.
const STATE: u64 = 0b11;
const UNTRIED: u64 = 0;
const TRYING: u64 = 1;
const ACCEPTED: u64 = 2;
const REJECTED: u64 = 3;
const TIME_BITS: u32 = 32;
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
    /// What its numbers are found by, where others have them already.
    owner: u64,
    groups: Chain<Group>,
}

struct Group {
    position: usize,
    numbers: &'static [AtomicU64],
}

/// Makes the memory that the children will share with this process and with each other.
pub(crate) fn begin() {
    fork::shared_numbers();
}

/// Gives a PIN its numbers, before the children are born that are to share it.
pub(crate) fn know(credential: &Credential) {
    known(credential);
}

/// A number, 0, that this process shares with the children that it has afterwards.
pub(crate) fn number() -> &'static AtomicU64 {
    &fork::own_numbers(1)[0]
}

fn known(credential: &Credential) -> Option<&'static Known> {
    let make = || Some(Known::new(Arc::clone(&credential.pin), credential.stamp.as_ref()));
    KNOWN.find_or_push(|known| known.pin.same_as(&credential.pin), make)
}

impl Known {
    /// Its numbers are those that were given to this state of this file, by whichever process of the family; else some that nobody has.
    fn new(pin: Arc<Pin>, stamp: Option<&SourceStamp>) -> Self {
        let owner = match (stamp, fork::shared_numbers()) {
            (Some(stamp), _) => hash(stamp),
            (None, Some([nameless, ..])) => hash(nameless.fetch_add(1, Ordering::AcqRel)),
            (None, _) => 0,
        };
        let known = Self { pin, owner, groups: Chain::new() };
        let first = stamp.and_then(|_| known.family_group(0)).unwrap_or_else(|| fork::own_numbers(GROUP));
        known.groups.push(Group { position: 0, numbers: first });
        known
    }

    /// The number of a place: the one that it has, else the first that no place has.
    fn number(&self, place: u64) -> &'static AtomicU64 {
        let mut position = 0;
        loop {
            if let Some(number) = self.group(position).iter().find(|number| is_of(number, place)) {
                return number;
            }
            position += 1;
        }
    }

    fn group(&self, position: usize) -> &'static [AtomicU64] {
        loop {
            if let Some(group) = self.groups.iter().nth(position) {
                return group.numbers;
            }
            self.groups.follow(|last| {
                let position = last.map_or(0, |last| last.position + 1);
                let numbers = self.family_group(position).unwrap_or_else(|| fork::own_numbers(GROUP));
                Some(Group { position, numbers })
            });
        }
    }

    /// A group where every process of the family finds it.
    fn family_group(&self, position: usize) -> Option<&'static [AtomicU64]> {
        let (_, shared) = fork::shared_numbers()?.split_first()?;
        let (owners, numbers) = shared.split_at(shared.len() / (1 + GROUP));
        in_table(owners, numbers, hash((self.owner, position)))
    }
}

/// Whether a number is this place's, as it is from now on if it was no place's.
fn is_of(number: &AtomicU64, place: u64) -> bool {
    let taken = number.compare_exchange(0, place | UNTRIED, Ordering::AcqRel, Ordering::Acquire);
    taken.map_or_else(|value| value & PLACE == place, |_| true)
}

/// The numbers of an owner: those that he has, else some that nobody has.
fn in_table<'a>(owners: &[AtomicU64], numbers: &'a [AtomicU64], owner: u64) -> Option<&'a [AtomicU64]> {
    const NOBODY: u64 = 0;
    let owner = owner.max(1);
    let begin = usize::try_from(owner % owners.len() as u64).ok()?;
    let places = (begin..owners.len()).chain(0..begin);
    let its = |place: &usize| {
        let taken = owners[*place].compare_exchange(NOBODY, owner, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(owner)
    };
    let place = places.into_iter().find(its)?;
    numbers.chunks_exact(GROUP).nth(place)
}

/// The same in all processes of a family.
pub(super) fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A login that is about to be tried.
pub(super) struct Attempt {
    number: &'static AtomicU64,
    place: u64,
    /// What the number says as long as it is this attempt's turn; `None` for one of many side by side.
    turn: Option<u64>,
    waited: bool,
}

/// Waits its turn to try a PIN on a slot of a module.
///
/// # Errors
/// `PinRejected` where another process of the family was told so; `HsmUnavailable` where another attempt has not come back by the
/// deadline.
pub(super) fn attempt(credential: &Credential, place: impl Hash, deadline: Instant) -> Result<Attempt> {
    // A place is never 0: that is a number without one.
    let place = (hash(place) & PLACE).max(PLACE & PLACE.wrapping_neg());
    let Some(number) = known(credential).map(|known| known.number(place)) else {
        // Every PIN has numbers.
        return Err(Reason::HsmUnavailable.into());
    };
    let mut waited = false;
    loop {
        let value = number.load(Ordering::Acquire);
        match value & STATE {
            REJECTED => {
                let detail = "another process of this application was told so; it is not tried again before it is changed";
                return Err(Error::new(Reason::PinRejected, detail));
            }
            ACCEPTED if age(value) < SIDE_BY_SIDE => {
                return Ok(Attempt { number, place, turn: None, waited });
            }
            TRYING if age(value) < PATIENCE => {
                if Instant::now() >= deadline {
                    let detail = "another process or thread is still waiting for C_Login";
                    return Err(Error::new(Reason::HsmUnavailable, detail));
                }
                std::thread::sleep(POLL);
                waited = true;
            }
            // Of those who have waited for long enough one goes on: for the others the number is another one by then.
            _ => {
                let turn = now(place, TRYING);
                if number.compare_exchange(value, turn, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return Ok(Attempt { number, place, turn: Some(turn), waited });
                }
            }
        }
    }
}

impl Attempt {
    /// Whether another attempt was waited for: what was known before may have changed.
    pub(super) fn has_waited(&self) -> bool {
        self.waited
    }

    /// The PIN is right.
    pub(super) fn accepted(mut self) {
        self.turn = None;
        // A rejection stands: the password was changed between the two.
        let _ = self.number.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
            (value & STATE != REJECTED).then(|| now(self.place, ACCEPTED))
        });
    }

    /// The PIN is wrong.
    pub(super) fn rejected(mut self) {
        self.turn = None;
        self.number.store(now(self.place, REJECTED), Ordering::Release);
    }
}

impl Drop for Attempt {
    /// It came to nothing: the next one may try.
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            // Where the number says something else by now, that stands.
            let untried = self.place | UNTRIED;
            let _ = self.number.compare_exchange(turn, untried, Ordering::AcqRel, Ordering::Acquire);
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

    /// The number of a PIN in the place of most tests.
    fn number(credential: &Credential) -> &'static AtomicU64 {
        known(credential).unwrap().number(hash(1) & PLACE)
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
        // As another process makes it.
        let numbers = |stamp: Option<&SourceStamp>, place: u64| {
            std::ptr::from_ref(Known::new(Arc::new(Pin::new("family".into())), stamp).number(place << 40))
        };
        let many = 3 * GROUP as u64;
        for place in 1..many {
            assert_eq!(numbers(Some(&stamp("1")), place), numbers(Some(&stamp("1")), place), "{place}");
            assert_ne!(numbers(Some(&stamp("1")), place), numbers(Some(&stamp("2")), place));
            assert_ne!(numbers(Some(&stamp("1")), place), numbers(Some(&stamp("1")), many));
            assert_ne!(numbers(None, place), numbers(None, place));
        }
    }

    #[test]
    fn a_full_table_gives_what_it_has_given() {
        let table: Vec<AtomicU64> = (0..5 * GROUP).map(|_| AtomicU64::new(0)).collect();
        let (owners, numbers) = table.split_at(GROUP);
        let find = |owner| in_table(owners, numbers, owner).map(<[AtomicU64]>::as_ptr);
        // Some of them begin in one place.
        let owned = [7, 11, 3, 8].map(|owner| find(owner).unwrap());
        for (position, one) in owned.iter().enumerate() {
            assert!(!owned[..position].contains(one));
        }
        assert_eq!([7, 11, 3, 8].map(|owner| find(owner).unwrap()), owned);
        assert_eq!(find(12), None);
    }

    #[test]
    fn a_rejected_pin_is_rejected_for_all_and_on_its_slot_only() {
        let wrong = pin("family:wrong");
        attempt(&wrong, 1, soon()).unwrap().rejected();
        let again = || attempt(&pin("family:wrong"), 1, soon()).err().map(|error| error.reason());
        assert_eq!(again(), Some(Reason::PinRejected));
        assert!(attempt(&pin("family:another"), 1, soon()).is_ok());
        // What other slots say of it changes nothing.
        attempt(&wrong, 2, soon()).unwrap().accepted();
        assert_eq!(again(), Some(Reason::PinRejected));
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
    fn however_many_places_there_are_each_has_a_number_of_its_own() {
        let pin = pin("family:places");
        for place in 0..5 * GROUP {
            let attempt = attempt(&pin, place, soon()).unwrap();
            if place % 2 == 0 { attempt.rejected() } else { attempt.accepted() }
        }
        for place in 0..5 * GROUP {
            assert_eq!(attempt(&pin, place, soon()).is_err(), place % 2 == 0, "{place}");
        }
    }
}
