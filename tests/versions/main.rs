//! One and the same hsmkey.so on every OpenSSL.

#[path = "../support/mod.rs"]
mod support;

mod provider;
mod two_sections;
