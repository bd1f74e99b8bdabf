//! Why a model answered as it did: how much each feature of an instance contributes, by Shapley values.
//!
//! Pure functions: which variants of an instance are to be evaluated, and what follows from their outputs. Who
//! evaluates them is no concern of this module.
//!
//! - [`spec`]: what is asked for, from the deployed model's specification and the request's
//! - [`shapley`]: which coalitions of features, and the values that follow
//! - [`features`]: the features of an instance as JSON, and its variants
//! - [`regions`]: the same for pictures, whose features are the fields of a grid

pub mod features;
pub mod regions;
pub mod shapley;
pub mod spec;
