//! Builds and runs everything: the demo, the tests, the benchmarks.

fn main() {}
