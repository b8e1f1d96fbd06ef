//! hsmkey: OpenSSL signs with keys that live in an HSM.
//!
//! One shared library is an OpenSSL provider (3.0 to 4.0) and an OpenSSL engine (1.1.1 to 3.x); its private-key operations go to the
//! HSM through PKCS#11.
//!
//! The map, and what each module may depend on (arrows go down only):
//!
//! | module | is | may use |
//! |---|---|---|
//! | `entry` | every exported C symbol | `provider`, `engine` |
//! | `provider` | one file per operation that OpenSSL asks a provider for | `key`, `openssl`, [`workers`], what users write |
//! | `engine` | the same keys for what asks for an engine | `key`, `openssl`, [`workers`], what users write |
//! | [`key`] | a key: its public half and where the private half is | `hsm`, `pin`, [`workers`], what users write |
//! | [`pin`] | where a PIN comes from | `hsm` for its [`Authenticator`](hsm::Authenticator), what users write |
//! | [`hsm`] | PKCS#11; knows nothing of OpenSSL | `config`, `uri`, `mechanism`, `public`, `curve`, `secret` |
//! | `openssl` | OpenSSL's C interface; knows nothing of PKCS#11 | `error`, [`workers`] |
//! | [`workers`] | threads for those who cannot wait | what `hsm` knows of fork(2) |
//! | [`config`], [`environment`], [`uri`], [`keyfile`], [`mechanism`] | what users write, checked | the rest |
//! | [`public`], [`curve`], [`spki`], [`certificate`], [`asn1`], [`octets`], `chain`, [`secret`], [`logging`], [`error`] | small things that all may use | each other |

// clippy.toml says which, and why.
#![warn(clippy::disallowed_types)]

pub mod asn1;
pub mod certificate;
mod chain;
pub mod config;
pub mod curve;
mod engine;
mod entry;
pub mod environment;
pub mod error;
pub mod hsm;
pub mod key;
pub mod keyfile;
pub mod logging;
pub mod mechanism;
pub mod octets;
mod openssl;
pub mod pin;
mod provider;
pub mod public;
pub mod secret;
pub mod spki;
pub mod uri;
pub mod workers;

pub use engine::CONTROLS;
