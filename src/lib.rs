//! Entropies and divergences of rows of distributions: exact, reproducible in bits, at memory speed.
//!
//! The way of a call: a binding makes a [`score::Job`] of arrays, [`registry`] says which [`measure`] the quantity is in the
//! rows' space, [`parallel`] splits the rows into chunks, and a driver of [`rows`] evaluates the measure chunk by chunk on
//! the logical vectors of [`simd`]. What comes out is checked, converted and stored by [`score`], and added up by
//! [`reduce`].
//!
//! Formulas, sums and messages need no pointer, and are forbidden any `unsafe`.

pub mod compare;
pub mod elementwise;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod exact_sum;
#[forbid(unsafe_code)]
pub mod group;
pub mod loss;
#[forbid(unsafe_code)]
mod math;
#[forbid(unsafe_code)]
pub mod measure;
#[forbid(unsafe_code)]
pub mod packed;
pub mod parallel;
#[cfg(feature = "python")]
mod python;
#[forbid(unsafe_code)]
pub mod reduce;
#[forbid(unsafe_code)]
pub mod registry;
pub mod rows;
pub mod score;
pub mod simd;
pub mod slope;
