//! Generates Rust from `proto/` into `src/protocol/generated/`, with the descriptors that reflection shows.
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
use prost_types::{DescriptorProto, FileDescriptorProto};

/// The files with services, from which all others are imported.
const SERVICES: [&str; 5] = [
    "google/cloud/aiplatform/v1/prediction_service.proto",
    "google/cloud/aiplatform/v1/model_service.proto",
    "google/cloud/aiplatform/v1/endpoint_service.proto",
    "google/longrunning/operations.proto",
    "inference/grpc_service.proto",
];

/// What reflection is answered from.
const DESCRIPTORS: &str = "descriptors.bin";

/// The package whose other version is only described: messages and implementation are the same.
const V1: &str = "google.cloud.aiplatform.v1";
const V1BETA1: &str = "google.cloud.aiplatform.v1beta1";

fn main() -> ExitCode {
    let check = std::env::args().nth(1).is_some_and(|argument| argument == "--check");
    match run(check) {
        Ok(stale) if check && !stale.is_empty() => {
            eprintln!("src/protocol/generated is not what proto/ says: {}. Run `make proto`.", stale.join(", "));
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
    let folder = repository.join("src/protocol/generated");
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
    // By its name a message is found among the descriptors, and packed into an Any.
    let mut names = prost_build::Config::new();
    names.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .generate_default_stubs(true)
        .bytes(".")
        .out_dir(scratch.path())
        .compile_fds_with_config(descriptors.clone(), names)?;
    // Comments are for readers of the sources; reflection goes without.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let other: Vec<_> = descriptors.file.iter().filter(|file| file.package() == V1).cloned().map(as_v1beta1).collect();
    descriptors.file.extend(other);
    let mut files = read(scratch.path())?;
    files.insert(DESCRIPTORS.to_owned(), descriptors.encode_to_vec());
    Ok(files)
}

/// A file of v1 as that of v1beta1: other names, and nothing else.
fn as_v1beta1(mut file: FileDescriptorProto) -> FileDescriptorProto {
    let name = |name: &str| name.replace("/aiplatform/v1/", "/aiplatform/v1beta1/");
    let path = |name: &str| match name.strip_prefix(&format!(".{V1}.")) {
        Some(rest) => format!(".{V1BETA1}.{rest}"),
        None => name.to_owned(),
    };
    file.name = file.name.as_deref().map(name);
    file.package = Some(V1BETA1.to_owned());
    file.dependency.iter_mut().for_each(|dependency| *dependency = name(dependency));
    file.message_type.iter_mut().for_each(|message| rename_types(message, &path));
    for method in file.service.iter_mut().flat_map(|service| &mut service.method) {
        method.input_type = method.input_type.as_deref().map(path);
        method.output_type = method.output_type.as_deref().map(path);
    }
    file
}

fn rename_types(message: &mut DescriptorProto, path: &impl Fn(&str) -> String) {
    for field in &mut message.field {
        field.type_name = field.type_name.as_deref().map(path);
    }
    message.nested_type.iter_mut().for_each(|nested| rename_types(nested, path));
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
