//! The language of the control file: what goes wrong, in which functions, how often. README.md describes it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use cryptoki_sys::*;

use crate::{
    entry::Function,
    shared::{Shared, hash},
    source,
};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The call returns a code.
    Error,
    SessionLost,
    LoginLost,
    HandlesChanged,
    /// Another token is in the slot.
    TokenChanged,
    /// The library forgets that it was initialised.
    NotInitialized,
    Throttled,
    KeyUnavailable,
    /// C_Initialize finds no configuration.
    NotConfigured,
    /// The call stays inside for `ms`.
    Block,
    /// Any of `kinds`.
    Mixed,
    /// Nothing works for `ms`, and afterwards everything has to be set up again. Never bound to a call.
    AllLost,
}

use Kind::*;

/// How often a fault happens; calls are counted over all processes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Often {
    Always,
    Times(u64),
    Every(u64),
    Percent { percent: f64, seed: u64 },
}

/// One line of the control file.
#[derive(Debug)]
pub struct Fault {
    pub kind: Kind,
    pub code: CK_RV,
    pub duration: Duration,
    /// The index of the slot that it befalls; `None`: all.
    pub slot: Option<usize>,
    /// The HSM does what was asked, and the answer is lost.
    pub after: bool,
    /// The operation that the call belongs to is not over.
    pub begun: bool,
    /// Not at a call but to every process, as soon as it looks.
    pub now: bool,
    /// A `now` fault comes again so often.
    pub period: Option<Duration>,
    /// How often a `now` fault was applied in this process.
    pub applied: AtomicU64,
    functions: Vec<Function>,
    often: Often,
    kinds: Vec<(Kind, CK_RV)>,
    key: u64,
}

impl Fault {
    /// Does it happen to this call?
    pub fn strikes(&self, function: Function, slot: Option<usize>, shared: &Shared) -> Option<(Kind, CK_RV)> {
        if self.now || !self.functions.contains(&function) {
            return None;
        }
        if self.slot.is_some() && slot.is_some() && slot != self.slot {
            return None;
        }
        let number =
            if self.often == Often::Always && self.kind != Mixed { 1 } else { shared.ticket(self.key) };
        let strikes = match self.often {
            Often::Always => true,
            Often::Times(times) => number <= times,
            Often::Every(every) => number % every == 0,
            Often::Percent { percent, seed } => {
                (hash((seed, number)) % 1_000_000) as f64 / 10_000.0 < percent
            }
        };
        if !strikes {
            None
        } else if self.kind == Mixed {
            let seed = if let Often::Percent { seed, .. } = self.often { seed } else { 0 };
            Some(self.kinds[hash((seed, number, "kind")) as usize % self.kinds.len()])
        } else {
            Some((self.kind, self.code))
        }
    }
}

/// Reads a control file. `epoch` tells this version of the file from all others.
pub fn parse(text: &str, epoch: u64, is_request: &[bool]) -> Result<Vec<Fault>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| parse_line(line, hash((epoch, number)), is_request)).collect()
}

fn parse_line(line: &str, key: u64, is_request: &[bool]) -> Result<Fault, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let (kind, code) = kind(name).ok_or_else(|| format!("control: {line}: no such fault"))?;
    let requests =
        || Function::ALL.iter().copied().filter(|function| is_request[*function as usize]).collect();
    let mut fault = Fault {
        kind,
        code,
        duration: Duration::from_secs(30),
        slot: None,
        after: false,
        begun: false,
        now: kind == AllLost,
        period: None,
        applied: AtomicU64::new(0),
        functions: match kind {
            NotConfigured => vec![Function::C_Initialize],
            KeyUnavailable => vec![Function::C_SignInit, Function::C_DecryptInit],
            Block => vec![Function::C_Sign],
            Throttled => vec![Function::C_Sign, Function::C_SignInit, Function::C_Decrypt],
            _ => requests(),
        },
        often: Often::Times(1),
        kinds: MIXED.to_vec(),
        key,
    };
    let mut seed = 0;
    for word in words {
        let wrong = || format!("control: {line}: {word}");
        let (option, value) = word.split_once('=').unwrap_or((word, ""));
        let count = || source::number(value).filter(|number| *number > 0).ok_or_else(wrong);
        match option {
            "on" if value == "*" => fault.functions = Function::ALL.to_vec(),
            "on" => {
                let functions = value.split(',').map(source::function).collect::<Option<Vec<_>>>();
                fault.functions = functions.ok_or_else(wrong)?;
            }
            "once" => fault.often = Often::Times(1),
            "times" => fault.often = Often::Times(count()?),
            "every" => fault.often = Often::Every(count()?),
            "until-cleared" => fault.often = Often::Always,
            "percent" => {
                fault.often = Often::Percent { percent: value.parse().map_err(|_| wrong())?, seed: 0 }
            }
            "seed" => seed = source::number(value).ok_or_else(wrong)?,
            "code" => fault.code = source::number(value).ok_or_else(wrong)?,
            "ms" => fault.duration = source::duration(value).ok_or_else(wrong)?,
            "period" => {
                fault.period = Some(source::duration(value).filter(|p| !p.is_zero()).ok_or_else(wrong)?)
            }
            "slot" => fault.slot = Some(count()? as usize - 1),
            "after" => fault.after = true,
            "begun" => fault.begun = true,
            "now" => fault.now = true,
            "kinds" => {
                let kinds = value.split(',').map(self::kind).collect::<Option<Vec<_>>>();
                fault.kinds = kinds.filter(|kinds| !kinds.is_empty()).ok_or_else(wrong)?;
            }
            _ => return Err(wrong()),
        }
    }
    if let Often::Percent { seed: own, .. } = &mut fault.often {
        *own = seed;
    }
    Ok(fault)
}

fn kind(name: &str) -> Option<(Kind, CK_RV)> {
    let entry = KINDS.iter().find(|(known, ..)| *known == name);
    entry.map(|(_, kind, code)| (*kind, *code))
}

/// Names, and the codes that go with them. A code of 0 is chosen when it happens.
const KINDS: &[(&str, Kind, CK_RV)] = &[
    ("error", Error, CKR_GENERAL_ERROR),
    ("general-error", Error, CKR_GENERAL_ERROR),
    ("function-failed", Error, CKR_FUNCTION_FAILED),
    ("device-error", Error, CKR_DEVICE_ERROR),
    ("device-memory", Error, CKR_DEVICE_MEMORY),
    ("device-removed", Error, CKR_DEVICE_REMOVED),
    ("hsm-replaced", Error, CKR_DEVICE_ERROR),
    ("session-lost", SessionLost, CKR_SESSION_HANDLE_INVALID),
    ("login-lost", LoginLost, CKR_USER_NOT_LOGGED_IN),
    ("handles-changed", HandlesChanged, 0),
    ("token-changed", TokenChanged, CKR_DEVICE_REMOVED),
    ("not-initialized", NotInitialized, CKR_CRYPTOKI_NOT_INITIALIZED),
    ("throttled", Throttled, 0),
    ("key-unavailable", KeyUnavailable, 0),
    ("not-configured", NotConfigured, CKR_GENERAL_ERROR),
    ("block", Block, CKR_OK),
    ("mixed", Mixed, 0),
    ("all-lost", AllLost, CKR_DEVICE_ERROR),
];

/// The names of all faults.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, ..)| *name)
}

/// What `mixed` draws from without `kinds=`.
const MIXED: &[(Kind, CK_RV)] = &[
    (Error, CKR_FUNCTION_FAILED),
    (Error, CKR_DEVICE_ERROR),
    (Error, CKR_DEVICE_REMOVED),
    (Error, CKR_DEVICE_MEMORY),
    (Error, CKR_GENERAL_ERROR),
    (SessionLost, CKR_SESSION_HANDLE_INVALID),
    (LoginLost, CKR_USER_NOT_LOGGED_IN),
    (HandlesChanged, 0),
    (NotInitialized, CKR_CRYPTOKI_NOT_INITIALIZED),
    (Throttled, 0),
];

impl Fault {
    /// For `now` faults: how often it should have been applied `age` after the file was written, and whether that moment's
    /// window is open.
    pub fn due(&self, age: Duration) -> (u64, bool) {
        let (count, into) = match self.period {
            Some(period) => (
                (age.as_nanos() / period.as_nanos()) as u64 + 1,
                Duration::from_nanos((age.as_nanos() % period.as_nanos()) as u64),
            ),
            None => (1, age),
        };
        (count, self.kind == AllLost && into < self.duration)
    }

    /// Notes that it was applied `count` times; true for the one thread that has to do it.
    pub fn take(&self, count: u64) -> bool {
        self.applied.fetch_max(count, Relaxed) < count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::is_request;

    fn parse_all(text: &str) -> Result<Vec<Fault>, String> {
        let requests: Vec<bool> = Function::ALL.iter().map(|function| is_request(*function)).collect();
        parse(text, 1, &requests)
    }

    #[test]
    fn five_percent_with_a_seed_strike_the_same_calls_each_time() {
        let strikes = |epoch| {
            let shared = Shared::open(None);
            let requests = vec![true; Function::ALL.len()];
            let faults = parse("mixed on=C_Sign percent=5 seed=3", epoch, &requests).expect("parsed");
            let struck: Vec<_> = (0..2000)
                .filter_map(|call| {
                    faults[0].strikes(Function::C_Sign, Some(0), &shared).map(|what| (call, what))
                })
                .collect();
            struck
        };
        assert_eq!(strikes(1), strikes(2));
        assert!((60..140).contains(&strikes(1).len()), "{}", strikes(1).len());
        let kinds = strikes(1).into_iter().map(|(_, (kind, code))| format!("{kind:?} {code}"));
        assert_eq!(kinds.collect::<std::collections::BTreeSet<_>>().len(), MIXED.len());
    }

    #[test]
    fn every_and_times_count_matching_calls_only() {
        let shared = Shared::open(None);
        let faults =
            parse_all("device-error on=C_Sign every=3\nerror on=C_Login times=2 code=0x6").expect("parsed");
        let signs: Vec<bool> =
            (0..6).map(|_| faults[0].strikes(Function::C_Sign, Some(0), &shared).is_some()).collect();
        assert_eq!(signs, [false, false, true, false, false, true]);
        assert_eq!(faults[0].strikes(Function::C_SignInit, Some(0), &shared), None);
        let logins: Vec<_> = (0..3).map(|_| faults[1].strikes(Function::C_Login, Some(0), &shared)).collect();
        assert_eq!(logins, [Some((Error, 6)), Some((Error, 6)), None]);
    }

    #[test]
    fn a_fault_of_one_slot_leaves_the_other_alone() {
        let shared = Shared::open(None);
        let faults = parse_all("device-error slot=2 until-cleared").expect("parsed");
        assert_eq!(faults[0].strikes(Function::C_Sign, Some(0), &shared), None);
        assert!(faults[0].strikes(Function::C_Sign, Some(1), &shared).is_some());
    }

    #[test]
    fn a_misspelt_line_is_an_error() {
        for line in ["sesion-lost", "error on=C_Sing", "error every=0", "error maybe", "all-lost ms=soon"] {
            assert!(parse_all(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_periodic_loss_has_a_window_in_each_period() {
        let faults = parse_all("all-lost ms=200 period=1s").expect("parsed");
        let due = |ms| faults[0].due(Duration::from_millis(ms));
        assert_eq!(
            [due(0), due(199), due(200), due(999), due(1000), due(2300)],
            [(1, true), (1, true), (1, false), (1, false), (2, true), (3, false)]
        );
    }
}
