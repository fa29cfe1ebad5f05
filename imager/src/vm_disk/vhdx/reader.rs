//! Reads VHDX. Must not know: what for.
