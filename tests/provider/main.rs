//! Unchanged programs with a key in the HSM: every scenario runs real programs on a real SoftHSM2 token.

#[path = "../support/mod.rs"]
mod support;

mod keygen_and_keyfile;
mod readme;
mod shared_library;
mod system_configuration;
