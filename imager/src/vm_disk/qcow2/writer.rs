//! Writes qcow2. Must not know: where the bytes come from.
