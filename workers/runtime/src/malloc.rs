//! How glibc's allocator keeps memory that was freed.

#![expect(unsafe_code, reason = "mallopt has no other interface")]

/// From this size on a buffer gets pages of its own, which go back when it is freed, bytes.
const OWN_PAGES: i32 = 512 << 10;
/// What may stay unused at the end of the heap, bytes.
const UNUSED: i32 = 8 << 20;
/// Heaps that threads share.
const HEAPS: i32 = 2;

/// Lets freed buffers go back to the system. To be called before threads are started.
///
/// By itself glibc takes buffers of up to 32 MiB from heaps that it never gives back, up to eight
/// for each processor, once one of that size was freed. A program that works on large batches in
/// many threads then holds twice what it uses, and is killed at a limit it keeps to.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, OWN_PAGES),
        (libc::M_TRIM_THRESHOLD, UNUSED),
        (libc::M_ARENA_MAX, HEAPS),
    ] {
        // SAFETY: two integers, and the allocator's own lock. Any value is allowed.
        let accepted = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(accepted, 1, "glibc refuses {parameter}={value}");
    }
}
