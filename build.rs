//! Says what a missing assembler costs: cargo does not show the warnings of dependencies.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PATH");
    name_the_revision();
    let exact = env::var_os("CARGO_FEATURE_EXACT_JPEG").is_some();
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch.starts_with("x86"));
    if exact && x86 && Command::new("nasm").arg("-v").output().is_err() {
        println!(
            "cargo:warning=nasm is not installed: JPEG decoding will be about 2.6 times slower \
             (the pixels stay the same). Install it (apt install nasm, dnf install nasm, brew \
             install nasm), then run `cargo clean -p mozjpeg-sys` and build again."
        );
    }
}

/// Gives `tessera --version` the commit that it was built from, where that can be known.
fn name_the_revision() {
    println!("cargo:rerun-if-env-changed=TESSERA_REVISION");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    if env::var_os("TESSERA_REVISION").is_some() {
        return;
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        println!("cargo:rustc-env=TESSERA_REVISION={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}
