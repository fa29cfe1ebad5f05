//! What must work on real systems, end to end. One binary; one module per subject.

mod boot;
mod media;
mod mishaps;
mod proof;
mod support;
mod terminal;
mod unattended;
