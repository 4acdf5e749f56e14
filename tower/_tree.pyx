# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=False, embedsignature=True, auto_pickle=False
"""The loops over many voters, compiled: a bank's votes in columns, their weight on the tree of banks, and stake tallies.

Arithmetic over arrays and parent links. Of the rules only those stand here that are asked once a voter or once a child: which
of two votes is newer, which vote is left under a vote, which of two forks is heavier. What a duplicate is, and what may be voted
for, stands in `tower.forkchoice` and `tower.checks`; all of it can be read in the twin, `tower._reference_tree`.

Stakes are u64 lamports. The stakes of one bank must add up to no more than 64 bits, which is checked when its columns are made.
Votes that count may come from banks with different stakes, so weights of forks have 128 bits.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from collections.abc import Mapping, Set

from tower.errors import InvalidInput
from tower.types import ZERO_HASH, Lockout, VoteAccountState

__all__ = ["Ancestry", "BankVotes", "LatestVotes", "LockedOut", "Node"]

cdef extern from *:
    """
    __extension__ typedef unsigned __int128 tower_u128;
    """
    ctypedef unsigned long long u128 "tower_u128"

cdef enum:
    COUNT_MAX = 31            # a larger confirmation count locks no longer than this one
    SUMS = 256                # sums that a tally keeps at once
    MAP_SLOTS_MAX = 1 << 16   # slots of a fork, the newest, that are looked up in a map of bytes

cdef uint64_t U64_MAX = <uint64_t>0xFFFFFFFFFFFFFFFF
cdef str TOO_LARGE = "a stake, slot or confirmation count of a bank's votes is negative or has more than 64 bits"


cdef inline uint64_t locked_until(uint64_t slot, uint8_t count) noexcept nogil:
    """The last slot at which that lockout binds; saturates at u64."""
    cdef uint64_t lockout = <uint64_t>1 << count
    return U64_MAX if slot > U64_MAX - lockout else slot + lockout


cdef void *room(Py_ssize_t count, size_t size) except NULL:
    cdef void *here = calloc(<size_t>count + 1, size)  # never of no bytes: that may be NULL
    if here == NULL:
        raise MemoryError
    return here


# ------------------------------------------------------------------------------------------------- a bank's votes

@cython.final
cdef class BankVotes:
    """The vote accounts of one bank in columns: a `Mapping` from address to `VoteAccountState`, with their stakes.

    A row an account. Two banks with the same accounts in the same order share `accounts`, and are then compared row by row
    without looking an address up. Made by `of`, `from_columns` or `with_changes`; never changed afterwards.
    """

    cdef readonly tuple accounts
    cdef readonly uint64_t total_stake
    cdef dict index
    cdef object given             # the mapping that the stakes were read from; None until somebody asks for one
    cdef list states              # VoteAccountState, or None where only the columns are known
    cdef Py_ssize_t rows
    cdef uint64_t *stakes
    cdef size_t *ends             # row i has the lockouts from ends[i - 1] to ends[i], oldest first
    cdef uint64_t *slots
    cdef uint8_t *counts          # confirmation counts, never above COUNT_MAX

    def __cinit__(self):
        self.stakes = self.slots = NULL
        self.ends = NULL
        self.counts = NULL

    def __init__(self):
        raise TypeError("BankVotes is made by of, from_columns or with_changes")

    def __dealloc__(self):
        free(self.stakes)
        free(self.ends)
        free(self.slots)
        free(self.counts)

    @staticmethod
    def of(votes, stakes, BankVotes like=None):
        """Columns of a mapping from address to state and one from address to stake (lamports; a missing one is 0).

        With `like`, the votes of a bank before, rows whose state is the same object are copied and not read again. Columns
        that were made with these very stakes are returned as they are.
        Raises `InvalidInput` if a number does not fit 64 bits.
        """
        cdef BankVotes new
        cdef tuple accounts
        cdef list states
        if isinstance(votes, BankVotes):
            new = <BankVotes>votes
            if new.given is stakes:
                return new
            like, accounts, states = new, new.accounts, new.states
        else:
            accounts, states = tuple(votes), list(votes.values())
        new = build(accounts, states, [stakes.get(account, 0) for account in accounts], like)
        new.given = stakes
        return new

    @staticmethod
    def from_columns(accounts, stakes, ends, slots, confirmation_counts, states=None):
        """Columns as a validator has them, of any buffers of numbers or sequences of ints.

        `accounts`: addresses. `stakes`: lamports, one each. `ends`: for each account, how many lockouts stand in `slots`
        and `confirmation_counts` up to and with its own, which are oldest first. `states`: full states of those accounts
        of which more is asked than lockouts; our own must be among them.
        Raises `InvalidInput` where lengths do not belong together or a number does not fit.
        """
        accounts = tuple(accounts)
        ends = [int(end) for end in ends]
        if not len(accounts) == len(ends) == len(stakes):
            raise InvalidInput(f"{len(accounts)} accounts, {len(stakes)} stakes, {len(ends)} ends of lockouts: they must be as many")
        if len(slots) != len(confirmation_counts) or (ends[len(ends) - 1] if ends else 0) != len(slots):
            raise InvalidInput(f"{len(slots)} slots and {len(confirmation_counts)} confirmation counts: the last end must be both")
        if any(end < start for start, end in zip([0, *ends], ends)):
            raise InvalidInput("ends of lockouts must not fall")
        cdef BankVotes new = empty(accounts, [None] * len(accounts), None, len(slots))
        cdef Py_ssize_t row
        cdef size_t i
        try:
            for row in range(new.rows):
                set_stake(new, row, stakes[row])
                new.ends[row + 1] = ends[row]
            for i in range(new.ends[new.rows]):
                set_lockout(new, i, slots[i], confirmation_counts[i])
        except OverflowError as problem:
            raise InvalidInput(TOO_LARGE) from problem
        for account, state in (states or {}).items():
            if account not in new.index:
                raise InvalidInput(f"a state for vote account {account.hex()}, which has no column")
            row = new.index[account]
            new.states[row] = state
        return new

    def with_changes(self, changed, stakes=None):
        """The next bank's votes: `changed` maps addresses to their new states; `stakes`, where given, replace all.

        Accounts that were not there yet are added at the end.
        """
        if all(account in self.index for account in changed):
            accounts, states = self.accounts, list(self.states)
        else:
            accounts = self.accounts + tuple([account for account in changed if account not in self.index])
            states = self.states + [None] * (len(accounts) - self.rows)
        index = self.index if accounts is self.accounts else {account: row for row, account in enumerate(accounts)}
        for account, state in changed.items():
            states[index[account]] = state
        if stakes is None:
            given = [self.stakes[row] if row < self.rows else 0 for row in range(len(accounts))]
        else:
            given = [stakes.get(account, 0) for account in accounts]
        return build(accounts, states, given, self)

    # ---- as a mapping

    def __len__(self):
        return self.rows

    def __iter__(self):
        return iter(self.accounts)

    def __contains__(self, account):
        return account in self.index

    def __getitem__(self, account, /):
        return self.state(self.index[account])

    def get(self, account, default=None, /):
        row = self.index.get(account)
        return default if row is None else self.state(row)

    def keys(self):
        return self.index.keys()

    def values(self):
        return [self.state(row) for row in range(self.rows)]

    def items(self):
        return [(account, self.state(row)) for row, account in enumerate(self.accounts)]

    def __eq__(self, other):
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    __hash__ = None

    def __repr__(self):
        return f"<BankVotes of {self.rows} accounts>"

    cdef object state(self, Py_ssize_t row):
        if self.states[row] is None:
            self.states[row] = VoteAccountState(ZERO_HASH, lockouts=self.lockouts_of(row))
        return self.states[row]

    cdef tuple lockouts_of(self, Py_ssize_t row):
        cdef size_t i
        return tuple([Lockout(self.slots[i], self.counts[i]) for i in range(self.ends[row], self.ends[row + 1])])

    @property
    def stakes_by_account(self):
        """The stakes (lamports) as a mapping: what a `FrozenBank` of these votes takes as its `stakes`."""
        if self.given is None:
            self.given = {account: self.stakes[row] for row, account in enumerate(self.accounts)}
        return self.given

    def stake(self, account):
        """The account's stake in lamports; 0 for one that is not here."""
        row = self.index.get(account)
        return 0 if row is None else self.stakes[<Py_ssize_t>row]

    # ---- tallies

    def newest_under(self, slot):
        """`{slot: stake}`: the stake by the newest vote that each account would be left with under a vote for `slot`.

        An account whose top is `slot` or newer counts with the vote below it; else expired votes are taken off the top.
        """
        cdef uint64_t bank_slot = slot, newest
        cdef uint64_t slots[SUMS]  # the few slots that most accounts name are summed here, by their last bits
        cdef uint64_t sums[SUMS]
        cdef Py_ssize_t row
        cdef size_t first, top, at
        tally = {}
        memset(sums, 0, sizeof(sums))
        for row in range(self.rows):
            if self.stakes[row] == 0:
                continue
            first, top = self.ends[row], self.ends[row + 1]
            if top > first and self.slots[top - 1] >= bank_slot:
                top -= 1
            else:
                while top > first and locked_until(self.slots[top - 1], self.counts[top - 1]) < bank_slot:
                    top -= 1
            if top == first:
                continue
            newest = self.slots[top - 1]
            at = newest % SUMS
            if sums[at] and slots[at] != newest:
                tally[slots[at]] = tally.get(slots[at], 0) + sums[at]
                sums[at] = 0
            slots[at] = newest
            sums[at] += self.stakes[row]
        for at in range(<size_t>SUMS):
            if sums[at]:
                tally[slots[at]] = tally.get(slots[at], 0) + sums[at]
        return tally

    def locked_out(self, slot, above, Node node, LockedOut counted not None):
        """Add to `counted` the accounts with a vote above slot `above`, on another fork than `node`'s, that binds at `slot`.

        `node` is the bank of our last vote, `None` where the tree does not know it.
        """
        cdef uint64_t bound = slot, root = above, voted
        cdef Py_ssize_t row
        cdef size_t i
        cdef Fork fork = Fork(node, root)
        for row in range(self.rows):
            for i in range(self.ends[row], self.ends[row + 1]):
                voted = self.slots[i]
                if voted > root and locked_until(voted, self.counts[i]) >= bound and not fork.holds(voted):
                    counted.add(self, row)
                    break


cdef BankVotes empty(tuple accounts, list states, BankVotes like, Py_ssize_t lockouts):
    """Columns with room for that many lockouts and nothing in them."""
    cdef BankVotes new = BankVotes.__new__(BankVotes)
    if like is not None and (like.accounts is accounts or like.accounts == accounts):
        new.accounts, new.index = like.accounts, like.index
    else:
        new.accounts, new.index = accounts, {account: row for row, account in enumerate(accounts)}
    new.rows = len(accounts)
    if len(new.index) != new.rows:
        raise InvalidInput("a vote account is there twice")
    new.states = states
    new.total_stake = 0
    new.stakes = <uint64_t *>room(new.rows, sizeof(uint64_t))
    new.ends = <size_t *>room(new.rows + 1, sizeof(size_t))
    new.slots = <uint64_t *>room(lockouts, sizeof(uint64_t))
    new.counts = <uint8_t *>room(lockouts, sizeof(uint8_t))
    return new


cdef int set_stake(BankVotes votes, Py_ssize_t row, uint64_t stake) except -1:
    if stake > U64_MAX - votes.total_stake:
        raise InvalidInput("the stakes of one bank add up to more than 64 bits")
    votes.stakes[row] = stake
    votes.total_stake += stake
    return 0


cdef inline void set_lockout(BankVotes votes, size_t i, uint64_t slot, uint64_t count) noexcept:
    votes.slots[i] = slot
    votes.counts[i] = COUNT_MAX if count > COUNT_MAX else <uint8_t>count


cdef BankVotes build(tuple accounts, list states, list stakes, BankVotes like):
    """Columns of these states; a state of `None` is a row of `like`, of which only the columns are known."""
    cdef Py_ssize_t row, rows = len(accounts), same = 0  # rows that `like` has for the same accounts
    cdef size_t lockouts = 0, i = 0, size
    cdef BankVotes new
    if like is not None and (like.accounts is accounts or like.accounts == accounts[: like.rows]):
        same = like.rows
    for row in range(rows):
        if states[row] is not None:
            lockouts += <size_t>len(states[row].lockouts)
        elif row < same:
            lockouts += like.ends[row + 1] - like.ends[row]
        else:
            raise InvalidInput(f"vote account {accounts[row].hex()} has no state")
    new = empty(accounts, states, like, <Py_ssize_t>lockouts)
    try:
        for row in range(rows):
            set_stake(new, row, stakes[row])
            if row < same and states[row] is like.states[row]:
                size = like.ends[row + 1] - like.ends[row]
                memcpy(&new.slots[i], &like.slots[like.ends[row]], size * sizeof(uint64_t))
                memcpy(&new.counts[i], &like.counts[like.ends[row]], size * sizeof(uint8_t))
                i += size
            else:
                for lockout in states[row].lockouts:
                    if not isinstance(lockout, tuple) or len(<tuple>lockout) < 2:
                        raise InvalidInput(f"a lockout is a slot and a confirmation count, not {lockout!r}")
                    set_lockout(new, i, (<tuple>lockout)[0], (<tuple>lockout)[1])
                    i += 1
            new.ends[row + 1] = i
    except OverflowError as problem:
        raise InvalidInput(TOO_LARGE) from problem
    return new


Mapping.register(BankVotes)


# ------------------------------------------------------------------------------------------------- the tree of banks

@cython.final
cdef class Node:
    """A bank in the tree. `subtree_stake` is the stake whose newest vote is for it or a descendant of it."""

    cdef readonly object bank
    cdef readonly uint64_t slot
    cdef readonly bytes bank_hash
    cdef readonly BankVotes votes
    cdef readonly Node parent
    cdef readonly object leader
    cdef readonly list children
    cdef readonly u128 subtree_stake
    cdef public bint duplicate            # marked invalid itself
    cdef public bint confirmed
    cdef public object invalid_ancestor   # the newest slot at or above this bank that is marked invalid
    cdef bint gone                        # no longer in the tree
    cdef bint touched
    cdef u128 change                      # of the stake, not yet handed up; modulo 2**128, as a loss is a large gain

    def __init__(self, bank, Node parent, BankVotes votes not None):
        self.bank = bank
        try:
            self.slot = bank.slot
        except OverflowError as problem:
            raise InvalidInput(f"bank {bank.slot}: a slot is from 0 to 2**64-1") from problem
        self.leader = bank.leader
        self.bank_hash = bank.bank_hash
        self.votes = votes
        self.parent = parent
        self.children = []
        self.invalid_ancestor = None if parent is None else parent.invalid_ancestor
        if parent is not None:
            parent.children.append(self)

    @property
    def key(self):
        return self.slot, self.bank_hash

    def path(self):
        """This node and its ancestors, up to the root of the tree."""
        cdef Node node = self
        found = []
        while node is not None:
            found.append(node)
            node = node.parent
        return found

    def below(self):
        """This node and its descendants, parents before their children."""
        cdef Node node
        found, frontier = [], [self]
        while frontier:
            node = frontier.pop()
            found.append(node)
            frontier.extend(node.children)
        return found

    cpdef Node at_or_before(self, slot):
        """The newest node of this one's path whose slot is not above `slot`; `None` if that is below the tree."""
        cdef Node node = self
        if slot < 0:
            return None
        cdef uint64_t bound = U64_MAX if slot > U64_MAX else slot
        while node is not None and node.slot > bound:
            node = node.parent
        return node

    def descends_from(self, slot):
        """Whether `slot` is this bank's or that of an ancestor in the tree."""
        cdef Node node = self.at_or_before(slot)
        return node is not None and node.slot == slot

    def meets(self, Node other not None):
        """The newest node that this path and that of `other` have in common, `None` if they have none."""
        cdef Node one = self, two = other
        while one is not two and one is not None and two is not None:
            if one.slot > two.slot or (one.slot == two.slot and one is not two):
                one = one.parent
            else:
                two = two.parent
        return one if one is two else None

    def become_root(self):
        """Cut this node off from what is above it; the nodes that are not below it any more."""
        cdef Node top = self, node, kept = self
        while top.parent is not None:
            top = top.parent
        lost, frontier = [], [] if top is self else [top]
        while frontier:
            node = frontier.pop()
            node.gone = True
            lost.append(node)
            frontier.extend([child for child in node.children if child is not kept])
            node.parent, node.children = None, []  # whoever still holds one of them must not hold all that came after
        self.parent = None
        return lost

    cpdef Node heaviest_below(self):
        """The tip of the heaviest fork from here: of equal weights the smaller slot, then the smaller bank hash."""
        cdef Node node = self, child, best
        while True:
            best = None
            for child in node.children:
                if child.invalid_ancestor is not None:
                    continue
                if best is None or child.outweighs(best):
                    best = child
            if best is None:
                return node
            node = best

    cdef bint outweighs(self, Node other):
        if self.subtree_stake != other.subtree_stake:
            return self.subtree_stake > other.subtree_stake
        if self.slot != other.slot:
            return self.slot < other.slot
        return self.bank_hash < other.bank_hash

    def led_by(self, leader):
        """The newest bank of this path that `leader` produced, as far as that is known; `None` where there is none."""
        cdef Node node = self
        while node is not None:
            if node.leader is not None and node.leader == leader:
                return node.bank
            node = node.parent
        return None


@cython.final
cdef class Ancestry:
    """The ancestors of one bank, itself left out, as a `Set` of slots: asked of the tree, listed only for who goes through them.

    `rooted` are the slots below the tree that are ancestors of its root. `node` is `None` for an unknown bank: nothing is in it.
    """

    cdef Node node
    cdef object rooted

    def __cinit__(self, Node node, rooted):
        self.node = node
        self.rooted = rooted

    def __contains__(self, older):
        cdef Node above = self.node
        cdef uint64_t slot
        if above is None or not isinstance(older, int) or not 0 <= older <= 0xFFFFFFFFFFFFFFFF:
            return False
        slot = older
        if slot == above.slot:
            return False
        while above is not None and above.slot > slot:
            above = above.parent
        return above is not None and above.slot == slot or older in self.rooted

    def __iter__(self):
        if self.node is None:
            return iter(())
        return iter([(<Node>above).slot for above in self.node.path()[1:]] + sorted(self.rooted, reverse=True))

    def __len__(self):
        return sum([1 for _ in self])

    def __eq__(self, other):
        return set(self) == other if isinstance(other, Set) else NotImplemented

    __hash__ = None


Set.register(Ancestry)


@cython.final
cdef class Fork:
    """Which slots a fork holds, above a root and without its tip: a map of the newest ones, a search for those below."""

    cdef uint8_t *map
    cdef uint64_t first           # the slot at which the map begins
    cdef uint64_t tip
    cdef Node node

    def __cinit__(self, Node node, uint64_t root):
        self.map = NULL
        cdef Node above
        self.node = above = None if node is None else node.parent
        if above is None:
            return
        self.tip = above.slot
        self.first = max(root, self.tip - min(self.tip, <uint64_t>MAP_SLOTS_MAX))
        if self.tip < self.first:
            return
        self.map = <uint8_t *>room(<Py_ssize_t>(self.tip - self.first + 1), 1)
        while above is not None and above.slot >= self.first:
            self.map[above.slot - self.first] = 1
            above = above.parent

    def __dealloc__(self):
        free(self.map)

    cdef inline bint holds(self, uint64_t slot):
        cdef Node node
        if self.node is None or slot > self.tip:
            return False
        if self.map != NULL and slot >= self.first:
            return self.map[slot - self.first]
        node = self.node
        while node is not None and node.slot > slot:
            node = node.parent
        return node is not None and node.slot == slot


@cython.final
cdef class LockedOut:
    """A set of accounts, held as marks on the rows of one bank's columns, and by address where they are not in it."""

    cdef BankVotes votes
    cdef uint8_t *marks
    cdef set others

    def __cinit__(self, BankVotes votes not None):
        self.marks = <uint8_t *>room(votes.rows, 1)
        self.votes = votes
        self.others = set()

    def __dealloc__(self):
        free(self.marks)

    cdef int add(self, BankVotes votes, Py_ssize_t row) except -1:
        if votes.accounts is self.votes.accounts:
            self.marks[row] = 1
        else:
            self.add_account(votes.accounts[row])
        return 0

    cpdef int add_account(self, account) except -1:
        """Add one account by its address."""
        row = self.votes.index.get(account)
        if row is None:
            self.others.add(account)
        else:
            self.marks[<Py_ssize_t>row] = 1
        return 0

    def stake(self, stakes):
        """The stake of all of them in lamports; of those that the columns lack, as `stakes` says."""
        cdef uint64_t held = 0
        cdef Py_ssize_t row
        for row in range(self.votes.rows):
            if self.marks[row]:
                held += self.votes.stakes[row]
        return held + sum([stakes.get(account, 0) for account in self.others])


# ------------------------------------------------------------------------------------------------- newest votes

@cython.final
cdef class _Latest:
    """The newest vote of one account that is known: for which slot and bank, and how much stake it put there."""

    cdef bint voted
    cdef uint64_t slot
    cdef bytes bank_hash          # empty where the bank is not known
    cdef Node node                # where the stake was put
    cdef uint64_t stake

    cdef inline uint64_t counted(self) noexcept:
        return self.stake if self.node is not None else 0


@cython.final
cdef class LatestVotes:
    """The newest vote of every account, and through it the weight of every node of a tree.

    `find(slot)` answers with the node that a slot stands for where a vote is not on the fork of the bank that holds it.
    """

    cdef object find
    cdef dict latest              # vote account -> _Latest
    cdef tuple accounts           # those of the bank folded last,
    cdef list rows                # and their entries
    cdef set unknown              # slots that were voted for while no bank of them was in the tree
    cdef list moved               # nodes with a change that is not handed up yet

    def __init__(self, find):
        self.find = find
        self.latest = {}
        self.accounts, self.rows = None, []
        self.unknown = set()
        self.moved = []

    def fold(self, Node node not None):
        """Take in the votes that `node`'s bank holds, and those that wait for this very bank to become known."""
        cdef BankVotes votes = node.votes
        cdef Py_ssize_t row
        cdef size_t top
        cdef uint64_t voted, previous = 0
        cdef Node named = None
        cdef bint asked = False
        cdef dict names = {}  # most accounts name the same few slots
        cdef _Latest latest
        if self.accounts is not votes.accounts:
            self.rows = [self.entry(account) for account in votes.accounts]
            self.accounts = votes.accounts
        for row in range(votes.rows):
            top = votes.ends[row + 1]
            if top == votes.ends[row]:
                continue
            voted = votes.slots[top - 1]
            latest = <_Latest>self.rows[row]
            if latest.voted and voted < latest.slot:
                continue
            if not asked or voted != previous:
                previous, asked = voted, True
                if voted not in names:
                    names[voted] = self.named(node, voted)
                named = names[voted]
            if (
                not latest.voted
                or voted > latest.slot
                or (named is not None and named.bank_hash < latest.bank_hash)
            ):
                self.move(latest, named, voted, votes.stakes[row])
        if self.unknown and node.slot in self.unknown:
            self.count_waiting(node)
        self.hand_up()

    cdef _Latest entry(self, account):
        found = self.latest.get(account)
        if found is None:
            found = self.latest[account] = _Latest.__new__(_Latest)
            (<_Latest>found).bank_hash = b""
        return <_Latest>found

    cdef Node named(self, Node node, uint64_t slot):
        """A vote account holds slots; the bank meant is the version on the fork of the bank that holds the vote, if any."""
        cdef Node found = node
        while found is not None and found.slot > slot:
            found = found.parent
        if found is None or found.slot != slot:
            found = self.find(slot)
        return found

    cdef int move(self, _Latest latest, Node node, uint64_t slot, uint64_t stake) except -1:
        cdef uint64_t before = latest.counted()
        if before:
            self.touch(latest.node, <u128>0 - before)
        if node is None:
            self.unknown.add(slot)
        elif stake:
            self.touch(node, stake)
        latest.voted, latest.slot, latest.stake = True, slot, stake
        latest.node = node
        latest.bank_hash = b"" if node is None else node.bank_hash
        return 0

    cdef int touch(self, Node node, u128 change) except -1:
        if not node.touched:
            node.touched = True
            self.moved.append(node)
        node.change += change
        return 0

    cdef int count_waiting(self, Node node) except -1:
        """A vote for a bank that only now became known begins to count, with the stake that this bank gives it."""
        cdef _Latest latest
        cdef bint waiting = False
        for account, latest in self.latest.items():
            if not latest.voted or latest.slot != node.slot or latest.counted():
                continue
            if not latest.bank_hash or latest.bank_hash == node.bank_hash:
                self.move(latest, node, node.slot, node.bank.stakes.get(account, 0))
            else:
                waiting = True  # for another version of that slot, which was there once
        if not waiting:
            self.unknown.discard(node.slot)
        return 0

    cdef int hand_up(self) except -1:
        """Give every change to the nodes above, newest first: each goes up to the next node that has one of its own to give."""
        cdef Node node, above
        cdef u128 change
        if len(self.moved) > 1:
            self.moved.sort(key=slot_of, reverse=True)
        for node in self.moved:
            change, node.change, node.touched = node.change, 0, False
            if change == 0:
                continue
            node.subtree_stake += change
            above = node.parent
            while above is not None and not above.touched:
                above.subtree_stake += change
                above = above.parent
            if above is not None:
                above.change += change
        self.moved.clear()
        return 0

    def forget(self, lost, root):
        """Nodes are gone, and `root` is the oldest slot of the tree: votes for what is gone weigh nothing until it is back.

        They let go of it, too, for a node holds its bank's votes: a voter that has gone silent must not keep them.
        """
        cdef _Latest latest
        for latest in self.latest.values():
            if latest.node is not None and latest.node.gone:
                latest.node = None
        for slot in [slot for slot in self.unknown if slot <= root]:
            self.unknown.discard(slot)
        self.unknown.update([(<Node>node).slot for node in lost if (<Node>node).slot > root])

    def slots(self):
        """`[(vote account, slot)]` of every account's newest vote."""
        cdef _Latest latest
        return [(account, latest.slot) for account, latest in self.latest.items() if latest.voted]


def slot_of(Node node not None):
    return node.slot
