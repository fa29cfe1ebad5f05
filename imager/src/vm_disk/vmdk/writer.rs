//! Writes VMDK. Must not know: where the bytes come from.
