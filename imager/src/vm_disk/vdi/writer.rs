//! Writes VDI. Must not know: where the bytes come from.
