//! What a provider offers, as the OSSL_ALGORITHM tables that OpenSSL reads (provider(7)). Their properties name the provider as it
//! is configured, so they are made per provider context and live as long as it.

use std::ffi::{CStr, CString, c_int};
use std::ptr;

use super::bindings as c;

/// The property that all our algorithms have, in whatever section of openssl.cnf: `hsmkey.provider=yes`. OpenSSL takes no names of its
/// users' without a dot.
pub const PROPERTY: &str = "hsmkey.provider";

/// The property query (property(7)) for what computes itself: nobody's who hands it to somebody else, as we do. A query without our own
/// provider's name alone finds another section that loads us.
pub const COMPUTED: &str = "hsmkey.provider!=yes";

/// One algorithm of one operation.
pub struct Algorithm {
    /// Its names, separated by colons. `@` stands for the provider's own name.
    pub names: &'static str,
    /// Properties beside `provider=` and [`PROPERTY`]; `@` stands for the provider's own name.
    pub properties: &'static str,
    /// Its functions.
    pub dispatch: Dispatch,
    /// What it is, for `openssl list -verbose`.
    pub description: &'static CStr,
}

/// A dispatch table, which operation/ makes.
#[derive(Clone, Copy)]
pub struct Dispatch(pub(super) &'static [c::OSSL_DISPATCH]);

/// An operation number and its algorithms.
pub struct Operation {
    /// OSSL_OP_...
    pub(super) number: c_int,
    /// In the order in which OpenSSL shall try them.
    pub algorithms: &'static [Algorithm],
}

impl Operation {
    /// OSSL_OP_STORE.
    pub const fn store(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_STORE, algorithms }
    }

    /// OSSL_OP_KEYMGMT.
    pub const fn keymgmt(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_KEYMGMT, algorithms }
    }

    /// OSSL_OP_KEYEXCH.
    pub const fn keyexch(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_KEYEXCH, algorithms }
    }

    /// OSSL_OP_SIGNATURE.
    pub const fn signature(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_SIGNATURE, algorithms }
    }

    /// OSSL_OP_ASYM_CIPHER.
    pub const fn asym_cipher(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_ASYM_CIPHER, algorithms }
    }

    /// OSSL_OP_ENCODER.
    pub const fn encoder(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_ENCODER, algorithms }
    }

    /// OSSL_OP_DECODER.
    pub const fn decoder(algorithms: &'static [Algorithm]) -> Self {
        Self { number: c::OSSL_OP_DECODER, algorithms }
    }
}

/// The tables of one provider context.
pub(super) struct Tables {
    tables: Vec<(c_int, Vec<c::OSSL_ALGORITHM>)>,
    // What the tables point to.
    _strings: Vec<CString>,
}

// SAFETY: the tables point to the strings beside them and to statics; nothing changes after construction.
unsafe impl Send for Tables {}
// SAFETY: as for Send.
unsafe impl Sync for Tables {}

impl Tables {
    /// The tables of a provider that is configured under this name. An operation may come several times.
    pub(super) fn new<'a>(operations: impl IntoIterator<Item = &'a Operation>, name: &str) -> Self {
        let plain = own(name);
        let provider = value(name);
        let mut strings = Vec::new();
        let mut keep = |text: String| {
            let text = CString::new(text).unwrap_or_default();
            // A CString's characters stay where they are when the CString moves.
            let pointer = text.as_ptr();
            strings.push(text);
            pointer
        };
        let mut tables: Vec<(c_int, Vec<c::OSSL_ALGORITHM>)> = Vec::new();
        for operation in operations {
            let made = operation.algorithms.iter().map(|algorithm| {
                let comma = if algorithm.properties.is_empty() { "" } else { "," };
                let others = algorithm.properties.replace('@', &plain);
                let properties = format!("provider={provider},{PROPERTY}=yes{comma}{others}");
                c::OSSL_ALGORITHM {
                    algorithm_names: keep(algorithm.names.replace('@', &plain)),
                    property_definition: keep(properties),
                    implementation: algorithm.dispatch.0.as_ptr(),
                    algorithm_description: algorithm.description.as_ptr(),
                }
            });
            match tables.iter_mut().find(|(number, _)| *number == operation.number) {
                Some((_, table)) => table.extend(made),
                None => tables.push((operation.number, made.collect())),
            }
        }
        for (_, table) in &mut tables {
            table.push(c::OSSL_ALGORITHM {
                algorithm_names: ptr::null(),
                property_definition: ptr::null(),
                implementation: ptr::null(),
                algorithm_description: ptr::null(),
            });
        }
        Self { tables, _strings: strings }
    }

    /// The table of an operation; null where there is none.
    pub(super) fn get(&self, operation: c_int) -> *const c::OSSL_ALGORITHM {
        let found = self.tables.iter().find(|(number, _)| *number == operation);
        found.map_or(ptr::null(), |(_, table)| table.as_ptr())
    }
}

/// The provider's name as the value of a property (property(7)).
pub fn value(name: &str) -> String {
    let plain = own(name);
    if plain == name { plain } else { format!("'{}'", name.replace('\'', "")) }
}

/// The provider's name where OpenSSL takes no quotes: in algorithm names and in the values of `input` and `structure`.
pub fn own(name: &str) -> String {
    let mut plain: String = name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '_' })
        .collect();
    if !plain.starts_with(|first: char| first.is_ascii_alphabetic()) {
        plain.insert(0, 'p');
    }
    plain
}
