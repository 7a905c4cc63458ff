#ifndef WEIR_CMALLOC_SHIM_H
#define WEIR_CMALLOC_SHIM_H

#include <stdlib.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

/// One heap for all threads: columns are filled by one thread and freed by another, so an arena per thread keeps what the others
/// could use. What the environment sets for the arenas stays. Other allocators than glibc's are left alone.
static inline void weir_one_heap(void) {
#if defined(__GLIBC__)
    if (getenv("MALLOC_ARENA_MAX") == NULL && getenv("GLIBC_TUNABLES") == NULL) mallopt(M_ARENA_MAX, 1);
#endif
}

/// Gives free pages back to the system, also those between memory in use: glibc keeps them otherwise. Takes some milliseconds, during
/// which nothing is allocated.
static inline void weir_trim_heap(void) {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

/// Bytes in use of the heap; 0 where the allocator does not say.
static inline size_t weir_used_heap(void) {
#if defined(__GLIBC__)
    struct mallinfo2 heap = mallinfo2();
    return heap.uordblks + heap.hblkhd;
#else
    return 0;
#endif
}

#endif
