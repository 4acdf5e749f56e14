from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef inline uint32_t u32_at(const uint8_t *here) noexcept nogil:
    return here[0] | <uint32_t>here[1] << 8 | <uint32_t>here[2] << 16 | <uint32_t>here[3] << 24


cdef inline uint64_t u64_at(const uint8_t *here) noexcept nogil:
    return u32_at(here) | <uint64_t>u32_at(here + 4) << 32


cdef struct Cursor:
    const uint8_t *start
    const uint8_t *at
    size_t left


cdef class SavedTower:
    cdef readonly bytes data        # the whole file; everything below was checked to lie inside
    cdef readonly Py_ssize_t body_at
    cdef int layout                 # index into GENERATIONS
    cdef const uint8_t *votes       # 12 bytes each: slot u64, confirmation count u32
    cdef size_t votes_count
    cdef bint has_root
    cdef uint64_t root_slot
    cdef bint has_last
    cdef uint64_t last_slot
    cdef int check(self) except -1
    cdef int check_last_vote(self, Cursor *data) except -1
