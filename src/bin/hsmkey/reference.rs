//! `hsmkey keyfile --from-reference`: AWS's reference to a key, made into a key file of ours.

use std::path::{Path, PathBuf};

use hsmkey::error::{Error, Reason, Result};
use hsmkey::keyfile::from_foreign_reference;
use hsmkey::public::RsaPublicKey;
use zeroize::Zeroizing;

use crate::output::Output;

/// The public half that the file holds. The file itself is never written to: it may be all that somebody has.
///
/// # Errors
/// `InvalidArgument` where it cannot be read, holds a key that works, or is where the key file is to go; `BadKeyFile`.
pub fn read(file: &Path, output: &Output) -> Result<RsaPublicKey> {
    let failed = |why: String| Error::new(Reason::InvalidArgument, format!("{}: {why}", file.display()));
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    if output.file().is_some_and(|output| real(output) == real(file)) {
        return Err(failed("the reference is kept; give --out another name".into()));
    }
    let content = std::fs::read(file).map(Zeroizing::new).map_err(|error| failed(error.to_string()))?;
    from_foreign_reference(&content)
        .map_err(|error| Error::new(error.reason(), format!("{}: {}", file.display(), error.detail())))
}
