//! The controls: libp11's engine has the first thirteen, in this order, so that its configurations and programs go on working; the
//! rest are our directives.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::LevelFilter;
use once_cell::race::OnceBox;
use zeroize::Zeroizing;

use super::Engine;
use super::verifier::Verifier;
use crate::config::{Config, DIRECTIVES, Log, LoginBehaviour, PIN_VARIABLES, PinSpec, ReferenceFiles, flag};
use crate::environment::Environment;
use crate::error::{Error, Result, bail};
use crate::hsm;
use crate::key::Keys;
use crate::logging;
use crate::openssl::engine::{Control, Kind, Value};
use crate::secret::Pin;

/// libp11's variable for the module, which MODULE_PATH goes before.
const MODULE_VARIABLE: &str = "PKCS11_MODULE_PATH";
/// The variable for the PIN that is looked at last.
const PIN_VARIABLE: &str = "PIN";

/// What one control does.
#[derive(Clone, Copy)]
enum Effect {
    /// Takes the value and does nothing.
    None,
    ModulePath,
    Pin,
    InitArgs,
    /// Everything is told on stderr, or nothing.
    Verbose,
    Quiet,
    DebugLevel,
    ForceLogin,
    ReferenceByModulus,
}

const OURS: [(&str, &str, Kind, Effect); 15] = [
    ("SO_PATH", "The path of the engine itself; not used", Kind::Text, Effect::None),
    ("MODULE_PATH", "The path of the PKCS#11 module", Kind::Text, Effect::ModulePath),
    ("PIN", "The PIN, for CloudHSM user:password", Kind::Text, Effect::Pin),
    ("VERBOSE", "Tells everything on stderr", Kind::Nothing, Effect::Verbose),
    ("QUIET", "Tells nothing", Kind::Nothing, Effect::Quiet),
    ("LOAD_CERT_CTRL", "Loads a certificate", Kind::Certificate, Effect::None),
    ("INIT_ARGS", "A text for the PKCS#11 module's initialisation", Kind::Text, Effect::InitArgs),
    ("SET_USER_INTERFACE", "The UI_METHOD that asks for the PIN", Kind::UserInterface, Effect::None),
    ("SET_CALLBACK_DATA", "What the UI_METHOD is given", Kind::CallbackData, Effect::None),
    ("FORCE_LOGIN", "Logs in for public objects too", Kind::Nothing, Effect::ForceLogin),
    (
        "RE_ENUMERATE",
        "Not needed: slots are looked for anew when one is missing",
        Kind::Nothing,
        Effect::None,
    ),
    ("VLOG_A", "Not used", Kind::Ignored, Effect::None),
    (
        "DEBUG_LEVEL",
        "What is told: 0 nothing, 3 errors, 4 warnings, 6 recoveries, 7 all",
        Kind::Number,
        Effect::DebugLevel,
    ),
    (
        "REFERENCE_BY_MODULUS",
        "Whether an RSA key file whose modulus is in the HSM stands for the key there: yes or no",
        Kind::Text,
        Effect::ReferenceByModulus,
    ),
    ("ID", "The id by which programs find the engine", Kind::Id, Effect::None),
];

/// The names of the controls that are no directives.
pub const CONTROLS: [&str; OURS.len()] = {
    let mut names = [""; OURS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = OURS[at].0;
        at += 1;
    }
    names
};

/// Every control: a table that is there from the beginning, as a child of fork(2) would wait for ever for one that its parent was making.
static ALL: [Control; OURS.len() + DIRECTIVES.len()] = {
    let mut all =
        [const { Control { name: "", description: "", kind: Kind::Text } }; OURS.len() + DIRECTIVES.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < OURS.len() {
            let (name, description, kind, _) = OURS[at];
            Control { name, description, kind }
        } else {
            let directive = &DIRECTIVES[at - OURS.len()];
            Control { name: directive.name, description: directive.summary, kind: Kind::Text }
        };
        at += 1;
    }
    all
};

/// Every control.
pub(super) fn all() -> &'static [Control] {
    &ALL
}

/// What the controls have set so far.
#[derive(Default)]
pub(super) struct Settings {
    config: Config,
    level: Option<LevelFilter>,
    logs: AtomicBool,
    /// Controls that were given a bad value and no good one since. OpenSSL ignores what it is told of them when it reads openssl.cnf, and
    /// leaves the engine where it is: so no key is reached until that is put right.
    wrong: Vec<(usize, Error)>,
    /// Made of them when they are first needed.
    keys: OnceBox<Arc<Keys>>,
}

/// Sets one.
///
/// # Errors
/// `BadDirective`.
pub(super) fn set(engine: &Engine, position: usize, value: Value) -> Result<()> {
    let result = Cell::new(Ok(()));
    engine.settings.follow(|last| {
        let last = last?;
        let mut settings = last.unused();
        let applied = apply(engine, position, &value, &mut settings);
        settings.wrong.retain(|(wrong, _)| *wrong != position);
        if let Err(error) = &applied {
            settings.wrong.push((position, error.clone()));
        }
        result.set(applied);
        // A program may say the same again and again.
        (!settings.says_what(last)).then_some(settings)
    });
    result.into_inner()
}

fn apply(engine: &Engine, position: usize, value: &Value, settings: &mut Settings) -> Result<()> {
    let config = &mut settings.config;
    let Some((name, _, _, effect)) = OURS.get(position) else {
        let Some(directive) = position.checked_sub(OURS.len()).and_then(|at| DIRECTIVES.get(at)) else {
            bail!(InvalidArgument, "there is no such control");
        };
        let text = text(directive.name, value)?;
        return config.set(directive, Zeroizing::new(text.to_vec()));
    };
    match effect {
        Effect::None => {}
        Effect::ModulePath => set_as(config, "pkcs11-module-path", text(name, value)?)?,
        Effect::InitArgs => set_as(config, "pkcs11-module-init-args", text(name, value)?)?,
        // As it stands: `file:` and the like are for the directive.
        Effect::Pin => config.pin = Some(PinSpec::Value(Arc::new(Pin::new(text(name, value)?.to_vec())))),
        Effect::ForceLogin => config.login = LoginBehaviour::Always,
        Effect::Verbose => (config.log, settings.level) = (Log::Stderr, Some(LevelFilter::Debug)),
        Effect::Quiet => config.log = Log::Off,
        Effect::DebugLevel => settings.level = Some(level(name, value)?),
        Effect::ReferenceByModulus => match flag(text(name, value)?) {
            Some(wanted) => engine.by_modulus.store(wanted, Ordering::Relaxed),
            None => bail!(BadDirective, "{name} must be yes or no"),
        },
    }
    Ok(())
}

/// Sets what a directive sets.
fn set_as(config: &mut Config, name: &str, value: &[u8]) -> Result<()> {
    match DIRECTIVES.iter().find(|directive| directive.name == name) {
        Some(directive) => config.set(directive, Zeroizing::new(value.to_vec())),
        None => bail!(Internal, "there is no directive {name}"),
    }
}

fn text<'a>(name: &str, value: &Value<'a>) -> Result<&'a [u8]> {
    match value {
        Value::Text(Some(text)) if !text.is_empty() => Ok(text),
        _ => bail!(BadDirective, "{name} is empty; openssl.cnf cuts a value at '#'"),
    }
}

/// The levels of syslog(3).
fn level(name: &str, value: &Value) -> Result<LevelFilter> {
    match value {
        Value::Number(0) => Ok(LevelFilter::Off),
        Value::Number(1..=3) => Ok(LevelFilter::Error),
        Value::Number(4) => Ok(LevelFilter::Warn),
        Value::Number(5 | 6) => Ok(LevelFilter::Info),
        Value::Number(7..) => Ok(LevelFilter::Debug),
        _ => bail!(BadDirective, "{name} must be a number from 0 to 7"),
    }
}

impl Settings {
    /// The same, as if nothing had been made of them.
    fn unused(&self) -> Self {
        let (config, wrong) = (self.config.clone(), self.wrong.clone());
        Self { config, level: self.level, wrong, ..Self::default() }
    }

    fn says_what(&self, other: &Self) -> bool {
        (&self.config, self.level, &self.wrong) == (&other.config, other.level, &other.wrong)
    }

    /// Whether reference key files are the engine's.
    pub(super) fn take_files(&self) -> bool {
        self.config.reference_files == ReferenceFiles::Engine
    }

    /// Begins to log as is configured, where nothing in this process has begun yet: when a key is wanted, as lines may still follow before.
    pub(super) fn log(&self) {
        if !self.wrong.is_empty() || self.logs.swap(true, Ordering::Relaxed) {
            return;
        }
        logging::start(&self.config.log);
        if let Some(level) = self.level {
            log::set_max_level(level);
        }
    }

    /// The keys that are reached so.
    pub(super) fn keys(&self, environment: &Arc<Environment>, verifier: &Arc<Verifier>) -> Arc<Keys> {
        let keys = self.keys.get_or_init(|| {
            let environment = Arc::clone(environment);
            if let Some((_, error)) = self.wrong.first() {
                return Box::new(Arc::new(Keys::new(Err(error.clone()), environment)));
            }
            let config = with_environment(self.config.clone(), &environment);
            let verifier = Arc::clone(verifier) as Arc<dyn hsm::Verifier>;
            Box::new(Arc::new(Keys::new(Ok(config), environment).verified_by(verifier)))
        });
        Arc::clone(keys)
    }
}

/// The configuration with what the environment says.
fn with_environment(mut config: Config, environment: &Environment) -> Config {
    config.take_environment(environment);
    if config.module.is_none() {
        config.module = environment.get(MODULE_VARIABLE).map(PathBuf::from);
    }
    let named = PIN_VARIABLES.iter().any(|name| environment.get(name).is_some());
    if config.pin.is_none() && !named && environment.get(PIN_VARIABLE).is_some() {
        config.pin = Some(PinSpec::Env(PIN_VARIABLE.into()));
    }
    config
}
