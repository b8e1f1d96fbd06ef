//! Where a result goes: stdout, or a file. A new file is its owner's alone; one that is replaced keeps its owner, its group and its mode.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use hsmkey::error::{Error, Reason, Result};

/// Where the key file goes.
#[derive(clap::Args)]
pub struct Output {
    /// Write the key file here; `-` is stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file if there is one; its owner and mode stay, and of a symbolic link what it leads to is replaced
    #[arg(long, requires = "out")]
    force: bool,
}

impl Output {
    /// Whether the key file goes to stdout, by name.
    pub fn is_stdout(&self) -> bool {
        self.out.as_deref() == Some(Path::new("-"))
    }

    /// Whether a place was named.
    pub fn is_named(&self) -> bool {
        self.out.is_some()
    }

    /// The file, where one was named.
    pub fn file(&self) -> Option<&Path> {
        self.out.as_deref().filter(|_| !self.is_stdout())
    }

    /// Fails where [`Output::write`] would. Whoever makes a key in the HSM asks before.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that is there and is not to be replaced, and for a place where none can be made.
    pub fn check(&self) -> Result<()> {
        let Some(file) = self.file() else { return Ok(()) };
        let place = Place::of(file, self.force)?;
        // The file itself is not made before there is something to write.
        let trial = beside(&place.file).and_then(|trial| {
            let made = place.create(&trial, "");
            made.and_then(|()| fs::remove_file(trial))
        });
        trial.map_err(|error| failed(file, &error))
    }

    /// Writes the key file. A file is whole or not there.
    ///
    /// # Errors
    /// Those of [`Output::check`], and `InvalidArgument` where the file cannot be written.
    pub fn write(&self, key_file: &str) -> Result<()> {
        let Some(file) = self.file() else { return print(key_file) };
        let place = Place::of(file, self.force)?;
        let written = if self.force { place.replace(key_file) } else { place.create(&place.file, key_file) };
        written.map_err(|error| failed(file, &error))
    }
}

/// Writes to stdout.
///
/// # Errors
/// `InvalidArgument` where that is closed.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Error::new(Reason::InvalidArgument, format!("stdout: {error}")))
}

/// Where a file is to be, and what is there now.
struct Place {
    file: PathBuf,
    old: Option<Metadata>,
}

impl Place {
    /// The place of a name, behind every symbolic link where something may be replaced.
    fn of(file: &Path, force: bool) -> Result<Self> {
        if file.symlink_metadata().is_err() {
            return Ok(Self { file: file.to_owned(), old: None });
        }
        if file.is_dir() {
            return Err(failed(file, "is a directory"));
        }
        if !force {
            return Err(failed(file, "the file exists; --force replaces it"));
        }
        let real = file.canonicalize().map_err(|_| failed(file, "is a symbolic link to nothing"))?;
        let old = real.metadata().map_err(|error| failed(file, &error))?;
        // /dev/stdout and /dev/null are names of this kind.
        if !old.is_file() {
            return Err(failed(file, "is no regular file, and is not replaced; `-` is stdout"));
        }
        Ok(Self { file: real, old: Some(old) })
    }

    /// A new file, with the owner and the mode of the old one.
    fn create(&self, file: &Path, text: &str) -> io::Result<()> {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        let written = self.hand_over(&new).and_then(|()| new.write_all(text.as_bytes()));
        let written = written.and_then(|()| new.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(file);
        }
        written
    }

    fn hand_over(&self, new: &File) -> io::Result<()> {
        let Some(old) = &self.old else { return Ok(()) };
        let own = new.metadata()?;
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            fchown(new, Some(old.uid()), Some(old.gid())).map_err(|error| {
                let owner = format!("its owner and group, {}:{}, cannot be kept", old.uid(), old.gid());
                io::Error::new(error.kind(), format!("{owner} ({error}); remove the file, or be root"))
            })?;
        }
        // After the owner: changing that takes rights away.
        new.set_permissions(Permissions::from_mode(old.mode() & 0o777))
    }

    /// A service that reads the file at this moment gets the old one or the new one.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = beside(&self.file)?;
        self.create(&new, text)?;
        let renamed = fs::rename(&new, &self.file);
        if renamed.is_err() {
            let _ = fs::remove_file(&new);
        }
        renamed
    }
}

/// A name in the same directory that nobody else uses.
fn beside(file: &Path) -> io::Result<PathBuf> {
    let mut name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    Ok(file.with_file_name(name))
}

fn failed(file: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Reason::InvalidArgument, format!("{}: {why}", file.display()))
}
