//! The controls of an engine: their table for OpenSSL, and their arguments (ENGINE_ctrl(3)).

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::ptr;

use once_cell::race::OnceBox;

use super::super::boundary;
use super::functions::CommandDefinition;
use crate::error::{Result, bail};

/// The first number that is an engine's own, ENGINE_CMD_BASE.
const FIRST: u32 = 200;
/// ENGINE_CMD_FLAG_*, engine.h.
const NUMERIC: u32 = 1;
const STRING: u32 = 2;
const NO_INPUT: u32 = 4;
const INTERNAL: u32 = 8;
/// ENGINE_CTRL_SET_USER_INTERFACE and ENGINE_CTRL_SET_CALLBACK_DATA: the same for every engine.
const SET_USER_INTERFACE: c_int = 4;
const SET_CALLBACK_DATA: c_int = 5;

/// One control.
pub struct Control {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// What it takes.
    pub kind: Kind,
}

/// What a control takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A number.
    Number,
    /// Nothing.
    Nothing,
    /// A UI_METHOD.
    UserInterface,
    /// What the UI_METHOD is given.
    CallbackData,
    /// `struct { const char *id; X509 *cert; }`, the second to be filled in.
    Certificate,
    /// The id by which programs find the engine.
    Id,
    /// Something that is not used.
    Ignored,
}

/// What an application has given to a control.
pub(super) enum Given<'a> {
    /// By the position of the control in the engine's list.
    Value(usize, Value<'a>),
    UserInterface(*mut c_void),
    CallbackData(*mut c_void),
    Certificate(*mut CertificateRequest),
    /// `None` for a null pointer.
    Id(Option<&'a [u8]>),
    Nothing,
}

/// The value of a control.
pub enum Value<'a> {
    /// A text; `None` for a null pointer, which openssl.cnf writes EMPTY.
    Text(Option<&'a [u8]>),
    /// A number.
    Number(i64),
    /// Nothing.
    Nothing,
}

/// The argument of LOAD_CERT_CTRL.
#[repr(C)]
pub(super) struct CertificateRequest {
    pub(super) id: *const c_char,
    pub(super) certificate: *mut c_void,
}

impl Kind {
    fn flags(self) -> u32 {
        match self {
            Kind::Text | Kind::Id => STRING,
            Kind::Number => NUMERIC,
            Kind::Nothing => NO_INPUT,
            Kind::UserInterface | Kind::CallbackData | Kind::Certificate | Kind::Ignored => INTERNAL,
        }
    }
}

struct Table(Vec<CommandDefinition>);

// SAFETY: the names are leaked and nothing changes.
unsafe impl Send for Table {}
// SAFETY: as for Send.
unsafe impl Sync for Table {}

/// The table of an engine's controls, which OpenSSL keeps. There is one engine in this library.
pub(super) fn definitions(controls: &[Control]) -> *const CommandDefinition {
    static TABLE: OnceBox<Table> = OnceBox::new();
    let table = TABLE.get_or_init(|| {
        let text = |text: &str| CString::new(text).unwrap_or_default().into_raw().cast_const();
        let mut table: Vec<CommandDefinition> = controls
            .iter()
            .zip(FIRST..)
            .map(|(control, number)| CommandDefinition {
                number,
                name: text(control.name),
                description: text(control.description),
                flags: control.kind.flags(),
            })
            .collect();
        table.push(CommandDefinition { number: 0, name: ptr::null(), description: ptr::null(), flags: 0 });
        Box::new(Table(table))
    });
    table.0.as_ptr()
}

/// What the arguments of a control function say.
///
/// # Errors
/// `InvalidArgument` for a number that is no control's.
///
/// # Safety
/// `pointer` is what ENGINE_ctrl(3) wants for the command, and stays so during `'a`.
pub(super) unsafe fn given<'a>(
    controls: &[Control],
    command: c_int,
    number: c_long,
    pointer: *mut c_void,
) -> Result<Given<'a>> {
    match command {
        SET_USER_INTERFACE => return Ok(Given::UserInterface(pointer)),
        SET_CALLBACK_DATA => return Ok(Given::CallbackData(pointer)),
        _ => {}
    }
    let position = u32::try_from(command).ok().and_then(|command| command.checked_sub(FIRST));
    let position = position.and_then(|position| usize::try_from(position).ok());
    let Some((position, control)) = position.and_then(|at| controls.get(at).map(|control| (at, control)))
    else {
        bail!(InvalidArgument, "there is no control {command}");
    };
    Ok(match control.kind {
        Kind::Text => {
            // SAFETY: null or a NUL-terminated text, by the caller's contract.
            let text = unsafe { boundary::octets(pointer.cast()) };
            Given::Value(position, Value::Text(text))
        }
        #[allow(clippy::useless_conversion, reason = "a long has 32 bits on other machines")]
        Kind::Number => Given::Value(position, Value::Number(number.into())),
        Kind::Nothing => Given::Value(position, Value::Nothing),
        // SAFETY: as for a text.
        Kind::Id => Given::Id(unsafe { boundary::octets(pointer.cast()) }),
        Kind::UserInterface => Given::UserInterface(pointer),
        Kind::CallbackData => Given::CallbackData(pointer),
        Kind::Certificate => Given::Certificate(pointer.cast()),
        Kind::Ignored => Given::Nothing,
    })
}
