# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=False, embedsignature=True, auto_pickle=False
"""The compiled hot path: the lockout stack, saved towers, TowerSync vote transactions, signing.

Bytes and arithmetic only: no policy, no I/O. `tower._reference` is the readable twin with the same names and answers; the
sources of the rules are named there. Bytes are read through `take` and written through `room`, and nothing else moves a
position: length first, then pointer. Signing calls libsodium's own C function (the one inside PyNaCl) without the GIL.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from nacl._sodium import ffi as _ffi
from nacl._sodium import lib as _lib

from tower.errors import InvalidInput, SigningError, WireError
from tower.types import ZERO_HASH, BlockTimestamp, Generation, LastVote, Lockout, Tower, VoteKind, VoteStateExtras

__all__ = [
    "TowerVoteState",
    "decode_compact_vote",
    "decode_saved_tower",
    "encode_compact_vote",
    "encode_saved_tower",
    "encode_tower_body",
    "encode_vote_message",
    "encode_vote_record",
    "sign",
    "sign_transaction",
    "verify",
]

cdef enum:
    VOTES_MAX = 31                # a 32nd confirmation roots the oldest vote instead
    KEY_BYTES = 32
    SECRET_BYTES = 64
    SIGNATURE_BYTES = 64
    PRIOR_VOTERS_BYTES = 1545     # 32 entries of 48 bytes, index u64, is-empty bool
    PRIOR_VOTERS_INDEX_AT = 1536
    PRIOR_VOTERS_INDEX_EMPTY = 31
    ENVELOPE_BYTES = 76           # version tag 4, signature 64, length 8
    BARE_ENVELOPE_BYTES = 72
    LENGTH_AT = 68
    BARE_LENGTH_AT = 64
    VARINT_BYTES_MAX = 10
    COMPACT_U16_BYTES_MAX = 3
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
cdef tuple VOTE_KINDS = (
    VoteKind.VOTE, VoteKind.VOTE_STATE_UPDATE, VoteKind.COMPACT_VOTE_STATE_UPDATE, VoteKind.TOWER_SYNC
)


# ------------------------------------------------------------------------------------------- checked numbers and keys

cdef uint64_t to_u64(object value, str what) except? 0xFFFFFFFFFFFFFFFE:
    """The range check before the narrowing cast."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFFFFFFFFFFFFFF:
        raise InvalidInput(f"{what} must be an int from 0 to 2**64-1, not {value!r}")
    return <uint64_t>value


cdef int64_t to_i64(object value, str what) except? -2:
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
    cdef uint32_t confirmations[VOTES_MAX]
    cdef int depth
    cdef bint has_root
    cdef uint64_t root_slot

    def __init__(self, votes=(), root=None):
        cdef uint64_t slot, confirmation_count
        self.depth = 0
        self.root = root
        for voted, confirmed in votes:
            slot = to_u64(voted, "slot")
            confirmation_count = to_u64(confirmed, "confirmation count")
            if not 1 <= confirmation_count <= VOTES_MAX:
                raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 1 to 31")
            if self.depth and slot <= self.slots[self.depth - 1]:
                raise InvalidInput(f"slots must rise: {slot} follows {self.slots[self.depth - 1]}")
            if self.depth and confirmation_count >= self.confirmations[self.depth - 1]:
                raise InvalidInput(f"confirmation counts must fall: slot {slot} has {confirmation_count}")
            if self.depth == VOTES_MAX:
                raise InvalidInput("a tower has at most 31 votes")
            self.slots[self.depth] = slot
            self.confirmations[self.depth] = <uint32_t>confirmation_count
            self.depth += 1

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
        twin.slots = self.slots
        twin.confirmations = self.confirmations
        twin.depth = self.depth
        twin.has_root = self.has_root
        twin.root_slot = self.root_slot
        return twin

    cdef int apply(self, uint64_t slot) noexcept nogil:
        """Apply a vote; 1 if it made a new root, which is then `root_slot`."""
        cdef int i, rooted = 0
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
            memmove(&self.slots[0], &self.slots[1], self.depth * sizeof(uint64_t))
            memmove(&self.confirmations[0], &self.confirmations[1], self.depth * sizeof(uint32_t))
        self.slots[self.depth] = slot
        self.confirmations[self.depth] = 1
        self.depth += 1
        for i in range(self.depth):
            if <uint32_t>self.depth > <uint32_t>i + self.confirmations[i]:
                self.confirmations[i] += 1
        return rooted

    def process_vote(self, slot):
        """Apply a vote for `slot`; return the slot that became root through it, or `None`.

        A slot that is not newer than the top changes nothing, as in the vote program.
        """
        return self.root_slot if self.apply(to_u64(slot, "slot")) else None

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
    cdef int failed
    with nogil:
        failed = crypto_sign(signature, &written, signature + SIGNATURE_BYTES, length, secret)
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
    cdef size_t length = PyBytes_GET_SIZE(message)
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
    cdef size_t length = PyBytes_GET_SIZE(message)
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


cdef uint8_t *room(Out *out, size_t count) except NULL:
    """The only way to write: checks that `count` bytes are free, moves on, returns where they begin."""
    if count > out.left:
        raise InvalidInput("the tower is larger than a saved tower can be")
    cdef uint8_t *here = out.at
    out.at += count
    out.left -= count
    return here


cdef int put_raw(Out *out, const void *data, size_t count) except -1:
    memcpy(room(out, count), data, count)
    return 0


cdef int put_u8(Out *out, uint8_t value) except -1:
    room(out, 1)[0] = value
    return 0


cdef int put_u32(Out *out, uint32_t value) except -1:
    cdef uint8_t *here = room(out, 4)
    cdef int i
    for i in range(4):
        here[i] = <uint8_t>(value >> (8 * i))
    return 0


cdef int put_u64(Out *out, uint64_t value) except -1:
    cdef uint8_t *here = room(out, 8)
    cdef int i
    for i in range(8):
        here[i] = <uint8_t>(value >> (8 * i))
    return 0


cdef int put_f64(Out *out, double value) except -1:
    cdef uint64_t bits
    memcpy(&bits, &value, sizeof(bits))
    return put_u64(out, bits)


cdef int put_varint(Out *out, uint64_t value) except -1:
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


cdef int put_full_lockouts(Out *out, object lockouts) except -1:
    put_u64(out, len(lockouts))
    for slot, confirmation_count in lockouts:
        put_u64(out, to_u64(slot, "slot"))
        if to_u64(confirmation_count, "confirmation count") > 0xFFFFFFFF:
            raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 32 bits")
        put_u32(out, <uint32_t>confirmation_count)
    return 0


cdef int put_compact_tail(Out *out, object hash, object timestamp, object block_id) except -1:
    put_key(out, hash, "hash")
    put_option_i64(out, timestamp, "timestamp")
    if block_id is not None:
        put_key(out, block_id, "block_id")
    return 0


cdef int put_compact_vote(Out *out, object lockouts, object root, object hash, object timestamp, object block_id) except -1:
    cdef uint64_t previous = 0 if root is None else to_u64(root, "root")
    cdef uint64_t slot
    put_u64(out, NO_ROOT if root is None else previous)
    put_varint(out, len(lockouts))
    for voted, confirmation_count in lockouts:
        slot = to_u64(voted, "slot")
        if slot < previous:
            raise InvalidInput(f"slots must rise: {slot} follows {previous}")
        if not 0 <= confirmation_count <= 255:
            raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 0 to 255")
        put_varint(out, slot - previous)
        put_u8(out, confirmation_count)
        previous = slot
    return put_compact_tail(out, hash, timestamp, block_id)


cdef int put_compact_state(Out *out, TowerVoteState state, object hash, object timestamp, object block_id) except -1:
    """`put_compact_vote` of a whole stack, without a Python object a vote."""
    cdef int i
    cdef uint64_t previous = state.root_slot if state.has_root else 0
    put_u64(out, previous if state.has_root else NO_ROOT)
    put_varint(out, state.depth)
    for i in range(state.depth):
        if state.slots[i] < previous:
            raise InvalidInput(f"slots must rise: {state.slots[i]} follows {previous}")
        put_varint(out, state.slots[i] - previous)
        put_u8(out, <uint8_t>state.confirmations[i])
        previous = state.slots[i]
    return put_compact_tail(out, hash, timestamp, block_id)


def encode_compact_vote(lockouts, root, hash, timestamp, block_id):
    """The compact payload of a full-tower vote; with `block_id` it is a TowerSync, without a CompactVoteStateUpdate."""
    lockouts = list(lockouts)
    cdef size_t size = 96 + len(lockouts) * (VARINT_BYTES_MAX + 1)
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
    put_u64(out, len(extras.authorized_voters))
    for epoch, voter in extras.authorized_voters:
        put_u64(out, to_u64(epoch, "epoch"))
        put_key(out, voter, "authorized voter")
    if extras.prior_voters is None:
        put_no_prior_voters(out)
    else:
        put_raw(out, exact(extras.prior_voters, PRIOR_VOTERS_BYTES, "prior_voters"), PRIOR_VOTERS_BYTES)
    put_u64(out, len(extras.epoch_credits))
    for epoch, credits, previous in extras.epoch_credits:
        put_u64(out, to_u64(epoch, "epoch"))
        put_u64(out, to_u64(credits, "credits"))
        put_u64(out, to_u64(previous, "previous credits"))
    put_u64(out, to_u64(extras.last_timestamp.slot, "timestamp slot"))
    put_u64(out, <uint64_t>to_i64(extras.last_timestamp.timestamp, "timestamp"))
    put_last_vote(out, tower.last_vote, generation is Generation.CURRENT)
    put_u64(out, to_u64(tower.last_timestamp.slot, "timestamp slot"))
    put_u64(out, <uint64_t>to_i64(tower.last_timestamp.timestamp, "timestamp"))
    return 0


cdef int put_last_vote(Out *out, object vote, bint tagged) except -1:
    if tagged:
        put_u32(out, VOTE_KINDS.index(vote.kind))
    elif vote.kind is not VoteKind.VOTE:
        raise InvalidInput(f"the 1_7_14 layout holds only a Vote, not a {vote.kind.value}")
    if vote.kind is VoteKind.VOTE:
        put_u64(out, len(vote.slots))
        for slot in vote.slots:
            put_u64(out, to_u64(slot, "slot"))
    elif vote.kind is VoteKind.VOTE_STATE_UPDATE:
        put_full_lockouts(out, vote.lockouts)
        put_option_u64(out, vote.root, "root")
    else:
        block_id = None
        if vote.kind is VoteKind.TOWER_SYNC:
            block_id = ZERO_HASH if vote.block_id is None else vote.block_id
        return put_compact_vote(out, vote.lockouts, vote.root, vote.hash, vote.timestamp, block_id)
    return put_compact_tail(out, vote.hash, vote.timestamp, None)


def encode_tower_body(tower, generation):
    """The signed part of a saved tower in the layout of `generation`."""
    vote, extras = tower.last_vote, tower.extras
    cdef size_t size = (
        BODY_FIXED_BYTES_MAX
        + 12 * (len(tower.lockouts) + len(vote.lockouts))
        + 8 * len(vote.slots)
        + 40 * len(extras.authorized_voters)
        + 24 * len(extras.epoch_credits)
    )
    cdef uint8_t *work = <uint8_t *>malloc(size)
    cdef Out out = Out(work, work, size)
    if work == NULL:
        raise MemoryError
    try:
        put_body(&out, tower, generation)
        return PyBytes_FromStringAndSize(<char *>work, out.at - work)
    finally:
        free(work)


def encode_saved_tower(tower, bytes secret not None, generation):
    """A saved tower: envelope, signature by `secret`, and body, in the layout of `generation`."""
    body = encode_tower_body(tower, generation)
    envelope = sign(secret, body) + len(body).to_bytes(8, "little")
    if generation is not Generation.BARE_1_7_14:
        envelope = (b"\1\0\0\0" if generation is Generation.CURRENT else b"\0\0\0\0") + envelope
    return envelope + body


def encode_vote_record(
    bytes identity not None, bytes secret not None, TowerVoteState state not None, bytes bank_hash not None, timestamp,
    bytes block_id not None, last_timestamp, threshold_depth, double threshold_size,
):
    """The record to persist for a TowerSync vote of the whole `state`: the hot path of `encode_saved_tower`."""
    cdef uint8_t work[SIGNATURE_BYTES + BODY_BYTES_MAX]
    cdef Out out = Out(&work[SIGNATURE_BYTES], &work[SIGNATURE_BYTES], BODY_BYTES_MAX)
    cdef const uint8_t *key = secret_of(secret)
    cdef uint8_t *none
    cdef int i
    put_key(&out, identity, "identity")
    put_u64(&out, to_u64(threshold_depth, "threshold_depth"))
    put_f64(&out, threshold_size)
    none = room(&out, 2 * KEY_BYTES + 1)  # node, withdrawer and commission of the vote account: not kept
    memset(none, 0, 2 * KEY_BYTES + 1)
    put_u64(&out, state.depth)
    for i in range(state.depth):
        put_u64(&out, state.slots[i])
        put_u32(&out, state.confirmations[i])
    put_u8(&out, state.has_root)
    if state.has_root:
        put_u64(&out, state.root_slot)
    put_u64(&out, 0)  # authorized voters
    put_no_prior_voters(&out)
    put_u64(&out, 0)  # epoch credits
    put_u64(&out, 0)  # timestamp of the vote account: slot
    put_u64(&out, 0)  # and seconds
    put_u32(&out, 3)  # TowerSync
    put_compact_state(&out, state, bank_hash, timestamp, block_id)
    put_u64(&out, to_u64(last_timestamp[0], "timestamp slot"))
    put_u64(&out, <uint64_t>to_i64(last_timestamp[1], "timestamp"))

    cdef size_t length = out.at - out.start
    sign_in_place(&work[0], length, key)
    result = PyBytes_FromStringAndSize(NULL, ENVELOPE_BYTES + length)
    cdef uint8_t *start = <uint8_t *>PyBytes_AS_STRING(result)
    cdef Out envelope = Out(start, start, ENVELOPE_BYTES + length)
    put_u32(&envelope, 1)
    put_raw(&envelope, &work[0], SIGNATURE_BYTES)
    put_u64(&envelope, length)
    put_raw(&envelope, out.start, length)
    return result


# ------------------------------------------------------------------------------------------------------- reading

cdef struct Cursor:
    const uint8_t *start
    const uint8_t *at
    size_t left


cdef const uint8_t *take(Cursor *data, size_t count) except NULL:
    """The only way to advance: length first, then pointer."""
    if count > data.left:
        raise WireError(data.at - data.start, f"the data ends early: {count} bytes wanted, {data.left} left")
    cdef const uint8_t *here = data.at
    data.at += count
    data.left -= count
    return here


cdef int get_u8(Cursor *data) except -1:
    return take(data, 1)[0]


cdef uint32_t get_u32(Cursor *data) except? 0xFFFFFFFE:
    cdef const uint8_t *here = take(data, 4)
    return here[0] | <uint32_t>here[1] << 8 | <uint32_t>here[2] << 16 | <uint32_t>here[3] << 24


cdef uint64_t u64_at(const uint8_t *here) noexcept:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value |= <uint64_t>here[i] << (8 * i)
    return value


cdef uint64_t get_u64(Cursor *data) except? 0xFFFFFFFFFFFFFFFE:
    return u64_at(take(data, 8))


cdef bytes get_key(Cursor *data):
    return PyBytes_FromStringAndSize(<const char *>take(data, KEY_BYTES), KEY_BYTES)


cdef bint get_flag(Cursor *data, str what) except -1:
    cdef int tag = get_u8(data)
    if tag > 1:
        raise WireError(data.at - data.start - 1, f"{what}: expected 0 or 1, found {tag}")
    return tag


cdef object get_option_u64(Cursor *data, str what):
    return get_u64(data) if get_flag(data, what) else None


cdef object get_option_i64(Cursor *data, str what):
    return <int64_t>get_u64(data) if get_flag(data, what) else None


cdef Py_ssize_t get_count(Cursor *data, size_t item_bytes, str what) except -1:
    """A u64 count of items of `item_bytes` each: refused if that many cannot follow."""
    cdef size_t at = data.at - data.start
    cdef uint64_t count = get_u64(data)
    if count > data.left // item_bytes:
        raise WireError(at, f"{what}: {count} items of {item_bytes} bytes announced, {data.left} bytes left")
    return count


cdef int get_compact_u16(Cursor *data) except -1:
    cdef size_t at = data.at - data.start
    cdef int value = 0, byte, i
    for i in range(COMPACT_U16_BYTES_MAX):
        byte = get_u8(data)
        value |= (byte & 0x7F) << (7 * i)
        if not byte & 0x80:
            if i and not byte:
                raise WireError(at, "compact-u16 is longer than it needs to be")
            if value > 0xFFFF:
                raise WireError(at, f"compact-u16 holds {value}, more than 65535")
            return value
    raise WireError(at, "compact-u16 is longer than 3 bytes")


cdef uint64_t get_varint(Cursor *data) except? 0xFFFFFFFFFFFFFFFE:
    cdef size_t at = data.at - data.start
    cdef uint64_t value = 0
    cdef int byte, i
    for i in range(VARINT_BYTES_MAX):
        byte = get_u8(data)
        if i == VARINT_BYTES_MAX - 1 and byte & 0x7E:
            raise WireError(at, "varint holds more than 64 bits")
        value |= <uint64_t>(byte & 0x7F) << (7 * i)
        if not byte & 0x80:
            if i and not byte:
                raise WireError(at, "varint is longer than it needs to be")
            return value
    raise WireError(at, f"varint is longer than {VARINT_BYTES_MAX} bytes")


cdef tuple get_full_lockouts(Cursor *data, str what):
    cdef Py_ssize_t i, count = get_count(data, 12, what)
    return tuple([Lockout(get_u64(data), get_u32(data)) for i in range(count)])


cdef object get_compact_vote(Cursor *data, object kind):
    cdef uint64_t first = get_u64(data), slot, offset
    root = None if first == NO_ROOT else first
    slot = 0 if root is None else first
    cdef size_t at = data.at - data.start
    cdef int i, count = get_compact_u16(data)
    if <size_t>count > data.left // 2:
        raise WireError(at, f"lockouts: {count} announced, {data.left} bytes left")
    lockouts = []
    for i in range(count):
        at = data.at - data.start
        offset = get_varint(data)
        if offset > U64_MAX - slot:
            raise WireError(at, "slot is larger than 64 bits")
        slot += offset
        lockouts.append(Lockout(slot, get_u8(data)))
    hash = get_key(data)
    timestamp = get_option_i64(data, "timestamp option")
    block_id = get_key(data) if kind is VoteKind.TOWER_SYNC else None
    slots = tuple([lockout[0] for lockout in lockouts])
    return LastVote(kind, slots, tuple(lockouts), root, hash, timestamp, block_id)


cdef object get_last_vote(Cursor *data, bint tagged):
    cdef size_t at = data.at - data.start
    cdef uint32_t tag = get_u32(data) if tagged else 0
    cdef Py_ssize_t i, count
    if tag > 3:
        raise WireError(at, f"kind of the last vote: expected 0 to 3, found {tag}")
    kind = VOTE_KINDS[tag]
    if tag == 0:
        count = get_count(data, 8, "slots of the last vote")
        slots = tuple([get_u64(data) for i in range(count)])
        hash = get_key(data)
        return LastVote(kind, slots, (), None, hash, get_option_i64(data, "timestamp option"))
    if tag == 1:
        lockouts = get_full_lockouts(data, "lockouts of the last vote")
        root = get_option_u64(data, "root option of the last vote")
        hash = get_key(data)
        timestamp = get_option_i64(data, "timestamp option")
        return LastVote(kind, tuple([lockout[0] for lockout in lockouts]), lockouts, root, hash, timestamp)
    return get_compact_vote(data, kind)


cdef object get_body(Cursor *data, object generation):
    cdef Py_ssize_t i, count
    cdef const uint8_t *ring
    cdef uint64_t bits
    cdef double size
    cdef uint8_t empty[PRIOR_VOTERS_BYTES]
    cdef Out empty_out = Out(&empty[0], &empty[0], PRIOR_VOTERS_BYTES)
    put_no_prior_voters(&empty_out)
    identity = get_key(data)
    depth = get_u64(data)
    bits = get_u64(data)
    memcpy(&size, &bits, sizeof(size))
    node_pubkey, withdrawer, commission = get_key(data), get_key(data), get_u8(data)
    lockouts = get_full_lockouts(data, "votes")
    root = get_option_u64(data, "root option")
    count = get_count(data, 40, "authorized voters")
    voters = tuple([(get_u64(data), get_key(data)) for i in range(count)])
    ring = take(data, PRIOR_VOTERS_BYTES)
    if ring[PRIOR_VOTERS_BYTES - 1] > 1:
        raise WireError(
            data.at - data.start - 1, f"prior voters: expected 0 or 1, found {ring[PRIOR_VOTERS_BYTES - 1]}"
        )
    prior = None
    if memcmp(ring, &empty[0], PRIOR_VOTERS_BYTES) != 0:
        prior = PyBytes_FromStringAndSize(<const char *>ring, PRIOR_VOTERS_BYTES)
    count = get_count(data, 24, "epoch credits")
    credits = tuple([(get_u64(data), get_u64(data), get_u64(data)) for i in range(count)])
    stamp = BlockTimestamp(get_u64(data), <int64_t>get_u64(data))
    vote = get_last_vote(data, generation is Generation.CURRENT)
    last_timestamp = BlockTimestamp(get_u64(data), <int64_t>get_u64(data))
    if data.left:
        raise WireError(data.at - data.start, f"{data.left} bytes follow after the end of the tower")
    extras = VoteStateExtras(node_pubkey, withdrawer, commission, voters, prior, credits, stamp)
    return Tower(identity, lockouts, root, vote, last_timestamp, depth, size, extras, generation)


def decode_saved_tower(bytes data not None):
    """Read a saved tower of any generation: `(tower, signature, offset of the signed body)`.

    Checks structure only; signature, owner and tower invariants are the caller's (`tower.wire`). The generation is told by
    the place of the length: whichever of the two layouts has a length that covers the rest of the data exactly.
    """
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef uint64_t length = 0
    cdef uint32_t tag = 0
    cdef Cursor cursor = Cursor(start, start, size)
    if size >= ENVELOPE_BYTES:
        tag = get_u32(&cursor)
        length = u64_at(start + LENGTH_AT)
        if tag <= 1 and length == size - ENVELOPE_BYTES:
            cursor = Cursor(start, start + ENVELOPE_BYTES, size - ENVELOPE_BYTES)
            tower = get_body(&cursor, Generation.CURRENT if tag == 1 else Generation.ENUM_0)
            return tower, data[4:LENGTH_AT], ENVELOPE_BYTES
    if size >= BARE_ENVELOPE_BYTES and u64_at(start + BARE_LENGTH_AT) == size - BARE_ENVELOPE_BYTES:
        cursor = Cursor(start, start + BARE_ENVELOPE_BYTES, size - BARE_ENVELOPE_BYTES)
        return get_body(&cursor, Generation.BARE_1_7_14), data[:BARE_LENGTH_AT], BARE_ENVELOPE_BYTES
    if size < ENVELOPE_BYTES:
        raise WireError(size, f"the data ends early: a saved tower has more than 76 bytes, these are {size}")
    if tag > 1:
        raise WireError(0, f"no saved tower: version tag {tag} is unknown and no older layout fits")
    if length > size - ENVELOPE_BYTES:
        raise WireError(
            size,
            f"torn: the data ends early, {length} bytes announced at byte 68, {size - ENVELOPE_BYTES} are there",
        )
    raise WireError(
        ENVELOPE_BYTES + length, f"{size - ENVELOPE_BYTES - length} bytes follow after the end of the tower"
    )


def decode_compact_vote(bytes data not None, Py_ssize_t offset, bint with_block_id):
    """Read a compact payload at `offset`: `(vote, offset behind it)`."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    if not 0 <= offset <= PyBytes_GET_SIZE(data):
        raise WireError(offset, "the payload would begin outside the data")
    cdef Cursor cursor = Cursor(start, start + offset, PyBytes_GET_SIZE(data) - offset)
    vote = get_compact_vote(&cursor, VoteKind.TOWER_SYNC if with_block_id else VoteKind.COMPACT_VOTE_STATE_UPDATE)
    return vote, cursor.at - start


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

    put_u32(&data, TAG_TOWER_SYNC if switch_proof is None else TAG_TOWER_SYNC_SWITCH)
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
    put_varint(&out, data.at - data.start)
    put_raw(&out, &instruction[0], data.at - data.start)
    return PyBytes_FromStringAndSize(<char *>&message[0], out.at - out.start)


def sign_transaction(bytes message not None, secrets):
    """The transaction: the signatures of `message` by `secrets`, in the order of its signer keys, then the message."""
    cdef Py_ssize_t i, signers = len(secrets)
    cdef size_t length = PyBytes_GET_SIZE(message)
    cdef uint8_t work[SIGNATURE_BYTES + MESSAGE_BYTES_MAX]
    if not 1 <= signers <= 2:
        raise InvalidInput(f"a vote has one or two signers, not {signers}")
    if length > MESSAGE_BYTES_MAX:
        raise InvalidInput(f"a message of {length} bytes does not fit a packet of 1232")
    result = PyBytes_FromStringAndSize(NULL, 1 + signers * SIGNATURE_BYTES + length)
    cdef uint8_t *start = <uint8_t *>PyBytes_AS_STRING(result)
    cdef Out out = Out(start, start, 1 + signers * SIGNATURE_BYTES + length)
    put_u8(&out, signers)
    memcpy(&work[SIGNATURE_BYTES], PyBytes_AS_STRING(message), length)
    for i in range(signers):
        sign_in_place(&work[0], length, secret_of(secrets[i]))
        put_raw(&out, &work[0], SIGNATURE_BYTES)
    put_raw(&out, &work[SIGNATURE_BYTES], length)
    return result
