//! The C interface: `include/lvs_dr.h` and its library, made from these files by cbindgen (see
//! `build.rs`).
//!
//! Only what C needs: handles, texts and numbers become this crate's types, errors become numbers.
//! The conventions are those of `preamble.h`, which is the beginning of the header; the comments
//! here are the rest of it, and so are written for users of C.
//!
//! A pointer that may be NULL is an `Option` of a reference or a box where the type allows it.
//! Then the compiler knows what the header demands, and few places are `unsafe`: texts
//! ([`ffi::Text`]) and structures that may be older or newer than ours.

#![allow(unsafe_code, reason = "pointers of C's")]
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(unreachable_pub, reason = "public for C, not for Rust")]
#![allow(non_camel_case_types, reason = "as in the header")]

mod address;
mod arp;
mod classifier;
mod connections;
mod control;
mod driver;
mod ffi;
mod ipvs;
mod local;
mod marks;
mod monitor;
mod node;
mod report;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;
mod vip;

/// A handle goes from thread to thread, and several threads read one list: the header says so.
const _: () = {
    const fn moves<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    moves::<ipvs::lvs_ipvs>();
    moves::<vip::lvs_vips>();
    moves::<arp::lvs_arp>();
    moves::<node::lvs_node>();
    moves::<marks::lvs_marks>();
    moves::<classifier::lvs_classifier>();
    moves::<local::lvs_local_marks>();
    moves::<monitor::lvs_monitor>();
    moves::<driver::lvs_driver>();
    moves::<supervisor::lvs_supervisor>();
    is_shared::<ipvs::lvs_services>();
    is_shared::<ipvs::lvs_destinations>();
    is_shared::<control::lvs_sync_daemons>();
    is_shared::<connections::lvs_connections>();
    is_shared::<vip::lvs_places>();
    is_shared::<marks::lvs_rules>();
    is_shared::<classifier::lvs_classifiers>();
    is_shared::<local::lvs_marked>();
    is_shared::<monitor::lvs_neighbours>();
    is_shared::<report::lvs_texts>();
    is_shared::<supervisor::lvs_other_nodes>();
    is_shared::<report::lvs_status>();
    is_shared::<report::lvs_findings>();
};
