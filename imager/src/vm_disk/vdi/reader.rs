//! Reads VDI. Must not know: what for.
