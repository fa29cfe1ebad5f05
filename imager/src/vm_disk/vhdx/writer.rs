//! Writes VHDX. Must not know: where the bytes come from.
