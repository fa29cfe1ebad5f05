//! Writes VHD. Must not know: where the bytes come from.
