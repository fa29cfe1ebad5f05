//! Reads VMDK. Must not know: what for.
