//! Debian's programs with a key in the HSM: their own packages, the configuration that users get from conf/, on loopback.
//!
//! Each test is one application. It works through every kind of key and every form in which the application can be told of it,
//! and writes what came of it into the table of docs/applications.md (table.rs). What this machine lacks is skipped and said.
//! `HSMKEY_SOAK=1` makes each server serve 300 requests and more.

#[path = "../support/mod.rs"]
mod support;

mod apache;
mod databases;
mod haproxy;
mod languages;
mod lighttpd;
mod mosquitto;
mod nginx;
mod opendkim;
mod page;
mod refused;
mod signers;
mod site;
mod socat;
mod stunnel;
mod table;
mod tls_client;
mod without;
