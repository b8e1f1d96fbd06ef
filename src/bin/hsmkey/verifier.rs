//! Verifying with the machine's `openssl` command: which of an HSM's public keys belongs to a private one, only a signature tells
//! sometimes, and this command links no libcrypto.

use std::fmt::Display;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm;
use hsmkey::mechanism::ecdsa_signature;
use hsmkey::public::PublicKey;
use hsmkey::spki::public_to_spki;

/// The `openssl` of PATH, with no configuration: hsmkey may be in that.
pub struct Openssl;

impl hsm::Verifier for Openssl {
    fn verifies(&self, key: &PublicKey, input: &[u8], signature: &[u8]) -> Result<bool> {
        let signature = match key {
            PublicKey::Ec(_) => ecdsa_signature(signature)?,
            _ => signature.to_vec(),
        };
        let pem = pem_rfc7468::encode_string("PUBLIC KEY", pem_rfc7468::LineEnding::LF, &public_to_spki(key))
            .map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
        let directory = Directory::new().map_err(|error| failed(&error))?;
        let write = |name: &str, octets: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, octets).map(|()| path).map_err(|error| failed(&error))
        };
        let mut openssl = Command::new("openssl");
        openssl.args(["pkeyutl", "-verify", "-pubin", "-inkey"]).arg(write("key", pem.as_bytes())?);
        openssl.arg("-sigfile").arg(write("signature", &signature)?).arg("-in").arg(write("input", input)?);
        if matches!(key, PublicKey::Ed25519(_)) {
            openssl.arg("-rawin");
        }
        openssl.env("OPENSSL_CONF", "/dev/null").env("LC_ALL", "C").stdin(Stdio::null());
        verdict(&openssl.output().map_err(|error| failed(&error))?)
    }
}

/// What pkeyutl has found out. Its exit status is 1 for a wrong signature and for whatever keeps it from looking at one: of the two only the
/// first has an answer on stdout, the same in every version.
fn verdict(output: &Output) -> Result<bool> {
    if output.status.success() {
        return Ok(true);
    }
    if output.stdout.starts_with(b"Signature Verification Failure") {
        return Ok(false);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.is_empty()).unwrap_or("it says nothing");
    Err(failed(format!("{}: {said}", output.status)))
}

fn failed(error: impl Display) -> Error {
    let detail = format!("to know whose public key it is, the openssl command has to verify: {error}");
    Error::new(Reason::HostUnusable, detail)
}

/// A directory of ours alone, which goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Self> {
        for number in 0..1000 {
            let path = std::env::temp_dir().join(format!("hsmkey.{}.{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
