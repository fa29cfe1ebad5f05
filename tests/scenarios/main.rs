//! What must work on real systems, end to end. One binary; one module per subject.

mod abuse;
mod boot;
mod costs;
mod formats;
mod media;
mod mishaps;
mod proof;
mod support;
mod terminal;
mod unattended;
