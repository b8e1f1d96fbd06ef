//! The PKCS#11 layer on real SoftHSM2, bare and behind the CloudHSM stand-in.

// These scenarios need a part of it.
#[path = "../support/mod.rs"]
mod support;

mod control;
mod counts;
mod families;
mod faults;
mod forks;
mod keys;
mod modules;
mod pairs;
mod pins;
mod scenario;
mod sessions;
mod tokens;
