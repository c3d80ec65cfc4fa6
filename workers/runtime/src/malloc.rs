//! Settings of glibc's allocator.

#![expect(unsafe_code, reason = "mallopt has no other interface")]

/// Buffers of at least this size, bytes, are mapped separately and returned when freed.
const MMAP_THRESHOLD: i32 = 512 << 10;
/// Unused memory kept at the top of the heap, bytes.
const TRIM_THRESHOLD: i32 = 8 << 20;
/// Maximum number of heaps shared by the threads.
const MAX_ARENAS: i32 = 2;

/// Makes glibc return freed buffers to the system. Call it before threads are started.
///
/// By default, once a buffer of up to 32 MiB has been freed, glibc allocates buffers of that size
/// from up to eight heaps per processor and does not return them. A program that processes large
/// batches in many threads then holds twice the memory it uses and may be killed at its limit.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        (libc::M_ARENA_MAX, MAX_ARENAS),
    ] {
        // SAFETY: mallopt takes two integers, any value is allowed, and it locks the allocator.
        let accepted = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(accepted, 1, "glibc refuses {parameter}={value}");
    }
}
