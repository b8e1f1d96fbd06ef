//! The settings of one process: every number that CLOUDHSM.md marks as inferred is one. README.md has the list with defaults.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use cryptoki_sys::*;

use crate::{entry::Function, requests, source::Source};

/// What a child of an initialised process finds, until it initialises for itself (rule 26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// Every call but C_Initialize returns `fork_code`.
    Error,
    /// Every call but C_Initialize never returns.
    Hang,
    /// C_Initialize says ALREADY_INITIALIZED, every other call but C_Finalize fails; C_Finalize and C_Initialize cure it.
    AlreadyInitialized,
    /// Nothing works, C_Initialize neither.
    Dead,
}

/// All settings of one process, checked.
pub struct Settings {
    pub rules: bool,
    pub softhsm: PathBuf,
    pub directory: Option<PathBuf>,
    pub requests: Vec<bool>,
    /// What is wrong with the settings; C_Initialize fails with it.
    pub problem: Option<String>,
    pub configured: bool,
    pub slot_id: CK_SLOT_ID,
    /// SoftHSM2 labels of the tokens that are our slots; empty: the first initialised one.
    pub tokens: Vec<String>,
    /// What we call them; the last one serves the rest.
    pub labels: Vec<String>,
    pub token_flags: CK_FLAGS,
    /// `user:password` -> SoftHSM2's PIN; empty: the PIN goes to SoftHSM2 as it is.
    pub users: BTreeMap<String, String>,
    pub pin_syntax_code: CK_RV,
    pub lockout: u64,
    pub lockout_code: CK_RV,
    pub user_type_code: CK_RV,
    pub lost_login_finds_nothing: bool,
    pub read_only_sessions: bool,
    pub sessions: u64,
    pub sessions_code: CK_RV,
    pub processes: u64,
    pub processes_code: CK_RV,
    /// It is C_Login that refuses the process too many, and not C_Initialize.
    pub processes_refused_at_login: bool,
    pub fips: bool,
    pub keygen_code: CK_RV,
    pub single_part_code: CK_RV,
    pub data_length_code: CK_RV,
    pub hash_sign_limit: u64,
    pub busy_code: CK_RV,
    pub absent_code: CK_RV,
    pub check_value: bool,
    pub ec_point_on_private: bool,
    pub empty_label_fails: bool,
    pub empty_label_code: CK_RV,
    pub unique_ids: bool,
    pub traps: bool,
    pub fork: Fork,
    pub fork_code: CK_RV,
    pub fork_gate: bool,
    pub fork_in_flight_hangs: bool,
    pub exit_gate: bool,
    pub keys_on_one_hsm: Vec<String>,
    pub key_availability_check: bool,
    pub key_unavailable_code: CK_RV,
    pub hsms: u64,
    /// By [`Function`].
    pub latency: Vec<Duration>,
    pub signs_per_second: u64,
    pub retry: bool,
    pub retry_backoff: Duration,
    pub log: bool,
    pub trace: bool,
    pub certificates: bool,
    pub certificate_reads: u64,
    pub null_signer: bool,
    /// The null signer says that its signature has no octets.
    pub empty_signer: bool,
    pub cant_lock: bool,
}

impl Settings {
    /// Reads file and environment.
    pub fn read() -> Settings {
        let mut source = Source::read();
        let mut settings = Settings::take(&mut source);
        settings.problem = source.finish();
        settings
    }

    fn take(source: &mut Source) -> Settings {
        let signer = source.choice("signer", &["softhsm", "null", "empty"]);
        if let Some(configuration) = source.take("softhsm_conf", "") {
            // SAFETY: nobody reads the environment while a module is being loaded, as far as a module can know; SoftHSM2
            // has no other way to be told.
            unsafe { std::env::set_var("SOFTHSM2_CONF", configuration) };
        }
        let sdk3 = source.choice("sdk", &["5", "3"]) == 1;
        let mut settings = Settings {
            rules: source.flag("rules", true),
            softhsm: source.text("softhsm", "/usr/lib/softhsm/libsofthsm2.so").into(),
            directory: source.directory(),
            requests: requests(source),
            problem: None,
            configured: source.flag("configured", true),
            slot_id: source.number("slot_id", if sdk3 { 1 } else { 0x2000_0000_0000_0001 }),
            tokens: source.list("token", ""),
            labels: source.list("label", if sdk3 { "cavium" } else { "hsm1" }),
            token_flags: source.number("token_flags", CKF_LOGIN_REQUIRED | CKF_TOKEN_INITIALIZED),
            users: users(source),
            pin_syntax_code: source
                .number("pin_syntax_code", if sdk3 { CKR_ARGUMENTS_BAD } else { CKR_PIN_INCORRECT }),
            lockout: source.number("lockout", 5),
            lockout_code: source.number("lockout_code", CKR_PIN_LOCKED),
            user_type_code: source.number("user_type_code", CKR_USER_TYPE_INVALID),
            lost_login_finds_nothing: source.choice("lost_login_finds", &["error", "nothing"]) == 1,
            read_only_sessions: source.flag("read_only_sessions", false),
            sessions: source.number("sessions", 1024),
            sessions_code: source.number("sessions_code", CKR_SESSION_COUNT),
            processes: source.number("processes", 900),
            processes_code: source.number("processes_code", CKR_GENERAL_ERROR),
            processes_refused_at_login: source.choice("processes_refused_at", &["initialize", "login"]) == 1,
            fips: source.flag("fips", false),
            keygen_code: source.number("keygen_code", CKR_ATTRIBUTE_VALUE_INVALID),
            single_part_code: source.number("single_part_code", CKR_FUNCTION_NOT_SUPPORTED),
            data_length_code: source.number("data_length_code", CKR_DATA_LEN_RANGE),
            hash_sign_limit: source.number("hash_sign_limit", if sdk3 { 16_296 } else { u64::MAX }),
            busy_code: source
                .number("busy_code", if sdk3 { CKR_OPERATION_ACTIVE } else { CKR_FUNCTION_FAILED }),
            absent_code: source.number("absent_code", CKR_FUNCTION_NOT_SUPPORTED),
            check_value: source.flag("check_value", true),
            ec_point_on_private: source.flag("ec_point_on_private", false),
            empty_label_fails: source.choice("empty_label", &["error", "ok"]) == 0,
            empty_label_code: source.number("empty_label_code", CKR_ATTRIBUTE_VALUE_INVALID),
            unique_ids: source.flag("unique_ids", false),
            traps: source.choice("misordered", &["trap", "error"]) == 0,
            fork: match source.choice("fork", &["error", "hang", "already-initialized", "dead"]) {
                0 => Fork::Error,
                1 => Fork::Hang,
                2 => Fork::AlreadyInitialized,
                _ => Fork::Dead,
            },
            fork_code: source.number("fork_code", CKR_CRYPTOKI_NOT_INITIALIZED),
            fork_gate: source.flag("fork_gate", true),
            fork_in_flight_hangs: source.choice("fork_in_flight", &["ok", "hang"]) == 1,
            exit_gate: source.flag("exit_gate", true),
            keys_on_one_hsm: source.list("keys_on_one_hsm", ""),
            key_availability_check: source.flag("key_availability_check", true),
            key_unavailable_code: source.number("key_unavailable_code", CKR_FUNCTION_FAILED),
            hsms: source.number("hsms", 2),
            latency: Vec::new(),
            signs_per_second: source.number("signs_per_second", 1000),
            retry: source.choice("retry", &["standard", "off"]) == 0,
            retry_backoff: source.duration("retry_backoff", Duration::from_millis(50)),
            log: source.flag("log", true),
            trace: source.flag("trace", false),
            certificates: source.flag("certificates", false),
            certificate_reads: source.number("certificate_reads", 10),
            null_signer: signer > 0,
            empty_signer: signer == 2,
            cant_lock: source.flag("cant_lock", false),
        };
        if !source.flag("validate_key_at_init", true) {
            settings.requests[Function::C_SignInit as usize] = false;
        }
        settings.latency = latency(source, &settings.requests);
        settings
    }
}

fn requests(source: &mut Source) -> Vec<bool> {
    let mut requests: Vec<bool> =
        Function::ALL.iter().map(|function| requests::is_request(*function)).collect();
    for (key, is_request) in [("requests", true), ("local", false)] {
        for function in source.functions(key) {
            requests[function as usize] = is_request;
        }
    }
    requests
}

/// `users = cu1:password1=1234, ...`: names and passwords of crypto users, and the PIN that SoftHSM2's token wants.
fn users(source: &mut Source) -> BTreeMap<String, String> {
    let mut users = BTreeMap::new();
    for user in source.list("users", "") {
        match user.rsplit_once('=') {
            Some((name, pin)) => {
                users.insert(name.to_owned(), pin.to_owned());
            }
            // Not echoed: it may hold a password.
            None => source.complain("users: a user without =PIN".to_owned()),
        }
    }
    users
}

/// `latency` for every request; a search takes 50 times, a login 500 times as long unless they say otherwise (rule 29).
fn latency(source: &mut Source, requests: &[bool]) -> Vec<Duration> {
    let general = source.duration("latency", Duration::from_millis(1));
    let find = source.duration("latency_find", general * 50);
    let login = source.duration("latency_login", general * 500);
    let default = |function: Function| match function {
        _ if !requests[function as usize] => Duration::ZERO,
        Function::C_FindObjectsInit => find,
        Function::C_Login => login,
        _ => general,
    };
    let mut latency = Vec::new();
    for function in Function::ALL {
        let key = format!("latency_{function:?}").to_ascii_lowercase();
        latency.push(source.duration(&key, default(*function)));
    }
    latency
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    /// The rows of README.md's tables of settings: key and default.
    fn documented() -> BTreeMap<String, String> {
        let text = include_str!("../README.md");
        let chapter =
            text.split("\n## ").find(|chapter| chapter.starts_with("Settings\n")).expect("a chapter");
        let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let rows = chapter.lines().filter(|line| line.starts_with("| `")).map(cells);
        rows.map(|row| (row[1].trim_matches('`').to_owned(), row[2].trim_matches('`').to_owned())).collect()
    }

    /// `0xb1` and `177` are the same default, and so are `1ms` and `1000us`.
    fn normal(default: &str) -> String {
        if let Some(number) = source::number(default) {
            return number.to_string();
        }
        source::duration(default).map_or(default.to_owned(), |duration| format!("{}us", duration.as_micros()))
    }

    #[test]
    fn readme_has_every_setting_with_its_default_and_no_other() {
        let mut source = Source::empty();
        // Nothing is to be made beside this machine's tokens.
        source.parse("dir = none");
        Settings::take(&mut source);
        let asked = source.asked().iter();
        let (single, functions): (Vec<_>, Vec<_>) =
            asked.partition(|(key, _)| !key.starts_with("latency_c_"));
        assert_eq!(functions.len(), Function::ALL.len());
        let mut known: BTreeMap<String, String> =
            single.into_iter().map(|(key, default)| (key.clone(), normal(default))).collect();
        // One row for all of them.
        known.insert("latency_c_<function>".to_owned(), String::new());
        let documented: BTreeMap<String, String> =
            documented().into_iter().map(|(key, default)| (key, normal(&default))).collect();
        assert_eq!(documented, known);
    }

    #[test]
    fn readme_has_all_35_rules_and_the_tests_it_names_are_there() {
        let tests = [
            include_str!("../tests/faults.rs"),
            include_str!("../tests/forks.rs"),
            include_str!("../tests/keys.rs"),
            include_str!("../tests/mechanisms.rs"),
            include_str!("../tests/pace.rs"),
            include_str!("../tests/sessions.rs"),
        ];
        let is_test =
            |name: &str| tests.iter().any(|text| text.contains(&format!("#[test]\nfn {name}() {{")));
        let text = include_str!("../README.md");
        let chapter =
            text.split("\n## ").find(|chapter| chapter.starts_with("The rules\n")).expect("a chapter");
        let mut rules = Vec::new();
        for line in chapter.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let Ok(rule) = cells[1].parse::<u32>() else { continue };
            rules.push(rule);
            let names: Vec<_> = source::list(cells[4]);
            assert!(!names.is_empty(), "{line}");
            for name in names {
                assert!(is_test(name.trim_matches('`')), "rule {rule}: {name}");
            }
        }
        assert_eq!(rules, (1..=35).collect::<Vec<_>>());
    }

    #[test]
    fn readme_has_every_fault_and_every_counter() {
        let text = include_str!("../README.md");
        let names = crate::faults::names().chain(crate::counters::names());
        let missing: Vec<_> = names.filter(|name| !text.contains(&format!("`{name}`"))).collect();
        assert_eq!(missing, [""; 0]);
    }
}
