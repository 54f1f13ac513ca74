//! Switches the sources of this package to loom's atomics and cells.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=millpond_loom");
}
