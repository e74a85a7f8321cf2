//! The one choke point for threads: how many, when they pay, and a pool that survives a fork.

mod place;

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use place::Places;

/// Below this many nanoseconds of work a second thread costs more than it saves: waking one takes 10–50 µs.
pub const WORTH_THREADS: f64 = 80_000.0;
/// Nanoseconds of work in a chunk: long against the 0.1 µs that taking one costs, short against an uneven end.
const CHUNK: f64 = 100_000.0;

/// The threads asked for by [`set_num_threads`]; 0 until then.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// A pool and the process that made it.
struct Pool {
    process: u32,
    size: usize,
    pool: rayon::ThreadPool,
    places: Arc<Places>,
}

/// The pool in use. A replaced pool is leaked: another call may be running on it, and in a forked child its threads
/// do not exist, so that neither waiting for them nor dropping them is possible.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

/// Sets the number of threads that calls use by default.
pub fn set_num_threads(n: usize) {
    THREADS.store(n, Ordering::Relaxed);
}

/// The number of threads that calls use by default: what was set, else `KULLBACK_NUM_THREADS`, `RAYON_NUM_THREADS`,
/// `OMP_NUM_THREADS`, else what the process may use (affinity and control groups respected).
pub fn num_threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let named = ["KULLBACK_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"]
                .iter()
                // Of a list, as OpenMP has one for nested regions, the first.
                .find_map(|name| std::env::var(name).ok()?.split(',').next()?.trim().parse().ok().filter(|n| *n > 0));
            let n = named.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            THREADS.store(n, Ordering::Relaxed);
            n
        }
        n => n,
    }
}

/// A pool of at least `size` threads that belongs to this process; `None` where the system gives no threads.
fn pool(size: usize) -> Option<&'static Pool> {
    let process = std::process::id();
    loop {
        let current = POOL.load(Ordering::Acquire);
        // SAFETY: only leaked boxes are ever stored, so that a pointer that is not null stays valid.
        if let Some(current) = unsafe { current.as_ref() }
            && current.process == process
            && current.size >= size
        {
            return Some(current);
        }
        let places = Arc::new(Places::default());
        let joined = Arc::clone(&places);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(size)
            .thread_name(|i| format!("kullback-{i}"))
            .start_handler(move |_| joined.join())
            .build()
            .ok()?;
        let made = Box::into_raw(Box::new(Pool { process, size, pool, places }));
        if POOL.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: `made` was not published, so this is its only owner.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}

/// Rows in a chunk when a row takes this long: a multiple of `grain`, the same for any number of threads, because
/// reductions add chunk by chunk.
pub fn chunk_rows(nanoseconds_a_row: f64, grain: usize) -> usize {
    let rows = (CHUNK / nanoseconds_a_row.max(0.1)) as usize;
    (rows / grain).clamp(1, 1 << 20) * grain
}

/// Calls `work` with the number and the range of every chunk of `total` rows, on up to `threads` threads, this one of them:
/// nothing is waited for but the last chunks of the others.
pub fn chunks(total: usize, rows: usize, threads: usize, work: impl Fn(usize, Range<usize>) + Sync) {
    let count = total.div_ceil(rows);
    let range = |i: usize| i * rows..((i + 1) * rows).min(total);
    let threads = threads.min(count);
    let pool = if threads > 1 { pool(threads - 1) } else { None };
    let Some(pool) = pool else {
        return (0..count).for_each(|i| work(i, range(i)));
    };
    let next = AtomicUsize::new(0);
    let some = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            work(i, range(i));
        }
    };
    pool.places.beside_the_caller();
    pool.pool.in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| some());
        }
        some();
    });
}

/// Chunks whose results are kept until they have been taken: two seconds of work for a thread, and half a megabyte.
const ROUND: usize = 1 << 14;

/// [`chunks`] whose results `take` sees in order.
pub fn in_order<T: Clone + Default + Send>(
    total: usize,
    rows: usize,
    threads: usize,
    work: impl Fn(Range<usize>) -> T + Sync,
    mut take: impl FnMut(T),
) {
    for first in (0..total).step_by(rows.saturating_mul(ROUND)) {
        let some = (total - first).min(rows.saturating_mul(ROUND));
        let found = Mutex::new(vec![T::default(); some.div_ceil(rows)]);
        chunks(some, rows, threads, |i, range| {
            let one = work(first + range.start..first + range.end);
            found.lock().unwrap_or_else(|e| e.into_inner())[i] = one;
        });
        found.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().for_each(&mut take);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_once() {
        for threads in [1, 2, 3] {
            let seen = Mutex::new(vec![0; 1000]);
            chunks(1000, 7, threads, |_, range| range.for_each(|i| seen.lock().unwrap()[i] += 1));
            assert!(seen.into_inner().unwrap().iter().all(|n| *n == 1));
        }
    }

    #[test]
    fn results_in_order() {
        for (total, rows) in [(0, 3), (1, 3), (1000, 7), (ROUND * 2 + 5, 1), (ROUND * 3, 3), (5, usize::MAX)] {
            for threads in [1, 3] {
                let mut next = 0;
                let whole = |range: Range<usize>| if range.len() <= rows { range } else { 0..0 };
                in_order(total, rows, threads, whole, |range| {
                    assert_eq!(range.start, next);
                    next = range.end;
                });
                assert_eq!(next, total);
            }
        }
    }
}
