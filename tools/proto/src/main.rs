//! Generates Rust from `proto/` into `src/grpc/generated/`, with the descriptors that reflection shows.
//!
//! ```text
//! cargo run --manifest-path tools/proto/Cargo.toml            # writes
//! cargo run --manifest-path tools/proto/Cargo.toml -- --check # fails if anything would be written
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use prost::Message;

/// The files with services, from which all others are imported.
const SERVICES: [&str; 2] =
    ["google/cloud/aiplatform/v1/prediction_service.proto", "google/cloud/aiplatform/v1beta1/prediction_service.proto"];

/// What reflection is answered from.
const DESCRIPTORS: &str = "descriptors.bin";

/// A package that is only described: its messages are v1's, and so is its implementation.
const DESCRIBED_ONLY: &str = "v1beta1";

fn main() -> ExitCode {
    let check = std::env::args().nth(1).is_some_and(|argument| argument == "--check");
    match run(check) {
        Ok(stale) if check && !stale.is_empty() => {
            eprintln!("src/grpc/generated is not what proto/ says: {}. Run `make proto`.", stale.join(", "));
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives the names of the files that are, or were, not as they should be.
fn run(check: bool) -> Result<Vec<String>, Box<dyn Error>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let folder = repository.join("src/grpc/generated");
    let wanted = generate(&repository.join("proto"))?;
    let present = read(&folder)?;
    let mut stale: Vec<String> = present.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
    stale.extend(
        wanted.iter().filter(|(name, content)| present.get(*name) != Some(content)).map(|(name, _)| name.clone()),
    );
    if !check {
        fs::create_dir_all(&folder)?;
        for name in &stale {
            match wanted.get(name) {
                Some(content) => fs::write(folder.join(name), content)?,
                None => fs::remove_file(folder.join(name))?,
            }
            println!("{name}");
        }
    }
    Ok(stale)
}

fn generate(protos: &Path) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut descriptors = protox::compile(SERVICES, [protos])?;
    let scratch = tempfile::tempdir()?;
    let mut code = descriptors.clone();
    code.file.retain(|file| !file.package().ends_with(DESCRIBED_ONLY));
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .out_dir(scratch.path())
        .compile_fds(code)?;
    // Comments are for readers of the sources; reflection goes without.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let mut files = read(scratch.path())?;
    files.insert(DESCRIPTORS.to_owned(), descriptors.encode_to_vec());
    Ok(files)
}

fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
    }
    Ok(files)
}
