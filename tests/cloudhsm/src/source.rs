//! Where settings come from: a file of `key = value` lines and the environment.

use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::entry::{Function, NAMES};

const VARIABLE: &str = "CLOUDHSM_STANDIN";

/// Raw settings, each taken out when it is used, so that what is left over was misspelt.
pub struct Source {
    values: BTreeMap<String, String>,
    problem: Option<String>,
    /// Every key that was asked for and what it is without a setting, for the test that compares them with README.md.
    asked: BTreeMap<String, String>,
}

impl Source {
    /// No settings at all.
    pub fn empty() -> Source {
        Source { values: BTreeMap::new(), problem: None, asked: BTreeMap::new() }
    }

    /// Reads file and environment.
    pub fn read() -> Source {
        let mut source = Source::empty();
        match std::env::var_os(VARIABLE) {
            Some(path) => match std::fs::read_to_string(&path) {
                Ok(text) => source.parse(&text),
                Err(error) => source.complain(format!("{VARIABLE}: {}: {error}", path.to_string_lossy())),
            },
            // A server that clears its environment still finds the file beside the module.
            None => {
                if let Some(text) =
                    own_path().and_then(|path| std::fs::read_to_string(path.with_extension("conf")).ok())
                {
                    source.parse(&text);
                }
            }
        }
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if let Some(key) = name.strip_prefix(VARIABLE).and_then(|rest| rest.strip_prefix('_')) {
                source.values.insert(normal(key), value.to_string_lossy().into_owned());
            }
        }
        source
    }

    /// Takes settings from the lines of a file.
    pub fn parse(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once('=') {
                Some((key, value)) => {
                    self.values.insert(normal(key.trim()), value.trim().to_owned());
                }
                None => self.complain(format!("not a setting: {line}")),
            }
        }
    }

    /// Remembers the first thing that is wrong.
    pub fn complain(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// The value of `key`, if it is set; `default` is what README.md says of it.
    pub fn take(&mut self, key: &str, default: &str) -> Option<String> {
        self.asked.insert(key.to_owned(), default.to_owned());
        self.values.remove(key)
    }

    /// The keys that were asked for, with their defaults.
    #[cfg(test)]
    pub fn asked(&self) -> &BTreeMap<String, String> {
        &self.asked
    }

    /// The value of `key`, or `default`.
    pub fn text(&mut self, key: &str, default: &str) -> String {
        self.take(key, default).unwrap_or_else(|| default.to_owned())
    }

    /// `on` or `off`.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.take(key, if default { "on" } else { "off" }).as_deref() {
            None => default,
            Some("on" | "yes" | "true" | "1") => true,
            Some("off" | "no" | "false" | "0") => false,
            Some(other) => {
                self.complain(format!("{key} = {other}: on or off"));
                default
            }
        }
    }

    /// A list of functions.
    pub fn functions(&mut self, key: &str) -> Vec<Function> {
        let mut functions = Vec::new();
        for name in list(&self.text(key, "")) {
            match function(&name) {
                Some(function) => functions.push(function),
                None => self.complain(format!("{key}: {name} is no PKCS#11 function")),
            }
        }
        functions
    }

    /// A number, decimal or `0x`; `none` is the largest.
    pub fn number(&mut self, key: &str, default: u64) -> u64 {
        let said = if default == u64::MAX { "none".to_owned() } else { default.to_string() };
        let Some(text) = self.take(key, &said) else { return default };
        let value = if text == "none" { Some(u64::MAX) } else { number(&text) };
        value.unwrap_or_else(|| {
            self.complain(format!("{key} = {text}: not a number"));
            default
        })
    }

    /// A duration.
    pub fn duration(&mut self, key: &str, default: Duration) -> Duration {
        let Some(text) = self.take(key, &format!("{}us", default.as_micros())) else { return default };
        duration(&text).unwrap_or_else(|| {
            self.complain(format!("{key} = {text}: not a duration"));
            default
        })
    }

    /// Comma-separated words.
    pub fn list(&mut self, key: &str, default: &str) -> Vec<String> {
        list(&self.text(key, default))
    }

    /// One of a few words, as its position among them; the first is the default.
    pub fn choice(&mut self, key: &str, words: &[&str]) -> usize {
        let Some(text) = self.take(key, words[0]) else { return 0 };
        words.iter().position(|word| *word == text).unwrap_or_else(|| {
            self.complain(format!("{key} = {text}: one of {}", words.join(", ")));
            0
        })
    }

    /// `dir`, or beside SoftHSM2's token directory; made if need be, writable for servers' workers too.
    pub fn directory(&mut self) -> Option<PathBuf> {
        let directory = match self.take("dir", "<tokendir>.standin") {
            Some(value) if value == "none" => return None,
            Some(value) => PathBuf::from(value),
            None => token_directory()?.with_extension("standin"),
        };
        if !directory.is_dir() {
            std::fs::create_dir_all(&directory).ok()?;
            let _ = std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o777));
        }
        Some(directory)
    }

    /// What was wrong, settings that nobody took included.
    pub fn finish(mut self) -> Option<String> {
        if let Some(key) = self.values.keys().next().cloned() {
            self.complain(format!("no such setting: {key}"));
        }
        self.problem
    }
}

/// The function of that name, in whatever case.
pub fn function(name: &str) -> Option<Function> {
    NAMES.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|number| Function::ALL[number])
}

/// A number, decimal or with `0x`.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A duration: `500us`, `1ms`, `2s`; a bare number is milliseconds.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = digits.parse::<f64>().ok().filter(|number| *number >= 0.0)?
        * match &text[digits.len()..] {
            "us" => 1e-6,
            "ms" | "" => 1e-3,
            "s" => 1.0,
            _ => return None,
        };
    Duration::try_from_secs_f64(seconds).ok()
}

/// Comma-separated words.
pub fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn normal(key: &str) -> String {
    key.to_ascii_lowercase().replace(['.', '-'], "_")
}

/// The path that this module was loaded from.
fn own_path() -> Option<PathBuf> {
    // SAFETY: Dl_info is plain data, for which zeroes are valid.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked for.
    let found = unsafe { libc::dladdr(own_path as *const libc::c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded, so the name is a C string of the loader's.
    let name = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())))
}

/// SoftHSM2's token directory, from the configuration file that SoftHSM2 itself will read.
pub fn token_directory() -> Option<PathBuf> {
    let configuration = match std::env::var_os("SOFTHSM2_CONF") {
        Some(path) => PathBuf::from(path),
        None => {
            let home =
                std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/softhsm2/softhsm2.conf"));
            home.filter(|path| path.exists()).unwrap_or_else(|| "/etc/softhsm/softhsm2.conf".into())
        }
    };
    let text = std::fs::read_to_string(configuration).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let mut values = lines.filter(|(key, _)| key.trim() == "directories.tokendir");
    values.next().map(|(_, value)| value.trim().trim_end_matches('/').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bare_numbers_are_milliseconds() {
        assert_eq!(duration("500us"), Some(Duration::from_micros(500)));
        assert_eq!(duration("2"), Some(Duration::from_millis(2)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("5 parsecs"), None);
        assert_eq!(duration("-1"), None);
    }

    #[test]
    fn a_misspelt_setting_is_a_problem_and_not_ignored() {
        let mut source = Source::empty();
        source.parse("# comment\nrules = off\nLatency.C_Sign = 1ms\n");
        assert!(!source.flag("rules", true));
        assert!(source.finish().expect("left over").contains("latency_c_sign"));
    }
}
