//! What a failed call means, and what to rebuild before it is repeated.
//!
//! Recovery is a ladder. The return value says at which rung to start; what does not help is followed by the next rung. The budget is
//! time: a signature that the HSM could still make is made as long as it lasts.

use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::rv::Failed;
use crate::error::{Error, Reason};

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Repeating it would not help.
    Permanent(Error),
    /// Nor here, after a call that says what becomes of the session.
    Unclear(Failed, Error),
    /// A call failed that may succeed yet.
    Call(Failed),
    /// C_Initialize failed. `ever` says whether it has ever succeeded: a client that starts together with many others may be refused for a
    /// while, but one that was never configured is not worth a long wait.
    Unreachable { failed: Failed, ever: bool },
    /// C_Decrypt failed with a code that says either that the padding is bad or that the HSM has a trouble. Nothing is rebuilt for it: a
    /// bad ciphertext that somebody sends must not take down what others use.
    Doubtful(Failed),
    /// The data cannot be decrypted, as far as can be told.
    Undecryptable(Failed),
    /// All calls succeeded, but meanwhile the key's handle may have become another key's.
    Overtaken,
}

impl Trouble {
    /// The error for whoever does not try again.
    pub(super) fn error(self) -> Error {
        match self {
            Trouble::Permanent(error) | Trouble::Unclear(_, error) => error,
            Trouble::Overtaken => Reason::HsmUnavailable.into(),
            Trouble::Undecryptable(_) => Reason::Decryption.into(),
            Trouble::Call(failed) | Trouble::Doubtful(failed) | Trouble::Unreachable { failed, .. } => {
                failed.error()
            }
        }
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Trouble::Call(failed)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Permanent(error)
    }
}

/// How much is rebuilt before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rung {
    /// Another session.
    Session,
    /// The key is found again.
    Find,
    /// The user is logged in again, and the key is found again.
    Login,
    /// The module is initialised again, and all the rest.
    Initialise,
}

impl Rung {
    fn next(self) -> Self {
        match self {
            Rung::Session => Rung::Find,
            Rung::Find => Rung::Login,
            Rung::Login | Rung::Initialise => Rung::Initialise,
        }
    }
}

/// What a return value calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It is repeated from this rung, and climbs where that does not help.
    Lost(Rung),
    /// The HSM has too much to do: nothing is rebuilt.
    Busy,
    /// It will not change.
    Permanent,
}

fn meaning(rv: CK_RV) -> Meaning {
    match rv {
        // CloudHSM's ways to say that it is busy: SDK 5 and SDK 3.
        CKR_FUNCTION_FAILED | CKR_OPERATION_ACTIVE => Meaning::Busy,
        CKR_SESSION_HANDLE_INVALID
        | CKR_SESSION_CLOSED
        | CKR_SESSION_COUNT
        | CKR_OPERATION_NOT_INITIALIZED
        | CKR_FUNCTION_CANCELED => Meaning::Lost(Rung::Session),
        CKR_KEY_HANDLE_INVALID | CKR_OBJECT_HANDLE_INVALID => Meaning::Lost(Rung::Find),
        CKR_USER_NOT_LOGGED_IN => Meaning::Lost(Rung::Login),
        CKR_CRYPTOKI_NOT_INITIALIZED => Meaning::Lost(Rung::Initialise),
        CKR_DEVICE_ERROR
        | CKR_DEVICE_MEMORY
        | CKR_DEVICE_REMOVED
        | CKR_TOKEN_NOT_PRESENT
        | CKR_TOKEN_NOT_RECOGNIZED
        | CKR_GENERAL_ERROR
        | CKR_HOST_MEMORY
        | CKR_SLOT_ID_INVALID => Meaning::Lost(Rung::Session),
        _ => Meaning::Permanent,
    }
}

/// What becomes of a session after a call in it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is as good as before: it was the key, the login or the mechanism that was refused, and nothing was begun.
    Keep,
    /// What was begun has ended with an answer about the data, the key or the login, as the standard has it (PKCS#11 v2.40 sections 5.9 and
    /// 5.11).
    Ended,
    /// The module does not know it any more.
    Dead,
    /// It is closed: what was begun in it is not known, and a CloudHSM signs nonsense in a session whose calls are out of order.
    Close,
}

pub(super) fn session_fate(failed: Failed) -> Fate {
    let ends = matches!(failed.function, "C_Sign" | "C_Decrypt");
    match failed.rv {
        CKR_SESSION_HANDLE_INVALID | CKR_SESSION_CLOSED | CKR_CRYPTOKI_NOT_INITIALIZED => Fate::Dead,
        _ if matches!(failed.function, "C_FindObjects" | "C_FindObjectsFinal") => Fate::Close,
        CKR_KEY_HANDLE_INVALID | CKR_OBJECT_HANDLE_INVALID | CKR_USER_NOT_LOGGED_IN if !ends => Fate::Keep,
        CKR_MECHANISM_INVALID
        | CKR_MECHANISM_PARAM_INVALID
        | CKR_KEY_FUNCTION_NOT_PERMITTED
        | CKR_KEY_TYPE_INCONSISTENT
        | CKR_KEY_SIZE_RANGE
            if matches!(failed.function, "C_SignInit" | "C_DecryptInit" | "C_DeriveKey") =>
        {
            Fate::Keep
        }
        CKR_KEY_HANDLE_INVALID
        | CKR_OBJECT_HANDLE_INVALID
        | CKR_USER_NOT_LOGGED_IN
        | CKR_KEY_FUNCTION_NOT_PERMITTED
        | CKR_KEY_TYPE_INCONSISTENT
        | CKR_MECHANISM_INVALID
        | CKR_DATA_INVALID
        | CKR_DATA_LEN_RANGE
        | CKR_ENCRYPTED_DATA_INVALID
        | CKR_ENCRYPTED_DATA_LEN_RANGE
            if ends =>
        {
            Fate::Ended
        }
        _ => Fate::Close,
    }
}

/// The attempts at one operation.
pub(super) struct Ladder {
    budget: Duration,
    begun: Instant,
    deadline: Instant,
    rung: Option<Rung>,
    tries: u32,
    /// How often it was overtaken after its time.
    late: u32,
    random: u64,
}

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// How long a module that has never been initialised is given.
const FIRST_CONTACT: Duration = Duration::from_secs(4);
/// How often what was overtaken is made again after its time.
const MOST_LATE: u32 = 3;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

impl Ladder {
    /// An operation that begins now and may take this long to recover.
    pub(super) fn new(budget: Duration) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(budget).unwrap_or(now);
        Self { budget, begun: now, deadline, rung: None, tries: 0, late: 0, random: 0 }
    }

    /// When to give up.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long it has taken so far.
    pub(super) fn time(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How long to wait for another thread that is at work for all, which is no failure: where nothing is to be repeated too.
    pub(super) fn patience(&self) -> Instant {
        self.deadline.max(self.begun + FIRST_CONTACT)
    }

    /// After a failure: what to rebuild before the next attempt, once it is time for it.
    ///
    /// # Errors
    /// The failure's own where it is permanent; `HsmUnavailable` with the last call where the time is over.
    pub(super) fn climb(&mut self, trouble: Trouble) -> Result<Rung, Error> {
        let never = matches!(trouble, Trouble::Unreachable { ever: false, .. });
        let doubtful = matches!(trouble, Trouble::Doubtful(_));
        let (failed, meaning, deadline) = match trouble {
            Trouble::Permanent(error) | Trouble::Unclear(_, error) => return Err(error),
            Trouble::Overtaken => return self.overtaken(),
            // One error for whatever the HSM said: which it was is nobody's business who sent the data.
            Trouble::Undecryptable(_) => return Err(Reason::Decryption.into()),
            Trouble::Call(failed) => (failed, meaning(failed.rv), self.deadline),
            Trouble::Doubtful(failed) => (failed, Meaning::Busy, self.deadline),
            Trouble::Unreachable { failed, ever: true } => (failed, Meaning::Busy, self.deadline),
            Trouble::Unreachable { failed, ever: false } => {
                (failed, Meaning::Busy, self.deadline.min(self.begun + FIRST_CONTACT))
            }
        };
        let rung = match meaning {
            Meaning::Permanent => return Err(failed.error()),
            Meaning::Busy => Rung::Session,
            Meaning::Lost(start) => {
                let rung = match self.rung {
                    Some(last) if last >= start => last.next(),
                    _ => start,
                };
                self.rung = Some(rung);
                rung
            }
        };
        let pause = self.pause(meaning == Meaning::Busy);
        if Instant::now() + pause >= deadline {
            if never {
                return Err(failed.error());
            }
            if doubtful {
                return Err(Reason::Decryption.into());
            }
            return Err(self.given_up().with_call(failed.call()));
        }
        if self.tries == 2 {
            log::warn!("{}; recovering", Error::from(Reason::HsmCall).with_call(failed.call()));
        }
        std::thread::sleep(pause);
        Ok(rung)
    }

    /// After a success that may be another key's. Nothing has failed, so it is made again after its time too, and where nothing is to be
    /// repeated; but not for ever.
    fn overtaken(&mut self) -> Result<Rung, Error> {
        let now = Instant::now();
        if now >= self.deadline {
            if self.late == MOST_LATE {
                return Err(self.given_up());
            }
            self.late += 1;
            // The key has to be found again, which another thread may be about.
            self.begun = now;
        }
        Ok(Rung::Find)
    }

    fn given_up(&self) -> Error {
        let detail = format!("given up after {} s (hsmkey-retry-time)", self.budget.as_secs_f32());
        Error::new(Reason::HsmUnavailable, detail)
    }

    /// The next pause: none before the first repetition of what was lost, then longer and longer, and never the same for two
    /// callers.
    fn pause(&mut self, busy: bool) -> Duration {
        self.tries += 1;
        let doublings = if busy { self.tries - 1 } else { self.tries.saturating_sub(2) };
        if !busy && self.tries == 1 {
            return Duration::ZERO;
        }
        let longest = FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE);
        longest / 2 + longest.mul_f64(self.random() / 2.0)
    }

    /// A number from 0 to 1. It only has to differ between threads and processes.
    fn random(&mut self) -> f64 {
        if self.random == 0 {
            let here = std::ptr::from_ref(self).addr() as u64;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            self.random = here ^ u64::from(now.subsec_nanos()) << 20 ^ u64::from(std::process::id()) | 1;
        }
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        f64::from(u32::try_from(self.random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn climb(ladder: &mut Ladder, rv: CK_RV) -> Result<Rung, Reason> {
        ladder.climb(Trouble::Call(Failed { function: "C_Sign", rv })).map_err(|error| error.reason())
    }

    #[test]
    fn each_loss_begins_at_its_rung_and_climbs() {
        let begin = |rv| climb(&mut Ladder::new(Duration::from_secs(10)), rv);
        assert_eq!(begin(CKR_SESSION_HANDLE_INVALID), Ok(Rung::Session));
        assert_eq!(begin(CKR_KEY_HANDLE_INVALID), Ok(Rung::Find));
        assert_eq!(begin(CKR_USER_NOT_LOGGED_IN), Ok(Rung::Login));
        assert_eq!(begin(CKR_CRYPTOKI_NOT_INITIALIZED), Ok(Rung::Initialise));
        let mut ladder = Ladder::new(Duration::from_secs(10));
        for rung in [Rung::Session, Rung::Find, Rung::Login, Rung::Initialise, Rung::Initialise] {
            assert_eq!(climb(&mut ladder, CKR_DEVICE_ERROR), Ok(rung));
        }
    }

    #[test]
    fn a_busy_hsm_is_waited_for_and_nothing_is_rebuilt() {
        let mut ladder = Ladder::new(Duration::from_secs(10));
        for _ in 0..5 {
            assert_eq!(climb(&mut ladder, CKR_FUNCTION_FAILED), Ok(Rung::Session));
        }
    }

    #[test]
    fn what_will_not_change_is_not_repeated() {
        for (rv, reason) in [
            (CKR_PIN_INCORRECT, Reason::PinRejected),
            (CKR_PIN_LOCKED, Reason::PinLocked),
            (CKR_MECHANISM_INVALID, Reason::MechanismUnsupported),
            (CKR_DATA_LEN_RANGE, Reason::DataLength),
            (CKR_ARGUMENTS_BAD, Reason::HsmCall),
            (CKR_KEY_FUNCTION_NOT_PERMITTED, Reason::KeyNotPermitted),
        ] {
            assert_eq!(climb(&mut Ladder::new(Duration::from_secs(10)), rv), Err(reason));
        }
    }

    #[test]
    fn for_what_may_be_a_bad_padding_nothing_is_rebuilt() {
        for rv in [CKR_GENERAL_ERROR, CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED] {
            let failed = Failed { function: "C_Decrypt", rv };
            let mut ladder = Ladder::new(Duration::from_secs(10));
            for _ in 0..3 {
                assert_eq!(ladder.climb(Trouble::Doubtful(failed)).unwrap(), Rung::Session);
            }
            let error = ladder.climb(Trouble::Undecryptable(failed)).unwrap_err();
            assert_eq!((error.reason(), error.call()), (Reason::Decryption, None));
            let none = Ladder::new(Duration::ZERO).climb(Trouble::Doubtful(failed)).unwrap_err();
            assert_eq!(none, error, "where nothing is repeated it is the same error");
        }
    }

    #[test]
    fn what_was_overtaken_is_made_again_a_few_times_where_nothing_else_is() {
        let mut ladder = Ladder::new(Duration::ZERO);
        for _ in 0..MOST_LATE {
            assert_eq!(ladder.climb(Trouble::Overtaken), Ok(Rung::Find));
        }
        assert_eq!(ladder.climb(Trouble::Overtaken).unwrap_err().reason(), Reason::HsmUnavailable);
    }

    #[test]
    fn the_budget_is_time() {
        let mut ladder = Ladder::new(Duration::from_millis(50));
        let begun = Instant::now();
        let reason = loop {
            if let Err(reason) = climb(&mut ladder, CKR_DEVICE_ERROR) {
                break reason;
            }
        };
        assert_eq!(reason, Reason::HsmUnavailable);
        assert!(begun.elapsed() < Duration::from_secs(2));
        let none = climb(&mut Ladder::new(Duration::ZERO), CKR_DEVICE_ERROR);
        assert_eq!(none, Err(Reason::HsmUnavailable));
    }
}
