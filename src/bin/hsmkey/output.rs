//! Where a result goes: stdout, or a file that only its owner can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hsmkey::error::{Error, Reason, Result};

/// Where the key file goes.
#[derive(clap::Args)]
pub struct Output {
    /// Write the key file here; `-` is stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file if there is one
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
        let Some(file) = self.out.as_deref().filter(|_| !self.is_stdout()) else { return Ok(()) };
        if !self.force && file.symlink_metadata().is_ok() {
            return Err(failed(file, "the file exists; --force replaces it"));
        }
        if file.is_dir() {
            return Err(failed(file, "is a directory"));
        }
        // The file itself is not made before there is something to write.
        let trial = beside(file).and_then(|trial| create(&trial, "").and_then(|()| fs::remove_file(trial)));
        trial.map_err(|error| failed(file, &error))
    }

    /// Writes the key file. A file is whole or not there.
    ///
    /// # Errors
    /// Those of [`Output::check`], and `InvalidArgument` where the file cannot be written.
    pub fn write(&self, key_file: &str) -> Result<()> {
        let Some(file) = self.out.as_deref().filter(|_| !self.is_stdout()) else {
            return print(key_file);
        };
        self.check()?;
        let written = if self.force { replace(file, key_file) } else { create(file, key_file) };
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

fn create(file: &Path, text: &str) -> io::Result<()> {
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let written = new.write_all(text.as_bytes()).and_then(|()| new.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(file);
    }
    written
}

/// A service that reads the file at this moment gets the old one or the new one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = beside(file)?;
    create(&new, text)?;
    let renamed = fs::rename(&new, file);
    if renamed.is_err() {
        let _ = fs::remove_file(&new);
    }
    renamed
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
