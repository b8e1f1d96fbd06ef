//! OpenSSL's C interfaces of a provider and of an engine, made safe: what lies above sees traits, slices and [`Result`](crate::error::Result)s.
//!
//! This module knows nothing of PKCS#11. It links to no libcrypto: what it needs comes through the core's upcalls
//! ([`core`]) and, for digests and as an engine, from the libcrypto that loaded us ([`host`]).

#![allow(unsafe_code)]

pub mod algorithm;
pub mod bindings;
mod boundary;
pub mod core;
pub mod digest;
mod dispatch;
pub mod engine;
mod event;
mod host;
mod job;
pub mod later;
pub mod operation;
pub mod params;
pub mod public_key;
mod stack;
