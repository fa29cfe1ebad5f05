//! Reads qcow2. Must not know: what for.
