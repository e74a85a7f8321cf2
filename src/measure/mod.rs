//! The quantities: one small file a family. A measure is a formula; see [`crate::rows::Measure`].
//!
//! Inputs are masses (probabilities or counts, `lin`) or logarithms of masses (log-probabilities or logits, `log`).
//! A mass enters divided by its row's sum, a logarithm less its row's log-sum-exp, so that no measure asks for
//! normalised rows: `probs` differs from `counts`, and `log_probs` from `logits`, in what is checked afterwards.

mod compare;
mod cross_entropy;
mod entropy;
mod frame;
pub(crate) mod js;
mod kl;
mod pair;
mod pointwise;
mod slope;
mod softmax;

pub use compare::{COMPARE, Compare};
pub use cross_entropy::{CrossEntropyLin, CrossEntropyLog, CrossEntropyLogLin, CrossEntropyMixed};
pub use entropy::{EntropyLin, EntropyLog};
pub use frame::{LOG, Scale};
pub use kl::{KlLin, KlLog};
pub use pair::{Generator, PairLin, PairLog};
pub use pointwise::{
    Binary, BinaryInput, BinaryTarget, Kl, KlInput, KlOfLog, KlOfLogInput, KlOfLogTarget, KlTarget, LogSoftmaxInput,
    Logistic, LogisticInput, LogisticTarget, Outside, Product, SoftmaxInput, Summed,
};
pub use slope::{Slope, SlopeOf};
pub use softmax::{
    Exp, Expected, ExpectedInput, ExpectedTarget, Exponentials, Largest, LogSoftmax, LogSumExp, Softmax, Times, Total,
};
