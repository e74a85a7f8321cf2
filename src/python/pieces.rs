//! Rows that do not lie in one array, scored a piece at a time: where they are as far as they lie in one array, and
//! brought together in cache where they do not.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::array::{Array, Kind, Pieces, Rows, Source, follow};
use crate::score::{Axes, Invalid, Job};

/// Bytes of an operand's rows that are brought together at once: they fit the second level of cache.
const STAGED: usize = 2 << 20;

/// Bytes below which rows are brought together even where they lie in one array: a call takes some microseconds, in
/// which about as many bytes are scored.
const LEAST: usize = 64 << 10;

/// Arrays by the names of their arguments.
pub type Arrays<'py> = SmallVec<[(&'static str, Array<'py>); 2]>;

/// The operands of a call.
pub struct Operands<'py> {
    /// The arrays; outlines of them where there are pieces.
    pub arrays: Arrays<'py>,
    /// What kind of result the caller gets.
    pub kind: Kind<'py>,
    /// The frame whose series the result is.
    pub frame: Option<Bound<'py, PyAny>>,
    pieces: SmallVec<[Option<Pieces<'py>>; 2]>,
    /// The class axis, counted from the last, of all but single rows.
    axis: isize,
}

impl<'py> Operands<'py> {
    /// The arguments of a call with its class axis.
    pub fn new(arguments: &[(&'static str, &Bound<'py, PyAny>)], axis: isize) -> PyResult<Self> {
        if let Some(arrays) = arrays(arguments)? {
            return Ok(Operands { arrays, kind: Kind::Numpy, frame: None, pieces: SmallVec::new(), axis });
        }
        let mut sources: SmallVec<[(&'static str, Source<'py>); 2]> =
            arguments.iter().map(|(name, obj)| Ok((*name, Source::new(name, obj)?))).collect::<PyResult<_>>()?;
        let frame = common(&mut sources)?;
        let shapes = || sources.iter().map(|(_, source)| source.shape());
        let most = shapes().map(<[usize]>::len).max().unwrap_or(0);
        let axis = if axis < 0 { axis } else { axis - most as isize };
        let rows = shapes().filter(|s| s.len() == most).filter_map(|s| s.first().copied()).max();
        // Pieces are cut along the first axis of the result, which no other one may come before.
        let is_cut = |shape: &[usize]| {
            shape.len() == most && shape.first().copied() == rows && axis < 0 && -axis < most as isize
        };
        let (mut arrays, mut pieces) = (SmallVec::new(), SmallVec::new());
        for (name, source) in sources {
            let (array, rest) = match source.rows {
                Rows::Pieces(pieces) if is_cut(&pieces.shape) => (pieces.outline(), Some(pieces)),
                rows => (Source { rows, frame: None }.whole()?, None),
            };
            arrays.push((name, array));
            pieces.push(rest);
        }
        let kind = {
            let lent: SmallVec<[(&str, &Array<'py>); 2]> = arrays.iter().map(|(name, x)| (*name, x)).collect();
            Kind::of(&lent)?
        };
        if frame.is_some() && !matches!(kind, Kind::Numpy) {
            return Err(PyTypeError::new_err(
                "a data frame and a tensor, or a series of another library, do not mix: pass one of them as an ndarray",
            ));
        }
        Ok(Operands { arrays, kind, frame, pieces, axis })
    }

    /// The arrays as they are lent to a call.
    pub fn borrowed(&self) -> SmallVec<[(&'static str, &Array<'py>); 2]> {
        let mut lent = SmallVec::new();
        for (name, x) in &self.arrays {
            lent.push((*name, x));
        }
        lent
    }

    /// Whether there is anything but arrays.
    pub fn are_pieces(&self) -> bool {
        self.pieces.iter().any(Option::is_some)
    }

    /// Calls `see` with the job on every piece and the number of its first row, and adds up what is wrong with the rows.
    pub fn walk(&self, job: &Job, mut see: impl FnMut(&Job, usize) -> PyResult<Invalid>) -> PyResult<Invalid> {
        let pieces = || self.pieces.iter().enumerate().filter_map(|(k, p)| Some((k, p.as_ref()?)));
        let total = job.lead.first().copied().unwrap_or(0);
        if !self.are_pieces() || job.is_empty() {
            return see(job, 0);
        }
        let row = pieces().map(|(_, p)| p.row_bytes()).max().unwrap_or(1).max(1);
        let inner = job.len() / total;
        let (mut invalid, mut start) = (Invalid::default(), 0);
        while start < total {
            let mut stop = total;
            for (_, pieces) in pieces() {
                stop = stop.min(pieces.reach(start)?);
            }
            if stop < total && stop.saturating_sub(start) * row < LEAST {
                stop = total.min(start + (STAGED / row).max(1));
            }
            let mut part = job.slice(start..stop);
            let mut held = SmallVec::<[Array<'py>; 2]>::new();
            for (k, pieces) in pieces() {
                let block = pieces.block(start, stop)?;
                let (mut shape, mut strides) = (Axes::from(block.shape()), Axes::from(block.strides()));
                let classes = (shape.len() as isize + self.axis) as usize;
                shape.remove(classes);
                let x = &mut part.operands[k];
                (x.data, x.swapped) = (block.data, block.swapped);
                x.class_stride = strides.remove(classes);
                x.lead = follow(&part.lead, &shape, &strides);
                held.push(block);
            }
            invalid.merge(see(&part, start * inner)?, start * inner);
            start = stop;
        }
        Ok(invalid)
    }
}

/// The arguments where all are ndarrays, which is what a call on one row comes with: half its time went into looking for
/// anything else.
fn arrays<'py>(arguments: &[(&'static str, &Bound<'py, PyAny>)]) -> PyResult<Option<Arrays<'py>>> {
    let mut arrays = Arrays::new();
    for (name, obj) in arguments {
        let Some(array) = Array::exact(name, obj)? else { return Ok(None) };
        arrays.push((*name, array));
    }
    Ok(Some(arrays))
}

/// The frame of the result. Two frames must be of the same rows and classes: they are not lined up here.
fn common<'py>(sources: &mut [(&'static str, Source<'py>)]) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut found: Option<(&str, Bound<'py, PyAny>)> = None;
    for (name, source) in sources {
        let Some(frame) = source.frame.take() else { continue };
        match &found {
            Some((first, of)) => {
                of.call_method1("agree", (first, &frame, *name))?;
            }
            None => found = Some((name, frame)),
        }
    }
    Ok(found.map(|(_, frame)| frame))
}
