# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=False, embedsignature=True, auto_pickle=False
"""The compiled hot path: the lockout stack, saved towers, TowerSync vote transactions, signing.

Bytes and arithmetic only: no policy, no I/O. `tower._reference` is the readable twin with the same names and answers; the
sources of the rules are named there. Bytes are written through `room` and nothing else moves a position: length first, then
pointer; reading is `tower._read`. Signing calls libsodium's own C function (the one inside PyNaCl), and keeps the GIL: a
signature takes microseconds, and who gives the GIL away may wait milliseconds until another thread gives it back.
"""

cimport cython
from cpython.buffer cimport PyBUF_RECORDS_RO, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from tower cimport _read

from nacl._sodium import ffi as _ffi
from nacl._sodium import lib as _lib

from tower._read import SavedTower, decode_compact_vote, decode_saved_tower, read_saved_tower
from tower.errors import InvalidInput, SigningError
from tower.types import ZERO_HASH, Generation, VoteKind

__all__ = [
    "SavedTower",
    "TowerVoteState",
    "decode_compact_vote",
    "decode_saved_tower",
    "encode_compact_vote",
    "encode_saved_tower",
    "encode_tower_body",
    "encode_vote_body",
    "encode_vote_message",
    "encode_vote_record",
    "read_saved_tower",
    "sign",
    "sign_transaction",
    "verify",
]

cdef enum:
    VOTES_MAX = 31                # a 32nd confirmation roots the oldest vote instead
    VOTES_ROOM = 32               # one more, so that all confirmation counts are two vectors of 16 bytes
    KEY_BYTES = 32
    SECRET_BYTES = 64
    SIGNATURE_BYTES = 64
    PRIOR_VOTERS_BYTES = 1545     # 32 entries of 48 bytes, index u64, is-empty bool
    PRIOR_VOTERS_INDEX_AT = 1536
    PRIOR_VOTERS_INDEX_EMPTY = 31
    ENVELOPE_BYTES = 76           # version tag 4, signature 64, length 8
    LOCKOUT_BYTES = 12            # slot u64, confirmation count u32
    VARINT_BYTES_MAX = 10
    BODY_FIXED_BYTES_MAX = 2048   # all of a tower body but its repeated parts: 1814 used
    BODY_BYTES_MAX = 3072         # a body with 31 votes in state and last vote, no extras: 2048 + 31 * (12 + 12) at most
    MESSAGE_BYTES_MAX = 1232      # what one packet carries; a vote message with 31 lockouts is below 700
    TAG_TOWER_SYNC = 14
    TAG_TOWER_SYNC_SWITCH = 15

cdef uint64_t U64_MAX = <uint64_t>0xFFFFFFFFFFFFFFFF
cdef uint64_t NO_ROOT = U64_MAX   # how the compact forms write a missing root

ctypedef int (*crypto_sign_t)(
    uint8_t *, unsigned long long *, const uint8_t *, unsigned long long, const uint8_t *
) noexcept nogil

cdef crypto_sign_t crypto_sign = <crypto_sign_t><uintptr_t>int(
    _ffi.cast("uintptr_t", _ffi.addressof(_lib, "crypto_sign"))
)
cdef crypto_sign_t crypto_sign_open = <crypto_sign_t><uintptr_t>int(
    _ffi.cast("uintptr_t", _ffi.addressof(_lib, "crypto_sign_open"))
)

cdef bytes VOTE_PROGRAM_ID = bytes.fromhex("0761481d357474bb7c4d7624ebd3bdb3d8355e73d11043fc0da3538000000000")
cdef tuple U64_FORMATS = (b"Q", b"L", b"@Q", b"@L")
# members of enums, kept because to look one up costs more than to write a vote
cdef object CURRENT = Generation.CURRENT
cdef object VOTE = VoteKind.VOTE
cdef object VOTE_STATE_UPDATE = VoteKind.VOTE_STATE_UPDATE
cdef object COMPACT_VOTE_STATE_UPDATE = VoteKind.COMPACT_VOTE_STATE_UPDATE
cdef object TOWER_SYNC = VoteKind.TOWER_SYNC


# ------------------------------------------------------------------------------------------- checked numbers and keys

cdef extern from "Python.h":
    # without Cython's check for an error, which costs more than the conversion: U64_MAX is asked about below
    uint64_t PyLong_AsUnsignedLongLong(PyObject *number) noexcept
    int64_t PyLong_AsLongLongAndOverflow(PyObject *number, int *overflow) noexcept


cdef inline uint64_t to_u64(object value, str what) except? 0xFFFFFFFFFFFFFFFE:
    """The range check before the narrowing cast."""
    cdef uint64_t number
    if PyLong_CheckExact(value):
        number = PyLong_AsUnsignedLongLong(<PyObject *>value)
        if number != U64_MAX or PyErr_Occurred() == NULL:
            return number
        PyErr_Clear()
    return other_u64(value, what)


cdef uint64_t other_u64(object value, str what) except? 0xFFFFFFFFFFFFFFFE:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFFFFFFFFFFFFFF:
        raise InvalidInput(f"{what} must be an int from 0 to 2**64-1, not {value!r}")
    return <uint64_t>value


cdef inline int64_t to_i64(object value, str what) except? -2:
    cdef int64_t number
    cdef int overflow
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(<PyObject *>value, &overflow)
        if not overflow:
            return number
    return other_i64(value, what)


cdef int64_t other_i64(object value, str what) except? -2:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise InvalidInput(f"{what} must be an int of 64 bits, not {value!r}")
    return <int64_t>value


cdef const uint8_t *exact(object data, Py_ssize_t length, str what) except NULL:
    """The bytes of `data`, which the caller keeps alive, after their length was checked."""
    if not isinstance(data, bytes) or PyBytes_GET_SIZE(data) != length:
        raise InvalidInput(f"{what} has {length} bytes, not {len(data)}")
    return <const uint8_t *>PyBytes_AS_STRING(data)


# ------------------------------------------------------------------------------------------------------ the lockouts

@cython.final
cdef class TowerVoteState:
    """The lockout stack of one voter: at most 31 votes, oldest first, and the root below them.

    >>> state = TowerVoteState()
    >>> for slot in (1, 2, 3, 4, 9):
    ...     _ = state.process_vote(slot)
    >>> state.votes
    [(1, 4), (2, 3), (9, 1)]
    """

    cdef uint64_t slots[VOTES_MAX]
    cdef uint8_t confirmations[VOTES_ROOM]
    cdef int depth
    cdef bint has_root
    cdef uint64_t root_slot

    def __init__(self, votes=(), root=None):
        self.depth = 0
        self.root = root
        for voted, confirmed in votes:
            self.put(to_u64(voted, "slot"), to_u64(confirmed, "confirmation count"))

    cdef int put(self, uint64_t slot, uint64_t confirmation_count) except -1:
        """Take in the next vote of a stack that came from elsewhere."""
        if not 1 <= confirmation_count <= VOTES_MAX:
            raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 1 to 31")
        if self.depth and slot <= self.slots[self.depth - 1]:
            raise InvalidInput(f"slots must rise: {slot} follows {self.slots[self.depth - 1]}")
        if self.depth and confirmation_count >= self.confirmations[self.depth - 1]:
            raise InvalidInput(f"confirmation counts must fall: slot {slot} has {confirmation_count}")
        if self.depth == VOTES_MAX:
            raise InvalidInput("a tower has at most 31 votes")
        self.slots[self.depth] = slot
        self.confirmations[self.depth] = <uint8_t>confirmation_count
        self.depth += 1
        return 0

    @staticmethod
    def of_saved(_read.SavedTower saved not None):
        """The stack in a saved tower. Raises `InvalidInput` where its lockouts are no stack."""
        cdef TowerVoteState state = TowerVoteState.__new__(TowerVoteState)
        cdef const uint8_t *vote = saved.votes
        cdef size_t i
        for i in range(saved.votes_count):
            state.put(_read.u64_at(vote), _read.u32_at(vote + 8))
            vote += LOCKOUT_BYTES
        state.has_root = saved.has_root
        state.root_slot = saved.root_slot
        return state

    @property
    def votes(self):
        """`[(slot, confirmation_count)]`, oldest first."""
        cdef int i
        return [(self.slots[i], self.confirmations[i]) for i in range(self.depth)]

    @property
    def root(self):
        """The newest slot that can never be rolled back, `None` before the first."""
        return self.root_slot if self.has_root else None

    @root.setter
    def root(self, root):
        self.root_slot = 0 if root is None else to_u64(root, "root")
        self.has_root = root is not None

    @property
    def last_voted_slot(self):
        """The newest slot in the stack."""
        return self.slots[self.depth - 1] if self.depth else None

    def __len__(self):
        return self.depth

    cpdef TowerVoteState copy(self):
        """An independent copy."""
        cdef TowerVoteState twin = TowerVoteState.__new__(TowerVoteState)
        twin.become(self)
        return twin

    cdef void become(self, TowerVoteState other) noexcept:
        self.slots = other.slots
        self.confirmations = other.confirmations
        self.depth = other.depth
        self.has_root = other.has_root
        self.root_slot = other.root_slot

    cdef int apply(self, uint64_t slot) noexcept nogil:
        """Apply a vote; 1 if it made a new root, which is then `root_slot`."""
        cdef int i, rooted = 0
        cdef uint8_t depth
        cdef uint64_t lockout
        if self.depth and slot <= self.slots[self.depth - 1]:
            return 0
        # Expiry runs from the top and stops at the first vote still locked: expired ones below it stay.
        while self.depth:
            lockout = <uint64_t>1 << self.confirmations[self.depth - 1]
            # A sum that wraps saturates, and what saturates is locked at every slot.
            if self.slots[self.depth - 1] > U64_MAX - lockout or self.slots[self.depth - 1] + lockout >= slot:
                break
            self.depth -= 1
        if self.depth == VOTES_MAX:
            self.root_slot = self.slots[0]
            self.has_root = True
            rooted = 1
            self.depth -= 1
            memmove(&self.slots[0], &self.slots[1], <size_t>self.depth * sizeof(uint64_t))
            memmove(&self.confirmations[0], &self.confirmations[1], <size_t>self.depth)
        self.slots[self.depth] = slot
        self.confirmations[self.depth] = 1
        self.depth += 1
        # All of the room and no branch: so the compiler takes 16 counts at once. No count is above 31, so no sum wraps, and
        # beyond the stack every sum is at least the depth: nothing changes there.
        depth = <uint8_t>self.depth
        for i in range(VOTES_ROOM):
            self.confirmations[i] = <uint8_t>(self.confirmations[i] + (<uint8_t>(i + self.confirmations[i]) < depth))
        return rooted

    def process_vote(self, slot):
        """Apply a vote for `slot`; return the slot that became root through it, or `None`.

        A slot that is not newer than the top changes nothing, as in the vote program.
        """
        return self.root_slot if self.apply(to_u64(slot, "slot")) else None

    def process_votes(self, slots):
        """Apply a vote for each of `slots` in turn; return how many slots became root. The newest of them is `root`.

        `slots` is any iterable of ints or, without a Python object a slot, a buffer of unsigned 64-bit numbers
        (`array("Q")`, an array of NumPy's uint64, a memoryview of either). If one of them is no slot, nothing is applied.
        """
        cdef TowerVoteState after
        cdef Py_ssize_t rooted = 0
        if PyObject_CheckBuffer(slots):
            rooted = self.apply_buffer(slots)
            if rooted >= 0:
                return rooted
            rooted = 0
        after = self.copy()
        for slot in slots:
            rooted += after.apply(to_u64(slot, "slot"))
        self.become(after)
        return rooted

    cdef Py_ssize_t apply_buffer(self, object slots) except -2:
        """As `process_votes`; -1 if the buffer holds something else than one row of u64."""
        cdef Py_buffer view
        cdef Py_ssize_t i, rooted = -1
        cdef uint64_t slot
        PyObject_GetBuffer(slots, &view, PyBUF_RECORDS_RO)
        try:
            if view.ndim == 1 and view.itemsize == sizeof(slot) and view.format != NULL and view.format in U64_FORMATS:
                rooted = 0
                for i in range(view.shape[0]):
                    memcpy(&slot, <const char *>view.buf + i * view.strides[0], sizeof(slot))  # it need not be aligned
                    rooted += self.apply(slot)
        finally:
            PyBuffer_Release(&view)
        return rooted

    def nth_recent(self, int depth):
        """The vote `depth` below the top (the top is 0), or `None` where the stack is not that deep."""
        if depth < 0 or depth >= self.depth:
            return None
        return self.slots[self.depth - 1 - depth], self.confirmations[self.depth - 1 - depth]

    def is_recent(self, slot):
        """Whether `slot` is newer than every vote, or than the root where there is none."""
        cdef uint64_t newer = to_u64(slot, "slot")
        if self.depth:
            return newer > self.slots[self.depth - 1]
        return not self.has_root or newer > self.root_slot

    def is_well_formed(self):
        """Whether the stack keeps the rules that `tower.lockout.malformed` names: asked before every store (S5)."""
        cdef int i
        cdef uint64_t lockout
        for i in range(self.depth):
            if not 1 <= self.confirmations[i] <= VOTES_MAX:
                return False
            if self.has_root and self.root_slot and self.slots[i] <= self.root_slot:
                return False
            if i == 0:
                continue
            if self.slots[i] <= self.slots[i - 1] or self.confirmations[i] >= self.confirmations[i - 1]:
                return False
            lockout = <uint64_t>1 << self.confirmations[i - 1]
            if self.slots[i - 1] <= U64_MAX - lockout and self.slots[i] > self.slots[i - 1] + lockout:
                return False
        return True

    def is_locked_out(self, slot, ancestors):
        """Whether the lockouts forbid a vote for `slot`, whose fork holds `ancestors` (slots, without `slot` itself).

        True if `slot` is not newer than the top, or if a vote that would still bind after it, or the root, is not on
        that fork. A root that is no ancestor counts as locked out here; the clients on the cluster panic.
        """
        cdef int i
        cdef uint64_t candidate = to_u64(slot, "slot")
        if not self.is_recent(slot):
            return True
        cdef TowerVoteState after = self.copy()
        after.apply(candidate)
        for i in range(after.depth):
            if after.slots[i] != candidate and after.slots[i] not in ancestors:
                return True
        return after.has_root and after.root_slot != candidate and after.root_slot not in ancestors

    def __eq__(self, other):
        if not isinstance(other, TowerVoteState):
            return NotImplemented
        return self.votes == other.votes and self.root == other.root

    __hash__ = None

    def __repr__(self):
        return f"TowerVoteState({self.votes!r}, root={self.root!r})"


# ----------------------------------------------------------------------------------------------------------- signing

cdef int sign_in_place(uint8_t *signature, size_t length, const uint8_t *secret) except -1:
    """Sign the `length` bytes that stand 64 bytes behind `signature`."""
    cdef unsigned long long written
    cdef int failed = crypto_sign(signature, &written, signature + SIGNATURE_BYTES, length, secret)
    if failed:
        raise SigningError("libsodium did not sign")
    return 0


cdef const uint8_t *secret_of(object secret) except NULL:
    if not isinstance(secret, bytes) or PyBytes_GET_SIZE(secret) != SECRET_BYTES:
        raise SigningError(f"a secret key has 64 bytes, not {len(secret)}")
    return <const uint8_t *>PyBytes_AS_STRING(secret)


def sign(bytes secret not None, bytes message not None):
    """The 64-byte Ed25519 signature of `message` under libsodium's 64-byte `secret` (seed || public key)."""
    cdef const uint8_t *key = secret_of(secret)
    cdef size_t length = <size_t>PyBytes_GET_SIZE(message)
    cdef uint8_t *work = <uint8_t *>malloc(SIGNATURE_BYTES + length)
    if work == NULL:
        raise MemoryError
    try:
        memcpy(work + SIGNATURE_BYTES, PyBytes_AS_STRING(message), length)
        sign_in_place(&work[0], length, key)
        return PyBytes_FromStringAndSize(<char *>work, SIGNATURE_BYTES)
    finally:
        free(work)


def verify(bytes pubkey not None, bytes message not None, bytes signature not None):
    """Whether `signature` is `pubkey`'s for exactly `message`."""
    if PyBytes_GET_SIZE(pubkey) != KEY_BYTES or PyBytes_GET_SIZE(signature) != SIGNATURE_BYTES:
        return False
    cdef size_t length = <size_t>PyBytes_GET_SIZE(message)
    cdef const uint8_t *key = <const uint8_t *>PyBytes_AS_STRING(pubkey)
    cdef uint8_t *work = <uint8_t *>malloc(SIGNATURE_BYTES + length)
    cdef int failed
    if work == NULL:
        raise MemoryError
    memcpy(work, PyBytes_AS_STRING(signature), SIGNATURE_BYTES)
    memcpy(work + SIGNATURE_BYTES, PyBytes_AS_STRING(message), length)
    with nogil:
        failed = crypto_sign_open(NULL, NULL, work, SIGNATURE_BYTES + length, key)
        free(work)
    return failed == 0


# ----------------------------------------------------------------------------------------------------------- writing

cdef struct Out:
    uint8_t *start
    uint8_t *at
    size_t left


cdef inline uint8_t *room(Out *out, size_t count) except NULL:
    """The only way to write: checks that `count` bytes are free, moves on, returns where they begin."""
    if count > out.left:
        raise InvalidInput("the tower is larger than a saved tower can be")
    cdef uint8_t *here = out.at
    out.at += count
    out.left -= count
    return here


cdef inline int put_raw(Out *out, const void *data, size_t count) except -1:
    memcpy(room(out, count), data, count)
    return 0


cdef inline void u32_to(uint8_t *here, uint32_t value) noexcept nogil:
    # written out, for so the compiler makes one store of it
    here[0] = <uint8_t>value
    here[1] = <uint8_t>(value >> 8)
    here[2] = <uint8_t>(value >> 16)
    here[3] = <uint8_t>(value >> 24)


cdef inline void u64_to(uint8_t *here, uint64_t value) noexcept nogil:
    here[0] = <uint8_t>value
    here[1] = <uint8_t>(value >> 8)
    here[2] = <uint8_t>(value >> 16)
    here[3] = <uint8_t>(value >> 24)
    here[4] = <uint8_t>(value >> 32)
    here[5] = <uint8_t>(value >> 40)
    here[6] = <uint8_t>(value >> 48)
    here[7] = <uint8_t>(value >> 56)


cdef inline int put_u8(Out *out, uint8_t value) except -1:
    room(out, 1)[0] = value
    return 0


cdef inline int put_u32(Out *out, uint32_t value) except -1:
    u32_to(room(out, 4), value)
    return 0


cdef inline int put_u64(Out *out, uint64_t value) except -1:
    u64_to(room(out, 8), value)
    return 0


cdef int put_f64(Out *out, double value) except -1:
    cdef uint64_t bits
    memcpy(&bits, &value, sizeof(bits))
    return put_u64(out, bits)


cdef inline int put_varint(Out *out, uint64_t value) except -1:
    while value >= 0x80:
        put_u8(out, <uint8_t>(value & 0x7F) | 0x80)
        value >>= 7
    return put_u8(out, <uint8_t>value)


cdef int put_option_u64(Out *out, object value, str what) except -1:
    if value is None:
        return put_u8(out, 0)
    put_u8(out, 1)
    return put_u64(out, to_u64(value, what))


cdef int put_option_i64(Out *out, object value, str what) except -1:
    if value is None:
        return put_u8(out, 0)
    put_u8(out, 1)
    return put_u64(out, <uint64_t>to_i64(value, what))


cdef int put_key(Out *out, object key, str what) except -1:
    return put_raw(out, exact(key, KEY_BYTES, what), KEY_BYTES)


cdef int put_no_prior_voters(Out *out) except -1:
    cdef uint8_t *here = room(out, PRIOR_VOTERS_BYTES)
    memset(here, 0, PRIOR_VOTERS_BYTES)
    here[PRIOR_VOTERS_INDEX_AT] = PRIOR_VOTERS_INDEX_EMPTY
    here[PRIOR_VOTERS_BYTES - 1] = 1
    return 0


cdef inline int read_pair(object lockout, uint64_t *slot, uint64_t *confirmation_count) except -1:
    if isinstance(lockout, tuple) and PyTuple_GET_SIZE(lockout) == 2:  # also a Lockout, without an iterator
        slot[0] = to_u64(<object>PyTuple_GET_ITEM(lockout, 0), "slot")
        confirmation_count[0] = to_u64(<object>PyTuple_GET_ITEM(lockout, 1), "confirmation count")
    else:
        voted, confirmed = lockout
        slot[0] = to_u64(voted, "slot")
        confirmation_count[0] = to_u64(confirmed, "confirmation count")
    return 0


cdef int put_full_lockouts(Out *out, object lockouts) except -1:
    cdef uint64_t slot, confirmation_count
    cdef uint8_t *here
    put_u64(out, <uint64_t>len(lockouts))
    for lockout in lockouts:
        read_pair(lockout, &slot, &confirmation_count)
        if confirmation_count > 0xFFFFFFFF:
            raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 32 bits")
        here = room(out, LOCKOUT_BYTES)
        u64_to(here, slot)
        u32_to(here + 8, <uint32_t>confirmation_count)
    return 0


cdef inline int put_next_lockout(Out *out, uint64_t offset, uint8_t confirmation_count) except -1:
    cdef uint8_t *here
    if offset >= 0x80:
        put_varint(out, offset)
        return put_u8(out, confirmation_count)
    here = room(out, 2)
    here[0] = <uint8_t>offset
    here[1] = confirmation_count
    return 0


cdef int put_compact_tail(Out *out, object hash, object timestamp, object block_id) except -1:
    put_key(out, hash, "hash")
    put_option_i64(out, timestamp, "timestamp")
    if block_id is not None:
        put_key(out, block_id, "block_id")
    return 0


cdef int put_compact_vote(Out *out, object lockouts, object root, object hash, object timestamp, object block_id) except -1:
    cdef uint64_t previous = 0 if root is None else to_u64(root, "root")
    cdef uint64_t slot, confirmation_count
    put_u64(out, NO_ROOT if root is None else previous)
    put_varint(out, <uint64_t>len(lockouts))
    for lockout in lockouts:
        read_pair(lockout, &slot, &confirmation_count)
        if slot < previous:
            raise InvalidInput(f"slots must rise: {slot} follows {previous}")
        if confirmation_count > 255:
            raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 0 to 255")
        put_next_lockout(out, slot - previous, <uint8_t>confirmation_count)
        previous = slot
    return put_compact_tail(out, hash, timestamp, block_id)


cdef int put_compact_state(Out *out, TowerVoteState state, object hash, object timestamp, object block_id) except -1:
    """`put_compact_vote` of a whole stack, without a Python object a vote."""
    cdef int i
    cdef uint64_t previous = state.root_slot if state.has_root else 0
    put_u64(out, previous if state.has_root else NO_ROOT)
    put_varint(out, <uint64_t>state.depth)
    for i in range(state.depth):
        if state.slots[i] < previous:
            raise InvalidInput(f"slots must rise: {state.slots[i]} follows {previous}")
        put_next_lockout(out, state.slots[i] - previous, state.confirmations[i])
        previous = state.slots[i]
    return put_compact_tail(out, hash, timestamp, block_id)


def encode_compact_vote(lockouts, root, hash, timestamp, block_id):
    """The compact payload of a full-tower vote; with `block_id` it is a TowerSync, without a CompactVoteStateUpdate."""
    lockouts = list(lockouts)
    cdef size_t size = 96 + <size_t>len(lockouts) * (VARINT_BYTES_MAX + 1)
    cdef uint8_t *work = <uint8_t *>malloc(size)
    cdef Out out = Out(work, work, size)
    if work == NULL:
        raise MemoryError
    try:
        put_compact_vote(&out, lockouts, root, hash, timestamp, block_id)
        return PyBytes_FromStringAndSize(<char *>work, out.at - work)
    finally:
        free(work)


# ------------------------------------------------------------------------------------------------ saved towers, out

cdef int put_body(Out *out, object tower, object generation) except -1:
    extras = tower.extras
    put_key(out, tower.identity, "identity")
    put_u64(out, to_u64(tower.threshold_depth, "threshold_depth"))
    put_f64(out, tower.threshold_size)
    put_key(out, extras.node_pubkey, "node_pubkey")
    put_key(out, extras.authorized_withdrawer, "authorized_withdrawer")
    put_u8(out, extras.commission)
    put_full_lockouts(out, tower.lockouts)
    put_option_u64(out, tower.root, "root")
    put_u64(out, <uint64_t>len(extras.authorized_voters))
    for epoch, voter in extras.authorized_voters:
        put_u64(out, to_u64(epoch, "epoch"))
        put_key(out, voter, "authorized voter")
    if extras.prior_voters is None:
        put_no_prior_voters(out)
    else:
        put_raw(out, exact(extras.prior_voters, PRIOR_VOTERS_BYTES, "prior_voters"), PRIOR_VOTERS_BYTES)
    put_u64(out, <uint64_t>len(extras.epoch_credits))
    for epoch, credits, previous in extras.epoch_credits:
        put_u64(out, to_u64(epoch, "epoch"))
        put_u64(out, to_u64(credits, "credits"))
        put_u64(out, to_u64(previous, "previous credits"))
    put_u64(out, to_u64(extras.last_timestamp.slot, "timestamp slot"))
    put_u64(out, <uint64_t>to_i64(extras.last_timestamp.timestamp, "timestamp"))
    put_last_vote(out, tower.last_vote, generation is CURRENT)
    put_u64(out, to_u64(tower.last_timestamp.slot, "timestamp slot"))
    put_u64(out, <uint64_t>to_i64(tower.last_timestamp.timestamp, "timestamp"))
    return 0


cdef int put_last_vote(Out *out, object vote, bint tagged) except -1:
    kind = vote.kind
    cdef uint32_t tag = 0
    if kind is TOWER_SYNC:
        tag = 3
    elif kind is COMPACT_VOTE_STATE_UPDATE:
        tag = 2
    elif kind is VOTE_STATE_UPDATE:
        tag = 1
    if tagged:
        put_u32(out, tag)
    elif kind is not VOTE:
        raise InvalidInput(f"the 1_7_14 layout holds only a Vote, not a {kind.value}")
    if tag == 0:
        slots = vote.slots
        put_u64(out, <uint64_t>len(slots))
        for slot in slots:
            put_u64(out, to_u64(slot, "slot"))
    elif tag == 1:
        put_full_lockouts(out, vote.lockouts)
        put_option_u64(out, vote.root, "root")
    else:
        block_id = None
        if tag == 3:
            block_id = vote.block_id
            block_id = ZERO_HASH if block_id is None else block_id
        return put_compact_vote(out, vote.lockouts, vote.root, vote.hash, vote.timestamp, block_id)
    return put_compact_tail(out, vote.hash, vote.timestamp, None)


def encode_tower_body(tower, generation):
    """The signed part of a saved tower in the layout of `generation`."""
    vote, extras = tower.last_vote, tower.extras
    cdef size_t size = <size_t>(
        BODY_FIXED_BYTES_MAX
        + LOCKOUT_BYTES * (len(tower.lockouts) + len(vote.lockouts))
        + 8 * len(vote.slots)
        + 40 * len(extras.authorized_voters)
        + 24 * len(extras.epoch_credits)
    )
    cdef uint8_t here[BODY_BYTES_MAX]  # enough for what is written today; older towers may hold more
    cdef uint8_t *work = &here[0]
    if size > BODY_BYTES_MAX:
        work = <uint8_t *>malloc(size)
        if work == NULL:
            raise MemoryError
    cdef Out out = Out(work, work, size)
    try:
        put_body(&out, tower, generation)
        return PyBytes_FromStringAndSize(<char *>work, out.at - work)
    finally:
        if work != &here[0]:
            free(work)


def encode_saved_tower(tower, bytes secret not None, generation):
    """A saved tower: envelope, signature by `secret`, and body, in the layout of `generation`."""
    body = encode_tower_body(tower, generation)
    envelope = sign(secret, body) + len(body).to_bytes(8, "little")
    if generation is not Generation.BARE_1_7_14:
        envelope = (b"\1\0\0\0" if generation is Generation.CURRENT else b"\0\0\0\0") + envelope
    return envelope + body


cdef int put_vote_body(
    Out *out, object identity, TowerVoteState state, object bank_hash, object timestamp, object block_id,
    object last_timestamp, object threshold_depth, double threshold_size,
) except -1:
    cdef uint8_t *here
    cdef int i
    put_key(out, identity, "identity")
    put_u64(out, to_u64(threshold_depth, "threshold_depth"))
    put_f64(out, threshold_size)
    here = room(out, 2 * KEY_BYTES + 1)  # node, withdrawer and commission of the vote account: not kept
    memset(here, 0, 2 * KEY_BYTES + 1)
    put_u64(out, <uint64_t>state.depth)
    for i in range(state.depth):
        here = room(out, LOCKOUT_BYTES)
        u64_to(here, state.slots[i])
        u32_to(here + 8, state.confirmations[i])
    put_u8(out, <uint8_t>state.has_root)
    if state.has_root:
        put_u64(out, state.root_slot)
    put_u64(out, 0)  # authorized voters
    put_no_prior_voters(out)
    put_u64(out, 0)  # epoch credits
    put_u64(out, 0)  # timestamp of the vote account: slot
    put_u64(out, 0)  # and seconds
    put_u32(out, 3)  # TowerSync
    put_compact_state(out, state, bank_hash, timestamp, block_id)
    put_u64(out, to_u64(last_timestamp[0], "timestamp slot"))
    return put_u64(out, <uint64_t>to_i64(last_timestamp[1], "timestamp"))


def encode_vote_body(
    bytes identity not None, TowerVoteState state not None, bytes bank_hash not None, timestamp, bytes block_id not None,
    last_timestamp, threshold_depth, double threshold_size,
):
    """The signed part of the record for a TowerSync vote of the whole `state`: the hot path of `encode_tower_body`."""
    cdef uint8_t work[BODY_BYTES_MAX]
    cdef Out out = Out(&work[0], &work[0], BODY_BYTES_MAX)
    put_vote_body(&out, identity, state, bank_hash, timestamp, block_id, last_timestamp, threshold_depth, threshold_size)
    return PyBytes_FromStringAndSize(<char *>&work[0], out.at - out.start)


def encode_vote_record(
    bytes identity not None, bytes secret not None, TowerVoteState state not None, bytes bank_hash not None, timestamp,
    bytes block_id not None, last_timestamp, threshold_depth, double threshold_size,
):
    """The record to persist for a TowerSync vote of the whole `state`: the hot path of `encode_saved_tower`."""
    cdef uint8_t work[ENVELOPE_BYTES + BODY_BYTES_MAX]
    cdef uint8_t *signature = &work[ENVELOPE_BYTES - SIGNATURE_BYTES]  # before the body, as libsodium wants it
    cdef Out out = Out(&work[ENVELOPE_BYTES], &work[ENVELOPE_BYTES], BODY_BYTES_MAX)
    cdef const uint8_t *key = secret_of(secret)
    put_vote_body(&out, identity, state, bank_hash, timestamp, block_id, last_timestamp, threshold_depth, threshold_size)
    cdef Py_ssize_t length = out.at - out.start
    sign_in_place(signature, <size_t>length, key)
    memmove(&work[4], signature, SIGNATURE_BYTES)
    u32_to(&work[0], 1)
    u64_to(&work[4 + SIGNATURE_BYTES], <uint64_t>length)
    return PyBytes_FromStringAndSize(<char *>&work[0], ENVELOPE_BYTES + length)


# ------------------------------------------------------------------------------------------------- votes on the wire

def encode_vote_message(
    bytes identity not None, bytes voter not None, bytes vote_account not None, bytes blockhash not None,
    TowerVoteState state not None, bytes bank_hash not None, timestamp, bytes block_id not None, switch_proof,
):
    """The message of a TowerSync vote transaction: what its signers sign.

    `identity` pays. Where `voter` is another key it signs second. With `switch_proof` the instruction is TowerSyncSwitch.
    """
    cdef uint8_t instruction[MESSAGE_BYTES_MAX]
    cdef uint8_t message[MESSAGE_BYTES_MAX]
    cdef Out data = Out(&instruction[0], &instruction[0], MESSAGE_BYTES_MAX)
    cdef Out out = Out(&message[0], &message[0], MESSAGE_BYTES_MAX)
    cdef uint8_t signers = 1 if voter == identity else 2

    put_u32(&data, <uint32_t>(TAG_TOWER_SYNC if switch_proof is None else TAG_TOWER_SYNC_SWITCH))
    put_compact_state(&data, state, bank_hash, timestamp, block_id)
    if switch_proof is not None:
        put_key(&data, switch_proof, "switch proof")

    put_u8(&out, signers)      # required signatures
    put_u8(&out, signers - 1)  # of those read-only: the voter, where it is not the payer
    put_u8(&out, 1)            # read-only without signature: the vote program
    put_varint(&out, signers + 2)
    put_key(&out, identity, "identity")
    if signers == 2:
        put_key(&out, voter, "authorized voter")
    put_key(&out, vote_account, "vote account")
    put_key(&out, VOTE_PROGRAM_ID, "vote program")
    put_key(&out, blockhash, "blockhash")
    put_u8(&out, 1)            # one instruction
    put_u8(&out, signers + 1)  # its program
    put_u8(&out, 2)            # its accounts: vote account, authorized voter
    put_u8(&out, signers)
    put_u8(&out, signers - 1)
    put_varint(&out, <uint64_t>(data.at - data.start))
    put_raw(&out, &instruction[0], <size_t>(data.at - data.start))
    return PyBytes_FromStringAndSize(<char *>&message[0], out.at - out.start)


def sign_transaction(bytes message not None, secrets):
    """The transaction: the signatures of `message` by `secrets`, in the order of its signer keys, then the message."""
    cdef Py_ssize_t i, signers = len(secrets)
    cdef size_t length = <size_t>PyBytes_GET_SIZE(message)
    if not 1 <= signers <= 2:
        raise InvalidInput(f"a vote has one or two signers, not {signers}")
    if length > MESSAGE_BYTES_MAX:
        raise InvalidInput(f"a message of {length} bytes does not fit a packet of 1232")
    result = PyBytes_FromStringAndSize(NULL, 1 + signers * SIGNATURE_BYTES + <Py_ssize_t>length)
    cdef uint8_t *start = <uint8_t *>PyBytes_AS_STRING(result)
    cdef uint8_t *last = start + 1 + (signers - 1) * SIGNATURE_BYTES  # right before the message: there libsodium signs
    start[0] = <uint8_t>signers
    memcpy(last + SIGNATURE_BYTES, PyBytes_AS_STRING(message), length)
    for i in range(signers):
        sign_in_place(last, length, secret_of(secrets[i]))
        if i < signers - 1:
            memcpy(start + 1 + i * SIGNATURE_BYTES, last, SIGNATURE_BYTES)
    return result
