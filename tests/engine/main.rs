//! hsmkey as an engine: OpenSSL 1.1.1, and programs of 3.x that ask for one.

#[path = "../support/mod.rs"]
mod support;

mod all_versions;
mod controls;
mod ec_pairs;
mod installed;
mod key_ids;
mod libp11;
mod programs;
mod pss;
mod pss_keys;
mod reference_files;
mod signing;
mod tls;
