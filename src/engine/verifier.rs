//! Verifying with the application's own OpenSSL, where an HSM has two halves of a key and says of neither which is the other's.

use crate::error::{Result, bail};
use crate::hsm;
use crate::mechanism::ecdsa_signature;
use crate::openssl::engine::PublicKeys;
use crate::public::PublicKey;
use crate::spki::public_to_spki;
use crate::workers;

/// Verifies on behalf of an engine.
pub(super) struct Verifier(pub(super) PublicKeys);

impl hsm::Verifier for Verifier {
    fn verifies(&self, key: &PublicKey, input: &[u8], signature: &[u8]) -> Result<bool> {
        let verify = || match key {
            PublicKey::Ec(_) => self.0.verifies(&public_to_spki(key), input, &ecdsa_signature(signature)?),
            PublicKey::Ed25519(_) => self.0.verifies_message(&public_to_spki(key), input, signature),
            // Its modulus is what an RSA key is found by.
            PublicKey::Rsa(_) => Ok(true),
        };
        workers::inside(verify).unwrap_or_else(|| bail!(HostUnusable, "it has ended while the HSM worked"))
    }
}
