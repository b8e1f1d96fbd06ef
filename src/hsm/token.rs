//! What a module says of itself, a slot and a token, and whether it is what a URI means (RFC 7512 section 2.3).

use cryptoki_sys::{CK_INFO, CK_SLOT_INFO, CK_TOKEN_INFO, CKF_LOGIN_REQUIRED, CKF_TOKEN_INITIALIZED};

use crate::uri::TokenAttributes;

/// CK_TOKEN_INFO, its texts without padding.
#[derive(Clone, Debug)]
pub(super) struct TokenInfo {
    pub(super) label: String,
    pub(super) manufacturer: String,
    pub(super) model: String,
    pub(super) serial: String,
    pub(super) initialised: bool,
    /// Whether private objects are seen after a login only.
    pub(super) login_required: bool,
}

/// CK_SLOT_INFO.
#[derive(Clone, Debug)]
pub(super) struct SlotInfo {
    description: String,
    manufacturer: String,
}

/// CK_INFO.
#[derive(Clone, Debug)]
pub(super) struct LibraryInfo {
    manufacturer: String,
    description: String,
    version: (u8, u8),
}

/// A text as PKCS#11 keeps it: padded with blanks and not ended.
fn text(padded: &[u8]) -> String {
    String::from_utf8_lossy(padded).trim_end_matches([' ', '\0']).to_owned()
}

pub(super) fn token_info(info: &CK_TOKEN_INFO) -> TokenInfo {
    TokenInfo {
        label: text(&info.label),
        manufacturer: text(&info.manufacturerID),
        model: text(&info.model),
        serial: text(&info.serialNumber),
        initialised: info.flags & CKF_TOKEN_INITIALIZED != 0,
        login_required: info.flags & CKF_LOGIN_REQUIRED != 0,
    }
}

pub(super) fn slot_info(info: &CK_SLOT_INFO) -> SlotInfo {
    SlotInfo { description: text(&info.slotDescription), manufacturer: text(&info.manufacturerID) }
}

pub(super) fn library_info(info: &CK_INFO) -> LibraryInfo {
    let version = (info.libraryVersion.major, info.libraryVersion.minor);
    LibraryInfo {
        manufacturer: text(&info.manufacturerID),
        description: text(&info.libraryDescription),
        version,
    }
}

/// Whether an attribute is absent or says this.
fn is(wanted: &Option<String>, found: &str) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == found)
}

/// Which of CK_TOKEN_INFO, CK_SLOT_INFO and CK_INFO have to be asked for.
pub(super) struct Asked {
    pub(super) token: bool,
    pub(super) slot: bool,
    pub(super) library: bool,
}

pub(super) fn asked(wanted: &TokenAttributes) -> Asked {
    Asked {
        token: wanted.token.is_some()
            || wanted.manufacturer.is_some()
            || wanted.serial.is_some()
            || wanted.model.is_some(),
        slot: wanted.slot_description.is_some() || wanted.slot_manufacturer.is_some(),
        library: wanted.library_manufacturer.is_some()
            || wanted.library_description.is_some()
            || wanted.library_version.is_some(),
    }
}

impl TokenInfo {
    pub(super) fn matches(&self, wanted: &TokenAttributes) -> bool {
        self.initialised
            && is(&wanted.token, &self.label)
            && is(&wanted.manufacturer, &self.manufacturer)
            && is(&wanted.serial, &self.serial)
            && is(&wanted.model, &self.model)
    }

    /// Whether this is how CloudHSM's tokens are known to call themselves.
    pub(super) fn is_cloudhsm(&self) -> bool {
        matches!(self.label.as_str(), "hsm1" | "cavium") || self.manufacturer.contains("Cavium")
    }
}

impl SlotInfo {
    pub(super) fn matches(&self, wanted: &TokenAttributes) -> bool {
        is(&wanted.slot_description, &self.description) && is(&wanted.slot_manufacturer, &self.manufacturer)
    }
}

impl LibraryInfo {
    pub(super) fn matches(&self, wanted: &TokenAttributes) -> bool {
        let (major, minor) = self.version;
        let version = wanted.library_version.is_none_or(|(wanted_major, wanted_minor)| {
            wanted_major == major && wanted_minor.is_none_or(|wanted| wanted == minor)
        });
        version
            && is(&wanted.library_manufacturer, &self.manufacturer)
            && is(&wanted.library_description, &self.description)
    }
}
