//! hsmkey as an engine: OpenSSL 1.1.1, and programs of 3.x that ask for one.

#[path = "../support/mod.rs"]
mod support;

mod all_versions;
mod controls;
mod key_ids;
mod programs;
mod pss_keys;
mod reference_files;
mod signing;
mod tls;
