//! `libcloudhsm_pkcs11.so`: a PKCS#11 2.40 module in front of SoftHSM2 that behaves as AWS CloudHSM is documented to behave.
//!
//! It is a test instrument. README.md lists every setting, control line and counter.
//!
//! The way of a call: [`entry`] (the C symbol) -> [`call`] (what every call goes through: counters, fork rule, faults,
//! latency) -> the file of its chapter, which imposes CloudHSM's rules and asks SoftHSM2 through [`softhsm`].

mod attributes;
mod bare;
mod call;
mod control;
mod counters;
mod crypt;
pub mod entry;
mod exit;
mod faults;
mod find;
mod fork;
mod keygen;
mod lifecycle;
mod login;
mod logs;
mod mechanisms;
mod objects;
mod outage;
mod process;
mod requests;
mod sessions;
mod settings;
mod shared;
mod sign;
mod slots;
mod softhsm;
mod source;
mod startup;
mod state;
mod template;
