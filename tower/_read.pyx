# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=False, embedsignature=True, auto_pickle=False
"""Reading of foreign bytes, compiled: saved towers of every generation, and compact votes. `tower._fast` gives it out.

`read_saved_tower` goes through a whole file, checks its structure and remembers where things stand; it makes no Python
object but its result. What the file says becomes Python values when it is asked for. Bytes are read through `take` and
nothing else moves a position: length first, then pointer. `tower._reference` is the readable twin.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tower.errors import WireError
from tower.types import BlockTimestamp, Generation, LastVote, Lockout, Tower, VoteKind, VoteStateExtras

__all__ = ["SavedTower", "decode_compact_vote", "decode_saved_tower", "read_saved_tower"]

cdef enum:
    KEY_BYTES = 32
    SIGNATURE_BYTES = 64
    LOCKOUT_BYTES = 12            # slot u64, confirmation count u32
    PRIOR_VOTERS_BYTES = 1545     # 32 entries of 48 bytes, index u64, is-empty bool
    ENVELOPE_BYTES = 76           # version tag 4, signature 64, length 8
    BARE_ENVELOPE_BYTES = 72
    LENGTH_AT = 68
    BARE_LENGTH_AT = 64
    VARINT_BYTES_MAX = 10
    COMPACT_U16_BYTES_MAX = 3
    BARE = 0                      # layouts: indices into GENERATIONS
    ENUM_0 = 1
    CURRENT = 2
    PLAIN_VOTE = 0                # kinds of a last vote: indices into VOTE_KINDS
    STATE_UPDATE = 1
    TOWER_SYNC = 3

cdef uint64_t U64_MAX = <uint64_t>0xFFFFFFFFFFFFFFFF
cdef uint64_t NO_ROOT = U64_MAX   # how the compact forms write a missing root
cdef bytes EMPTY_PRIOR_VOTERS = bytes(32 * 48) + b"\x1f" + bytes(7) + b"\x01"
cdef tuple GENERATIONS = (Generation.BARE_1_7_14, Generation.ENUM_0, Generation.CURRENT)
cdef tuple VOTE_KINDS = (
    VoteKind.VOTE, VoteKind.VOTE_STATE_UPDATE, VoteKind.COMPACT_VOTE_STATE_UPDATE, VoteKind.TOWER_SYNC
)


# --------------------------------------------------------------------------------------------------- one step at a time

cdef inline const uint8_t *take(Cursor *data, size_t count) except NULL:
    """The only way to advance: length first, then pointer."""
    if count > data.left:
        raise WireError(data.at - data.start, f"the data ends early: {count} bytes wanted, {data.left} left")
    cdef const uint8_t *here = data.at
    data.at += count
    data.left -= count
    return here


cdef inline int get_u8(Cursor *data) except -1:
    return take(data, 1)[0]


cdef inline uint32_t get_u32(Cursor *data) except? 0xFFFFFFFE:
    return u32_at(take(data, 4))


cdef inline uint64_t get_u64(Cursor *data) except? 0xFFFFFFFFFFFFFFFE:
    return u64_at(take(data, 8))


cdef bytes key_at(const uint8_t *here):
    return PyBytes_FromStringAndSize(<const char *>here, KEY_BYTES)


cdef inline bytes get_key(Cursor *data):
    return key_at(take(data, KEY_BYTES))


cdef inline bint get_flag(Cursor *data, str what) except -1:
    cdef int tag = get_u8(data)
    if tag > 1:
        raise WireError(data.at - data.start - 1, f"{what}: expected 0 or 1, found {tag}")
    return tag


cdef object get_option_u64(Cursor *data, str what):
    return get_u64(data) if get_flag(data, what) else None


cdef object get_option_i64(Cursor *data, str what):
    return <int64_t>get_u64(data) if get_flag(data, what) else None


cdef inline Py_ssize_t get_count(Cursor *data, size_t item_bytes, str what) except -1:
    """A u64 count of items of `item_bytes` each: refused if that many cannot follow."""
    cdef size_t at = <size_t>(data.at - data.start)
    cdef uint64_t count = get_u64(data)
    if count > data.left // item_bytes:
        raise WireError(at, f"{what}: {count} items of {item_bytes} bytes announced, {data.left} bytes left")
    return <Py_ssize_t>count


cdef int get_compact_u16(Cursor *data) except -1:
    cdef size_t at = <size_t>(data.at - data.start)
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


cdef inline uint64_t get_varint(Cursor *data) except? 0xFFFFFFFFFFFFFFFE:
    cdef size_t at = <size_t>(data.at - data.start)
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


cdef int open_compact(Cursor *data, uint64_t *root) except -1:
    """The head of a compact vote: sets `root` (`NO_ROOT` where there is none), returns how many lockouts follow."""
    root[0] = get_u64(data)
    cdef size_t at = <size_t>(data.at - data.start)
    cdef int count = get_compact_u16(data)
    if <size_t>count > data.left // 2:
        raise WireError(at, f"lockouts: {count} announced, {data.left} bytes left")
    return count


cdef inline int next_lockout(Cursor *data, uint64_t *slot) except -1:
    """One lockout of a compact vote: moves `slot` on from the one before, returns the confirmation count."""
    cdef size_t at = <size_t>(data.at - data.start)
    cdef uint64_t offset = get_varint(data)
    if offset > U64_MAX - slot[0]:
        raise WireError(at, "slot is larger than 64 bits")
    slot[0] += offset
    return get_u8(data)


cdef const uint8_t *get_prior_voters(Cursor *data) except NULL:
    cdef const uint8_t *ring = take(data, PRIOR_VOTERS_BYTES)
    if ring[PRIOR_VOTERS_BYTES - 1] > 1:
        raise WireError(
            data.at - data.start - 1, f"prior voters: expected 0 or 1, found {ring[PRIOR_VOTERS_BYTES - 1]}"
        )
    return ring


cdef int get_kind(Cursor *data, bint tagged) except -1:
    cdef size_t at = <size_t>(data.at - data.start)
    cdef uint32_t tag = get_u32(data) if tagged else PLAIN_VOTE
    if tag > TOWER_SYNC:
        raise WireError(at, f"kind of the last vote: expected 0 to 3, found {tag}")
    return <int>tag


# ------------------------------------------------------------------------------------------------------- saved towers

cdef inline int skip_option(Cursor *data, str what) except -1:
    if get_flag(data, what):
        take(data, 8)
    return 0


@cython.final
cdef class SavedTower:
    """A saved tower whose structure is sound, as `read_saved_tower` found it. Keeps the bytes, and reads them when asked.

    Neither its signature nor its owner is checked, nor whether its lockouts are possible: `tower.wire`, `tower.lockout`.
    """

    def __cinit__(self):
        self.data = b""  # until `read_saved_tower` puts something in: bytes that hold no tower

    def __init__(self):
        raise TypeError("a SavedTower comes from read_saved_tower")

    cdef int check(self) except -1:
        """Go through the body from end to end. Raises `WireError` where `tower` would."""
        cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(self.data)
        cdef Cursor cursor = Cursor(start, start + self.body_at, <size_t>(PyBytes_GET_SIZE(self.data) - self.body_at))
        cdef Cursor *data = &cursor
        take(data, KEY_BYTES)                # identity
        take(data, 8)                        # threshold depth
        take(data, 8)                        # threshold size
        take(data, KEY_BYTES)                # node
        take(data, KEY_BYTES)                # withdrawer
        take(data, 1)                        # commission
        self.votes_count = <size_t>get_count(data, LOCKOUT_BYTES, "votes")
        self.votes = take(data, self.votes_count * LOCKOUT_BYTES)
        self.has_root = get_flag(data, "root option")
        self.root_slot = get_u64(data) if self.has_root else 0
        take(data, <size_t>get_count(data, 8 + KEY_BYTES, "authorized voters") * (8 + KEY_BYTES))
        get_prior_voters(data)
        take(data, <size_t>get_count(data, 24, "epoch credits") * 24)
        take(data, 8)                        # timestamp of the vote account: slot
        take(data, 8)                        # and seconds
        self.check_last_vote(data)
        take(data, 8)                        # last timestamp: slot
        take(data, 8)                        # and seconds
        if data.left:
            raise WireError(data.at - data.start, f"{data.left} bytes follow after the end of the tower")
        return 0

    cdef int check_last_vote(self, Cursor *data) except -1:
        cdef int kind = get_kind(data, self.layout == CURRENT)
        cdef size_t count, item_bytes
        cdef const uint8_t *items
        cdef uint64_t slot
        cdef int i
        if kind <= STATE_UPDATE:
            item_bytes = 8 if kind == PLAIN_VOTE else LOCKOUT_BYTES
            what = "slots of the last vote" if kind == PLAIN_VOTE else "lockouts of the last vote"
            count = <size_t>get_count(data, item_bytes, what)
            items = take(data, count * item_bytes)
            self.last_slot = u64_at(items + (count - 1) * item_bytes) if count else 0
            if kind == STATE_UPDATE:
                skip_option(data, "root option of the last vote")
        else:
            count = <size_t>open_compact(data, &slot)
            slot = 0 if slot == NO_ROOT else slot
            for i in range(<int>count):
                next_lockout(data, &slot)
            self.last_slot = slot
        self.has_last = count > 0
        take(data, KEY_BYTES)                # bank hash
        skip_option(data, "timestamp option")
        if kind == TOWER_SYNC:
            take(data, KEY_BYTES)            # block id
        return 0

    @property
    def generation(self):
        """The layout of the file."""
        return GENERATIONS[self.layout]

    @property
    def identity(self):
        """Whose tower the file says it is."""
        return self.data[self.body_at:self.body_at + KEY_BYTES]

    @property
    def signature(self):
        """What is to be checked over `data[body_at:]`."""
        cdef Py_ssize_t at = 0 if self.layout == BARE else 4
        return self.data[at:at + SIGNATURE_BYTES]

    @property
    def root(self):
        """The root of the lockouts, `None` where they have none."""
        return self.root_slot if self.has_root else None

    @property
    def last_voted_slot(self):
        """The newest slot of the last vote sent, `None` where nothing was ever sent."""
        return self.last_slot if self.has_last else None

    def tower(self):
        """All of it, as a `Tower`."""
        cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(self.data)
        cdef Cursor cursor = Cursor(start, start + self.body_at, <size_t>(PyBytes_GET_SIZE(self.data) - self.body_at))
        return get_body(&cursor, GENERATIONS[self.layout])


def read_saved_tower(bytes data not None):
    """Check the structure of a saved tower of any generation, and give it back as a `SavedTower`.

    The generation is told by the place of the length: whichever of the two layouts has a length that covers the rest of the
    data exactly. Raises `WireError`.
    """
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
    cdef uint64_t length = 0
    cdef uint32_t tag = 0
    cdef SavedTower found = SavedTower.__new__(SavedTower)
    found.data = data
    if size >= ENVELOPE_BYTES:
        tag = u32_at(start)
        length = u64_at(start + LENGTH_AT)
        if tag <= 1 and length == size - ENVELOPE_BYTES:
            found.layout = CURRENT if tag == 1 else ENUM_0
            found.body_at = ENVELOPE_BYTES
            found.check()
            return found
    if size >= BARE_ENVELOPE_BYTES and u64_at(start + BARE_LENGTH_AT) == size - BARE_ENVELOPE_BYTES:
        found.layout = BARE
        found.body_at = BARE_ENVELOPE_BYTES
        found.check()
        return found
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


def decode_saved_tower(bytes data not None):
    """Read a saved tower of any generation: `(tower, signature, offset of the signed body)`.

    Checks structure only, as `read_saved_tower`; signature, owner and tower invariants are the caller's (`tower.wire`).
    """
    cdef SavedTower found = read_saved_tower(data)
    return found.tower(), found.signature, found.body_at


def decode_compact_vote(bytes data not None, Py_ssize_t offset, bint with_block_id):
    """Read a compact payload at `offset`: `(vote, offset behind it)`."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    if not 0 <= offset <= PyBytes_GET_SIZE(data):
        raise WireError(offset, "the payload would begin outside the data")
    cdef Cursor cursor = Cursor(start, start + offset, <size_t>(PyBytes_GET_SIZE(data) - offset))
    vote = get_compact_vote(&cursor, VoteKind.TOWER_SYNC if with_block_id else VoteKind.COMPACT_VOTE_STATE_UPDATE)
    return vote, cursor.at - start


# -------------------------------------------------------------------------------------------------- into Python values

cdef inline object make_lockout(uint64_t slot, uint32_t confirmation_count):
    return tuple.__new__(Lockout, (slot, confirmation_count))


cdef tuple get_full_lockouts(Cursor *data, str what):
    cdef Py_ssize_t i, count = get_count(data, LOCKOUT_BYTES, what)
    return tuple([make_lockout(get_u64(data), get_u32(data)) for i in range(count)])


cdef object get_compact_vote(Cursor *data, object kind):
    cdef uint64_t slot
    cdef int i, confirmation_count, count = open_compact(data, &slot)
    root = None if slot == NO_ROOT else slot
    slot = 0 if root is None else slot
    lockouts = []
    for i in range(count):
        confirmation_count = next_lockout(data, &slot)
        lockouts.append(make_lockout(slot, <uint32_t>confirmation_count))
    hash = get_key(data)
    timestamp = get_option_i64(data, "timestamp option")
    block_id = get_key(data) if kind is VoteKind.TOWER_SYNC else None
    slots = tuple([lockout[0] for lockout in lockouts])
    return LastVote(kind, slots, tuple(lockouts), root, hash, timestamp, block_id)


cdef object get_last_vote(Cursor *data, bint tagged):
    cdef Py_ssize_t i, count
    cdef int tag = get_kind(data, tagged)
    kind = VOTE_KINDS[tag]
    if tag == PLAIN_VOTE:
        count = get_count(data, 8, "slots of the last vote")
        slots = tuple([get_u64(data) for i in range(count)])
        hash = get_key(data)
        return LastVote(kind, slots, (), None, hash, get_option_i64(data, "timestamp option"))
    if tag == STATE_UPDATE:
        lockouts = get_full_lockouts(data, "lockouts of the last vote")
        root = get_option_u64(data, "root option of the last vote")
        hash = get_key(data)
        timestamp = get_option_i64(data, "timestamp option")
        return LastVote(kind, tuple([lockout[0] for lockout in lockouts]), lockouts, root, hash, timestamp)
    return get_compact_vote(data, kind)


cdef object get_body(Cursor *data, object generation):
    """What `SavedTower.check` went through, as a `Tower`."""
    cdef Py_ssize_t i, count
    cdef uint64_t bits
    cdef double size
    identity = get_key(data)
    depth = get_u64(data)
    bits = get_u64(data)
    memcpy(&size, &bits, sizeof(size))
    node_pubkey, withdrawer, commission = get_key(data), get_key(data), get_u8(data)
    lockouts = get_full_lockouts(data, "votes")
    root = get_option_u64(data, "root option")
    count = get_count(data, 8 + KEY_BYTES, "authorized voters")
    voters = tuple([(get_u64(data), get_key(data)) for i in range(count)])
    prior = PyBytes_FromStringAndSize(<const char *>get_prior_voters(data), PRIOR_VOTERS_BYTES)
    count = get_count(data, 24, "epoch credits")
    credits = tuple([(get_u64(data), get_u64(data), get_u64(data)) for i in range(count)])
    stamp = BlockTimestamp(get_u64(data), <int64_t>get_u64(data))
    vote = get_last_vote(data, generation is Generation.CURRENT)
    last_timestamp = BlockTimestamp(get_u64(data), <int64_t>get_u64(data))
    extras = VoteStateExtras(
        node_pubkey, withdrawer, commission, voters, None if prior == EMPTY_PRIOR_VOTERS else prior, credits, stamp
    )
    return Tower(identity, lockouts, root, vote, last_timestamp, depth, size, extras, generation)
