//! The environment, as secure_getenv(3) reads it: a process that runs with more rights than its caller takes nothing from it.
//!
//! OpenSSL treats OPENSSL_CONF the same way, so the errors say so for both.

use std::ffi::OsString;
use std::{fmt, fs, io};

use crate::error::{Error, Reason, Result};

/// A variable's value by its name.
type Read = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// The environment of the process.
pub struct Environment {
    privileged: bool,
    read: Box<Read>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self::new(privileged(), |name| std::env::var_os(name))
    }

    /// An environment that is read by a function.
    pub fn new(privileged: bool, read: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static) -> Self {
        Self { privileged, read: Box::new(read) }
    }

    /// A variable's value; `None` where it is not set, is empty, or must not be looked at.
    pub fn get(&self, name: &str) -> Option<OsString> {
        if self.privileged { None } else { self.set(name) }
    }

    /// The error to give where something is missing that one of these variables would have said, had the process been allowed to
    /// look; `None` where the environment has nothing to do with it.
    pub fn ignored(&self, names: &[&str]) -> Option<Error> {
        let name = names.iter().find(|name| self.privileged && self.set(name).is_some())?;
        let why = "the process has more rights than its caller (AT_SECURE), so no variable counts, OPENSSL_CONF included";
        Some(Error::new(
            Reason::EnvironmentIgnored,
            format!("{name} is set, but {why}; use a directive in the system's openssl.cnf"),
        ))
    }

    /// The first of these variables that is set, with its value.
    ///
    /// # Errors
    /// `EnvironmentIgnored` where one is set and must not be looked at.
    pub fn first<'a>(&self, names: &[&'a str]) -> Result<Option<(&'a str, OsString)>> {
        match self.ignored(names) {
            Some(error) => Err(error),
            None => Ok(names.iter().find_map(|name| self.get(name).map(|value| (*name, value)))),
        }
    }

    fn set(&self, name: &str) -> Option<OsString> {
        (self.read)(name).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Environment {
    /// Without the variables: one may be a PIN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("privileged", &self.privileged).finish_non_exhaustive()
    }
}

/// Whether the process has more rights than whoever started it.
fn privileged() -> bool {
    match fs::read("/proc/self/auxv") {
        Ok(vector) => at_secure(&vector),
        // A process that may not be dumped cannot read its own: one with file capabilities, but also one that has given up root.
        // Its credentials tell the two apart. Without /proc nothing does, and the careful answer is yes.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::read_to_string("/proc/self/status").map_or(true, |status| has_rights_to_lose(&status))
        }
        Err(_) => true,
    }
}

/// AT_SECURE in the auxiliary vector: pairs of machine words, getauxval(3).
fn at_secure(vector: &[u8]) -> bool {
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    let mut words = vector
        .chunks_exact(WORD)
        .map(|word| usize::from_ne_bytes(word.try_into().expect("a chunk is a word")));
    while let (Some(kind), Some(value)) = (words.next(), words.next()) {
        if kind == AT_SECURE {
            return value != 0;
        }
    }
    false
}

/// Whether /proc/self/status shows two identities, or capabilities without root that were not handed down.
fn has_rights_to_lose(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mixed = |name| {
        field(name).is_none_or(|ids| {
            let mut ids = ids.split_whitespace();
            let first = ids.next();
            ids.any(|id| Some(id) != first)
        })
    };
    let capabilities = |name| field(name).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let root = field("Uid").is_some_and(|ids| ids.split_whitespace().next() == Some("0"));
    let raised = match (capabilities("CapPrm"), capabilities("CapAmb")) {
        (Some(permitted), ambient) => permitted & !ambient.unwrap_or(0) != 0,
        (None, _) => true,
    };
    mixed("Uid") || mixed("Gid") || !root && raised
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(privileged: bool) -> Environment {
        Environment::new(privileged, |name| match name {
            "EMPTY" => Some("".into()),
            "B" => Some("b".into()),
            "C" => Some("c".into()),
            _ => None,
        })
    }

    #[test]
    fn the_first_variable_that_says_something_counts() {
        let environment = environment(false);
        assert_eq!(environment.first(&["A", "EMPTY", "B", "C"]), Ok(Some(("B", "b".into()))));
        assert_eq!(environment.first(&["A", "EMPTY"]), Ok(None));
        assert!(environment.ignored(&["B"]).is_none());
    }

    #[test]
    fn a_privileged_process_takes_nothing_and_says_so() {
        let environment = environment(true);
        assert_eq!(environment.get("B"), None);
        let error = environment.first(&["A", "B"]).unwrap_err();
        assert_eq!(error.reason(), Reason::EnvironmentIgnored);
        assert!(error.detail().starts_with("B is set"));
        assert_eq!(environment.first(&["A", "EMPTY"]), Ok(None));
        assert!(!format!("{environment:?}").contains("\"b\""));
    }

    #[test]
    fn this_process_is_not_privileged() {
        assert!(!privileged());
        assert!(Environment::of_process().get("PATH").is_some());
    }

    #[test]
    fn at_secure_is_found_in_the_auxiliary_vector() {
        let vector = |pairs: &[(usize, usize)]| {
            pairs
                .iter()
                .flat_map(|(kind, value)| [kind.to_ne_bytes(), value.to_ne_bytes()].concat())
                .collect::<Vec<u8>>()
        };
        assert!(at_secure(&vector(&[(3, 23), (23, 1), (0, 0)])));
        assert!(!at_secure(&vector(&[(3, 23), (23, 0), (0, 0)])));
        assert!(!at_secure(&vector(&[(6, 1)])) && !at_secure(&[23, 0, 0]));
    }

    #[test]
    fn credentials_tell_who_has_rights_to_lose() {
        let status = |uid: &str, gid: &str, permitted: &str, ambient: &str| {
            has_rights_to_lose(&format!(
                "Name:\tx\nUid:\t{uid}\nGid:\t{gid}\nCapPrm:\t{permitted}\nCapAmb:\t{ambient}\n"
            ))
        };
        let (one, none) = ("33\t33\t33\t33", "0000000000000000");
        assert!(!status(one, one, none, none), "a server that gave up root");
        assert!(!status("0\t0\t0\t0", "0\t0\t0\t0", "000001ffffffffff", none), "root");
        assert!(!status(one, one, "0000000000000400", "0000000000000400"), "a systemd service");
        assert!(status(one, one, "0000000000000400", none), "file capabilities");
        assert!(status("33\t0\t0\t0", one, none, none), "set-user-ID");
        assert!(status(one, "33\t34\t34\t34", none, none), "set-group-ID");
        assert!(has_rights_to_lose(""));
    }
}
