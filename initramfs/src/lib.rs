//! What goes on the boot medium: the kernel's modules with all that they need, helper programs with their
//! libraries, and the agent as `/init`, in one archive that is the same whenever it is built from the same.
//!
//! Must not know: what the agent does, how media are made.

#![forbid(unsafe_code)]
