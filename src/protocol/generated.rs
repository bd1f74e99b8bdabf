//! What `make proto` makes of `proto/`: messages, service traits, and the descriptors that reflection shows.
//!
//! Committed, so that a build needs no compiler of protocol buffers. `make proto-check` fails when it is stale.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

/// A serialised `google.protobuf.FileDescriptorSet` of everything in `proto/` with what it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

// The nesting is that of the packages: the files refer to each other by it.
pub mod google {
    pub mod api {
        include!("generated/google.api.rs");
    }
    pub mod rpc {
        include!("generated/google.rpc.rs");
    }
    pub mod longrunning {
        include!("generated/google.longrunning.rs");
    }
    pub mod cloud {
        pub mod aiplatform {
            pub mod v1 {
                include!("generated/google.cloud.aiplatform.v1.rs");
            }
        }
    }
}

pub mod inference {
    include!("generated/inference.rs");
}
