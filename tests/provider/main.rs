//! Unchanged programs with a key in the HSM: every scenario runs real programs on a real SoftHSM2 token.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod bad_paddings;
mod certificates;
mod choices;
mod commands;
mod composites;
mod decryption;
mod ec;
mod ec_keygen;
mod ec_pairs;
mod ed25519;
mod encoders;
mod foreign_references;
mod generation;
mod keygen_and_keyfile;
mod memory;
mod nss;
mod ordinary_key_files;
mod pin;
mod pss;
mod pss_keys;
mod readme;
mod recover;
mod requests;
mod scripts;
mod secrets;
mod shared_library;
mod signing;
mod store;
mod system_configuration;
mod tls;
