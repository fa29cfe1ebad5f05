//! Reads VHD. Must not know: what for.
