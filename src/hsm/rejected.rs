//! PINs that the HSM has rejected: CloudHSM locks a user after five, so none is sent twice. The memory outlasts fork(2) and, where a
//! runtime directory is configured, the process.
//!
//! A file of the runtime directory says from which source a token has rejected a PIN and what the source looked like then; nothing of the
//! PIN and no hash of it. When the source changes, the file no longer counts.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryptoki_sys::CK_SLOT_ID;

use super::SourceStamp;
use crate::chain::Chain;
use crate::error::{Error, Reason};
use crate::secret::Pin;

/// The rejected PINs of one module.
#[derive(Default)]
pub(super) struct Rejected(Chain<Entry>);

struct Entry {
    slot: CK_SLOT_ID,
    pin: Arc<Pin>,
    error: Error,
}

impl Rejected {
    /// Why a PIN was rejected.
    pub(super) fn known(&self, slot: CK_SLOT_ID, pin: &Pin) -> Option<Error> {
        let entry = self.0.iter().find(|entry| entry.slot == slot && entry.pin.same_as(pin));
        entry.map(|entry| entry.error.clone())
    }

    /// Remembers one.
    pub(super) fn add(&self, slot: CK_SLOT_ID, pin: &Arc<Pin>, error: &Error) {
        self.0.push(Entry { slot, pin: Arc::clone(pin), error: error.clone() });
    }
}

/// What other processes are told of a rejected PIN.
pub(super) struct Notice {
    file: PathBuf,
    content: String,
}

impl Notice {
    /// The notice about a PIN: which token's, and from which source.
    pub(super) fn new(directory: &Path, token: &str, stamp: &SourceStamp) -> Self {
        let mut name = String::from("rejected-");
        for octet in format!("{token}/{}", stamp.source).bytes() {
            if octet.is_ascii_alphanumeric() {
                name.push(octet.into());
            } else {
                // Writing into a String cannot fail.
                let _ = write!(name, "%{octet:02x}");
            }
        }
        name.truncate(200);
        Self { file: directory.join(name), content: format!("{}\n{}\n", stamp.source, stamp.changed) }
    }

    /// Whether a process has been told that this PIN is rejected, and its source is as it was.
    pub(super) fn stands(&self) -> Option<Error> {
        let said = fs::read_to_string(&self.file).ok()?;
        (said == self.content).then(|| {
            let detail = format!(
                "another process was told so, and {} has not changed since; if the HSM is what has changed, remove {}",
                self.content.lines().next().unwrap_or_default(),
                self.file.display()
            );
            Error::new(Reason::PinRejected, detail)
        })
    }

    /// Tells other processes. Where the directory cannot be written they are not told.
    pub(super) fn post(&self) {
        let fresh = self.file.with_extension(std::process::id().to_string());
        if fs::write(&fresh, &self.content).and_then(|()| fs::rename(&fresh, &self.file)).is_err() {
            log::warn!(
                "{} cannot be written: other processes will try the rejected PIN too",
                self.file.display()
            );
            let _ = fs::remove_file(&fresh);
        }
    }

    /// Takes it back.
    pub(super) fn withdraw(&self) {
        let _ = fs::remove_file(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Arc<Pin> {
        Arc::new(Pin::new(text.into()))
    }

    #[test]
    fn rejected_pins_are_remembered_by_slot() {
        let rejected = Rejected::default();
        let error = Error::new(Reason::PinRejected, "");
        rejected.add(1, &pin("a:x"), &error);
        rejected.add(2, &pin("b:y"), &error);
        assert_eq!(rejected.known(1, &pin("a:x")), Some(error.clone()));
        assert_eq!(rejected.known(2, &pin("b:y")), Some(error));
        assert_eq!(rejected.known(1, &pin("b:y")), None);
    }

    #[test]
    fn a_notice_stands_until_the_source_changes() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = |changed: &str| SourceStamp { source: "/etc/pin".into(), changed: changed.into() };
        let notice = |changed: &str| Notice::new(directory.path(), "hsm1", &stamp(changed));
        assert!(notice("1").stands().is_none());
        notice("1").post();
        assert_eq!(notice("1").stands().unwrap().reason(), Reason::PinRejected);
        assert!(notice("2").stands().is_none());
        let files: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        let another = SourceStamp { source: "/etc/another".into(), ..stamp("1") };
        Notice::new(directory.path(), "hsm1", &another).withdraw();
        assert!(notice("1").stands().is_some());
        notice("1").withdraw();
        assert!(notice("1").stands().is_none());
    }
}
