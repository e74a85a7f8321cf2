//! What can go wrong, and what is said of rows that are not accepted.

/// A failed call: what kind it is, and a message that names the argument, what came and what is accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// A wrong type or dtype.
    Type(String),
    /// A value, a shape or an option that is not accepted.
    Value(String),
    /// A label out of range.
    Index(String),
    /// No memory for the result.
    Memory(String),
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// `n` copies of a value, or the error that there is no memory for `what`.
pub fn copies<T: Clone>(value: T, n: usize, what: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(n).map_err(|_| Error::Memory(format!("no memory for {what}")))?;
    all.resize(n, value);
    Ok(all)
}

/// A number for a message, short at every magnitude.
pub fn short(x: f64) -> String {
    let plain = x == 0.0 || !x.is_finite() || (1e-5..1e16).contains(&x.abs());
    if plain { x.to_string() } else { format!("{x:e}") }
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flaw {
    /// An element outside what the space accepts.
    Element {
        /// Its place in the row.
        column: usize,
        /// The element.
        value: f64,
    },
    /// A sum that is too far from 1.
    Sum(f64),
    /// A log-sum-exp that is too far from 0.
    LogSum(f64),
}

/// The message for invalid rows: the lowest of them, its flaw, and how many there are.
pub fn invalid_rows(argument: &str, given: &str, row: &str, flaw: Flaw, tolerance: f64, count: usize) -> Error {
    let what = match flaw {
        Flaw::Element { column, value } => {
            let remedy = match given {
                "probs" | "counts" if value < 0.0 => "; for logarithms pass given=\"log_probs\" or given=\"logits\"",
                _ => "",
            };
            let accepted = match given {
                "probs" | "counts" => "finite numbers >= 0",
                _ => "finite numbers and -inf",
            };
            let value = short(value);
            format!("column {column} is {value}, where given=\"{given}\" accepts {accepted}{remedy}")
        }
        Flaw::Sum(sum) => format!(
            "sums to {}, where given=\"probs\" accepts 1 within {tolerance}; for counts or weights pass given=\"counts\"",
            short(sum)
        ),
        Flaw::LogSum(sum) => format!(
            "has the log-sum-exp {}, where given=\"log_probs\" accepts 0 within {tolerance}; for unnormalised \
             logarithms pass given=\"logits\"",
            short(sum)
        ),
    };
    let more = match count {
        1 => String::new(),
        n => format!(" ({n} rows are invalid)"),
    };
    Error::Value(format!("{argument}: row {row} {what}{more}; on_invalid=\"nan\" turns such rows into NaN"))
}

/// The message for a label out of range.
pub fn label_out_of_range(label: i128, row: &str, classes: usize) -> Error {
    Error::Index(format!("label {label} of row {row} is out of range for {classes} classes"))
}

/// torch's message for a class index out of range.
pub fn target_out_of_bounds(target: i128) -> Error {
    Error::Index(format!("Target {target} is out of bounds."))
}

/// The message for an unknown option.
pub fn unknown(argument: &str, got: &str, accepted: &[&str]) -> Error {
    let accepted: Vec<String> = accepted.iter().map(|a| format!("{a:?}")).collect();
    Error::Value(format!("{argument} must be one of {}, got {got:?}", accepted.join(", ")))
}
