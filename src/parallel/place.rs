//! On which processors the pool's threads may run: on Linux, not on the caller's.
//!
//! The caller of a parallel loop works too, so a worker that is woken on the caller's processor waits for a whole slice of
//! it (2.8 ms, as long as reading 80 MB). A guest of KVM does that whenever it has been idle for some milliseconds: its
//! kernel takes a halted processor for one that the host has taken away, and wakes threads where the waker runs. Measured
//! on two such processors: calls after 5 ms of rest took 2.7 ms on two threads, no less than on one; now 1.4 ms.

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::Mutex;

    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

    /// The threads of a pool, and where they may run.
    #[derive(Default)]
    pub struct Places(Mutex<State>);

    #[derive(Default)]
    struct State {
        threads: Vec<Pid>,
        allowed: Option<CpuSet>,
    }

    impl State {
        /// Where a thread cannot be sent it stays where it is: it is a matter of speed.
        fn send(&self, thread: Pid) {
            if let Some(allowed) = &self.allowed {
                let _ = sched_setaffinity(Some(thread), allowed);
            }
        }
    }

    impl Places {
        /// Notes the calling thread, which is one of the pool's.
        pub fn join(&self) {
            let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
            state.threads.push(gettid());
            // The pool's first call may have been here before.
            state.send(gettid());
        }

        /// Lets the pool's threads run wherever the calling thread may, but for the processor it is on.
        pub fn beside_the_caller(&self) {
            // Another caller is at it: its choice is as good.
            let Ok(mut state) = self.0.try_lock() else { return };
            let Ok(mut beside) = sched_getaffinity(None) else { return };
            beside.unset(sched_getcpu());
            if beside.count() > 0 && state.allowed != Some(beside) {
                state.allowed = Some(beside);
                state.threads.iter().for_each(|thread| state.send(*thread));
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    /// The system knows best.
    #[derive(Default)]
    pub struct Places;

    impl Places {
        pub fn join(&self) {}
        pub fn beside_the_caller(&self) {}
    }
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::Places;
#[cfg(target_os = "linux")]
pub use linux::Places;
