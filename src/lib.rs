//! hsmkey: OpenSSL signs with keys that live in an HSM.
//!
//! One shared library is an OpenSSL provider (3.0 to 4.0); its private-key operations go to the HSM through PKCS#11.
//!
//! The map, and what each module may depend on (arrows go down only):
//!
//! | module | is | may use |
//! |---|---|---|
//! | `entry` | every exported C symbol | `provider` |
//! | `provider` | one file per operation that OpenSSL asks a provider for | `key`, `openssl` |
//! | [`key`] | a key: its public half and where the private half is | `hsm`, `keyfile`, `pin` |
//! | [`hsm`] | PKCS#11; knows nothing of OpenSSL | `error`, `public`, `pin` |
//! | `openssl` | OpenSSL's C interface; knows nothing of PKCS#11 | `error` |
//! | [`config`], [`uri`], [`keyfile`], [`pin`], [`mechanism`] | what users write, checked | `error`, `public` |

pub mod asn1;
pub mod certificate;
pub mod config;
mod entry;
pub mod environment;
pub mod error;
pub mod hsm;
pub mod key;
pub mod keyfile;
pub mod logging;
pub mod mechanism;
mod openssl;
pub mod pin;
mod provider;
pub mod public;
pub mod secret;
pub mod spki;
pub mod uri;
