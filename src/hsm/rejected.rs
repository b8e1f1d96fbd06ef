//! PINs that the HSM has rejected: CloudHSM locks a user after five, so none is sent twice. The memory outlasts fork(2) and, where a
//! runtime directory is configured, the process.
//!
//! A file of the runtime directory says from which source a token has rejected a PIN and what the source looked like then; nothing of the
//! PIN and no hash of it. When the source changes, the file no longer counts.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cryptoki_sys::CK_SLOT_ID;

use super::SourceStamp;
use super::family::hash;
use super::turn::{Turn, share};
use crate::chain::Chain;
use crate::error::{Error, Reason, Result};
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
    directory: PathBuf,
    name: String,
    content: String,
    /// What the file said when it was last looked at.
    said: Option<String>,
}

/// A longer name of a file ends with a number instead, which stands for all of it.
const LONGEST: usize = 200;

/// No file of ours has more octets: a path and a few numbers.
const MOST: u64 = 8192;

impl Notice {
    /// The notice about a PIN: which token's, and from which source.
    pub(super) fn new(directory: &Path, token: &str, stamp: &SourceStamp) -> Self {
        let mut name = String::new();
        for octet in format!("{token}/{}", stamp.source).bytes() {
            if octet.is_ascii_alphanumeric() {
                name.push(octet.into());
            } else {
                // Writing into a String cannot fail.
                let _ = write!(name, "%{octet:02x}");
            }
        }
        if name.len() > LONGEST {
            let all = hash(&name);
            name.truncate(LONGEST);
            let _ = write!(name, "-{all:016x}");
        }
        let content = format!("{}\n{}\n", stamp.source, stamp.changed);
        let mut notice = Self { directory: directory.to_owned(), name, content, said: None };
        notice.read();
        notice
    }

    fn read(&mut self) {
        self.said = self.now_said().ok();
    }

    /// What the file says. Where somebody else may write too, it may be a pipe, or have no end.
    fn now_said(&self) -> io::Result<String> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut said = String::new();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.file())?;
        file.take(MOST).read_to_string(&mut said)?;
        Ok(said)
    }

    fn file(&self) -> PathBuf {
        self.directory.join(format!("rejected-{}", self.name))
    }

    /// Whether a process had been told that this PIN is rejected, when the file was last looked at, and its source is as it was.
    pub(super) fn stands(&self) -> Option<Error> {
        (self.said.as_ref() == Some(&self.content)).then(|| {
            let detail = format!(
                "another process was told so, and {} has not changed since; if the HSM is what has changed, remove {}",
                self.content.lines().next().unwrap_or_default(),
                self.file().display()
            );
            Error::new(Reason::PinRejected, detail)
        })
    }

    /// Waits for other processes that try this PIN, and looks at what they say.
    ///
    /// # Errors
    /// As for [`Turn::wait`].
    pub(super) fn turn(&mut self, deadline: Instant) -> Result<Turn> {
        let state = hash((&self.name, &self.content));
        let turn = Turn::wait(&self.directory, &self.turns(), state, deadline)?;
        self.read();
        Ok(turn)
    }

    /// The name of the file of its turns. It stays, so that there are few for all sources: some programs write a PIN to a new file each time.
    fn turns(&self) -> String {
        format!("turn-{:02x}", hash(&self.name) & 0xff)
    }

    /// Tells other processes. Where the directory cannot be written they are not told.
    pub(super) fn post(&self) {
        static POSTED: AtomicUsize = AtomicUsize::new(0);
        let number = POSTED.fetch_add(1, Ordering::Relaxed);
        // The name has no point.
        let fresh = self.file().with_extension(format!("{}-{number}", std::process::id()));
        // Where somebody else may write too, he may have put a link there.
        let _ = fs::remove_file(&fresh);
        let told = File::create_new(&fresh)
            .and_then(|mut file| {
                file.write_all(self.content.as_bytes()).and_then(|()| share(&self.directory, &file))
            })
            .and_then(|()| fs::rename(&fresh, self.file()));
        if told.is_err() {
            log::warn!(
                "{} cannot be written: other processes will try the rejected PIN too",
                self.file().display()
            );
            let _ = fs::remove_file(&fresh);
        }
    }

    /// Takes back what was said of an older state of the source. What another process was told meanwhile stays: it may be about a newer one.
    pub(super) fn withdraw(&self) {
        if self.said.is_some() && self.now_said().ok() == self.said {
            let _ = fs::remove_file(self.file());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        // Some may share it by their group only.
        let _ = std::os::unix::fs::chown(directory.path(), None, Some(1));
        let stamp = |changed: &str| SourceStamp { source: "/etc/pin".into(), changed: changed.into() };
        let notice = |changed: &str| Notice::new(directory.path(), "hsm1", &stamp(changed));
        assert!(notice("1").stands().is_none());
        notice("1").post();
        assert_eq!(notice("1").stands().unwrap().reason(), Reason::PinRejected);
        assert!(notice("2").stands().is_none());
        let files: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        let [all, posted] = [directory.path(), &files[0]].map(|path| fs::metadata(path).unwrap());
        assert_eq!((posted.permissions().mode() & 0o777, posted.gid()), (0o666, all.gid()));
        let another = SourceStamp { source: "/etc/another".into(), ..stamp("1") };
        Notice::new(directory.path(), "hsm1", &another).withdraw();
        assert!(notice("1").stands().is_some());
        notice("2").withdraw();
        assert!(notice("1").stands().is_none());
    }

    #[test]
    fn what_others_have_linked_to_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "as it was").unwrap();
        let stamp = SourceStamp { source: "pin".into(), changed: "1".into() };
        let notice = || Notice::new(directory.path(), "hsm1", &stamp);
        let link = |name: String| std::os::unix::fs::symlink(&victim, directory.path().join(name)).unwrap();
        link(notice().turns());
        link("rejected-hsm1%2fpin".into());
        (0..100).for_each(|number| link(format!("rejected-hsm1%2fpin.{}-{number}", std::process::id())));
        notice().turn(Instant::now()).unwrap().accepted();
        notice().post();
        assert!(notice().stands().is_some());
        let turn = directory.path().join(notice().turns());
        fs::remove_file(&turn).unwrap();
        fs::hard_link(&victim, &turn).unwrap();
        notice().turn(Instant::now()).unwrap().accepted();
        assert_eq!(fs::read_to_string(victim).unwrap(), "as it was");
    }

    #[test]
    fn what_others_have_put_there_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = SourceStamp { source: "pin".into(), changed: "1".into() };
        let fifo = |name: &str| {
            let made = std::process::Command::new("mkfifo").arg(directory.path().join(name)).status();
            assert!(made.unwrap().success());
        };
        fifo(&Notice::new(directory.path(), "hsm1", &stamp).turns());
        fifo("rejected-hsm1%2fpin");
        let (told, said) = std::sync::mpsc::channel();
        let path = directory.path().to_owned();
        // One that waits is never heard of.
        std::thread::spawn(move || {
            let mut notice = Notice::new(&path, "hsm1", &stamp);
            notice.turn(Instant::now()).unwrap().accepted();
            notice.withdraw();
            notice.post();
            told.send(Notice::new(&path, "hsm1", &stamp).stands().is_some())
        });
        assert_eq!(said.recv_timeout(std::time::Duration::from_secs(5)), Ok(true));
        // Nor is what never ends read to its end.
        fs::remove_file(directory.path().join("rejected-hsm1%2fpin")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", directory.path().join("rejected-hsm1%2fpin")).unwrap();
        let stamp = SourceStamp { source: "pin".into(), changed: "1".into() };
        assert!(Notice::new(directory.path(), "hsm1", &stamp).stands().is_none());
    }

    #[test]
    fn what_is_said_of_a_newer_state_is_not_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = |changed: &str| SourceStamp { source: "/etc/pin".into(), changed: changed.into() };
        let notice = |changed: &str| Notice::new(directory.path(), "hsm1", &stamp(changed));
        notice("1").post();
        // Its PIN is accepted when the next one is rejected already.
        let second = notice("2");
        notice("3").post();
        second.withdraw();
        assert!(notice("3").stands().is_some());
    }

    #[test]
    fn thousands_of_sources_leave_few_files() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..2000 {
            let stamp = SourceStamp { source: format!("/tmp/pin.{number}"), changed: "1".into() };
            Notice::new(directory.path(), "hsm1", &stamp).turn(Instant::now()).unwrap().accepted();
        }
        assert!(fs::read_dir(directory.path()).unwrap().count() <= 256);
    }

    #[test]
    fn sources_with_long_names_have_notices_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let notice = |name: &str| {
            let stamp = SourceStamp { source: format!("/{}/{name}", "etc/".repeat(80)), changed: "1".into() };
            Notice::new(directory.path(), "hsm1", &stamp)
        };
        notice("one").post();
        notice("other").post();
        assert!(notice("one").stands().is_some() && notice("other").stands().is_some());
    }
}
