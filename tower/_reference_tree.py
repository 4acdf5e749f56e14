"""The readable twin of `tower._tree` with the fork choice on top of it: the same answers, every vote looked at on its own.

Property tests hold `tower.forkchoice` and the tallies against it, on random trees with duplicates, roots and gossip. It is
never chosen silently: import it by name to read it. `ForkChoice` is what `tower.forkchoice.ForkChoice` is, over plain
mappings; `newest_under` and `locked_out` are the tallies of `BankVotes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tower.errors import InvalidInput
from tower.types import FrozenBank, VoteAccountState

__all__ = ["ROOTED_SLOTS_MAX", "ForkChoice", "locked_out", "newest_under"]

ROOTED_SLOTS_MAX = 4096  # slots below the root that are remembered as its ancestors


class _Node:
    __slots__ = ("bank", "children", "confirmed", "duplicate", "invalid_ancestor", "parent", "subtree_stake")

    def __init__(self, bank: FrozenBank, parent: _Node | None) -> None:
        self.bank = bank
        self.parent = parent
        self.children: list[_Node] = []
        self.subtree_stake = 0
        self.duplicate = False  # marked invalid itself
        self.confirmed = False
        # the newest slot at or above this bank that is marked invalid
        self.invalid_ancestor: int | None = None if parent is None else parent.invalid_ancestor

    @property
    def key(self) -> tuple[int, bytes]:
        return self.bank.slot, self.bank.bank_hash

    def path(self) -> Iterator[_Node]:
        """This node and its ancestors, up to the root of the tree."""
        node: _Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator[_Node]:
        """This node and its descendants."""
        frontier = [self]
        while frontier:
            node = frontier.pop()
            yield node
            frontier.extend(node.children)


def _shift(old: _Node | None, old_stake: int, new: _Node | None, new_stake: int) -> None:
    """Take stake off the fork of `old` and put it on that of `new`. Where both hold a bank and the stake is the same,
    nothing changes from there on down, so a vote that follows another costs the distance between the two."""
    while old is not new and (old is not None or new is not None):
        if new is None or (old is not None and old.bank.slot >= new.bank.slot):
            if old is not None:
                old.subtree_stake -= old_stake
                old = old.parent
        else:
            new.subtree_stake += new_stake
            new = new.parent
    if old is not None and old_stake != new_stake:
        for above in old.path():
            above.subtree_stake += new_stake - old_stake


class ForkChoice:
    """The banks from `root` on. `rooted` are slots below it that are known to be its ancestors."""

    def __init__(self, root: FrozenBank, rooted: Iterable[int] = ()) -> None:
        self._root = _Node(root, None)
        self._versions: dict[int, list[_Node]] = {root.slot: [self._root]}  # by slot, in the order of arrival
        self._rooted = set(sorted(rooted)[-ROOTED_SLOTS_MAX:])
        self._latest: dict[bytes, tuple[int, bytes, int]] = {}  # vote account -> (newest slot, hash, stake counted there)
        self._gossip: dict[bytes, int] = {}  # vote account -> newest slot that a gossip vote named
        self._fold_votes(self._root)

    # ---- the banks

    @property
    def root(self) -> int:
        return self._root.bank.slot

    @property
    def newest(self) -> int:
        """The greatest slot in the tree, on whatever fork."""
        return max(self._versions)

    def __len__(self) -> int:
        return sum(len(versions) for versions in self._versions.values())

    def __contains__(self, slot: int) -> bool:
        return slot in self._versions

    def knows(self, slot: int) -> bool:
        """Whether `slot` is in the tree or remembered as an ancestor of its root."""
        return slot in self._versions or slot in self._rooted

    def note_rooted(self, slot: int) -> None:
        """Remember `slot` as an ancestor of the root, learnt from elsewhere (a slot history)."""
        if slot < self.root:
            self._rooted.add(slot)

    def _node(self, slot: int, bank_hash: bytes | None = None) -> _Node | None:
        """The version of `slot` with that hash; without one, the first that is not invalid, else the first."""
        versions = self._versions.get(slot, [])
        if bank_hash is not None:
            return next((node for node in versions if node.bank.bank_hash == bank_hash), None)
        return next((node for node in versions if node.invalid_ancestor is None), versions[0] if versions else None)

    def bank(self, slot: int) -> FrozenBank | None:
        node = self._node(slot)
        return None if node is None else node.bank

    def add(self, bank: FrozenBank) -> None:
        """Take in a frozen bank and the votes in it. Raises `InvalidInput`, and changes nothing, if it cannot be placed.

        The same bank again is no news. Another bank hash for a known slot is another version of it, under the parent
        that `parent_hash` names.
        """
        if self._node(bank.slot, bank.bank_hash) is not None:
            return
        parent = None if bank.parent_slot is None else self._node(bank.parent_slot, bank.parent_hash)
        if parent is None or bank.slot <= parent.bank.slot:
            raise InvalidInput(f"bank {bank.slot}: its parent {bank.parent_slot} is not in the tree")
        node = _Node(bank, parent)
        parent.children.append(node)
        self._versions.setdefault(bank.slot, []).append(node)
        self._fold_votes(node)
        # A vote for a bank that only now became known begins to count.
        for account, (slot, bank_hash, counted) in list(self._latest.items()):
            if slot == bank.slot and not counted and bank_hash in (b"", bank.bank_hash):
                self._move(account, node, slot, bank.stakes.get(account, 0))

    def _fold_votes(self, node: _Node) -> None:
        bank = node.bank
        for account, state in bank.votes.items():
            voted = state.last_voted_slot
            if voted is None:
                continue
            # A vote account holds slots; the hash is that of the version on this bank's own fork, if it is on it.
            named = next((above for above in node.path() if above.bank.slot <= voted), None)
            if named is None or named.bank.slot != voted:
                named = self._node(voted)
            slot, bank_hash, _ = self._latest.get(account, (-1, b"", 0))
            newer = voted > slot or (voted == slot and named is not None and named.bank.bank_hash < bank_hash)
            if newer:
                self._move(account, named, voted, bank.stakes.get(account, 0))

    def _move(self, account: bytes, node: _Node | None, slot: int, stake: int) -> None:
        old_slot, old_hash, old_stake = self._latest.get(account, (slot, b"", 0))
        counted = 0 if node is None else stake
        old_node = self._node(old_slot, old_hash) if old_stake else None
        _shift(old_node, old_stake, node, counted)
        self._latest[account] = (slot, b"" if node is None else node.bank.bank_hash, counted)

    # ---- votes that have not landed

    def note_gossip_vote(self, account: bytes, slot: int, bank_hash: bytes) -> None:
        """A vote that was seen and has not landed yet. Counts for switching and propagation, never for the weight of a fork.

        Only votes for a bank of this tree, with its hash, are taken; an older one than the account's newest changes nothing.
        """
        if self._node(slot, bank_hash) is not None and slot > self._gossip.get(account, -1):
            self._gossip[account] = slot

    def gossip_votes(self) -> list[tuple[bytes, int]]:
        """`(vote account, slot)` of the newest gossip votes."""
        return list(self._gossip.items())

    def voted_at_or_beyond(self, slot: int) -> set[bytes]:
        """The accounts whose newest vote, landed or by gossip, is for `slot` or a descendant of it."""
        newest = [(account, vote[0]) for account, vote in self._latest.items()] + self.gossip_votes()
        return {account for account, voted in newest if voted in self._versions and self.is_ancestor(slot, voted)}

    # ---- which fork

    def stake(self, slot: int) -> int:
        """The stake, in lamports, whose newest vote is for `slot` or a descendant of it."""
        node = self._node(slot)
        return 0 if node is None else node.subtree_stake

    def best(self) -> FrozenBank:
        """The tip of the heaviest fork."""
        return self._heaviest_below(self._root).bank

    def best_below(self, slot: int) -> FrozenBank | None:
        """The tip of the heaviest fork that holds `slot`; `None` if the slot is unknown.

        Where `slot` is invalid itself, its fork is no candidate at all: then the deepest bank on it.
        """
        node = self._node(slot)
        if node is None:
            return None
        if node.invalid_ancestor is None:
            return self._heaviest_below(node).bank
        height = {node.key: 0}
        deepest = node
        for other in node.below():
            height[other.key] = 0 if other is node or other.parent is None else height[other.parent.key] + 1
            if self._rank(other, height[other.key]) > self._rank(deepest, height[deepest.key]):
                deepest = other
        return deepest.bank

    @staticmethod
    def _rank(node: _Node, height: int) -> tuple[int, int, int, tuple[int, ...]]:
        return height, node.subtree_stake, -node.bank.slot, tuple(-byte for byte in node.bank.bank_hash)

    @staticmethod
    def _heaviest_below(node: _Node) -> _Node:
        while candidates := [child for child in node.children if child.invalid_ancestor is None]:
            # the heaviest; of equals the smaller (slot, hash)
            node = min(candidates, key=lambda child: (-child.subtree_stake, child.key))
        return node

    def leaves(self) -> Iterator[FrozenBank]:
        """The banks without children, smaller slots first."""
        for slot in sorted(self._versions):
            for node in self._versions[slot]:
                if not node.children:
                    yield node.bank

    def ancestors(self, slot: int) -> set[int]:
        """The known ancestors of `slot`, without itself; empty for an unknown slot."""
        node = self._node(slot)
        if node is None:
            return set()
        above = {other.bank.slot for other in node.path()}
        above.discard(slot)
        return above | self._rooted

    def is_ancestor(self, older: int, newer: int) -> bool:
        """Whether `older` is an ancestor of `newer` or the same slot; False where either is unknown."""
        node = self._node(newer)
        if node is None:
            return False
        return older in self._rooted or any(above.bank.slot == older for above in node.path())

    def common_ancestor(self, one: int, other: int) -> int | None:
        """The newest slot that both forks hold; `None` where either is unknown."""
        first, second = self._node(one), self._node(other)
        if first is None or second is None:
            return None
        mine = {node.key for node in first.path()}
        return next((node.bank.slot for node in second.path() if node.key in mine), None)

    def path(self, slot: int) -> Iterator[FrozenBank]:
        """The bank of `slot` and its ancestors in the tree, newest first; nothing for an unknown slot."""
        node = self._node(slot)
        return iter(()) if node is None else (above.bank for above in node.path())

    # ---- duplicate slots

    def mark_invalid(self, slot: int, bank_hash: bytes) -> None:
        """This version of `slot` is a duplicate: it and its descendants are no candidates until one is confirmed.

        Raises `InvalidInput` if that bank is unknown or was confirmed: then the caller's view of the cluster is wrong.
        """
        node = self._node(slot, bank_hash)
        if node is None:
            raise InvalidInput(f"slot {slot} with that hash is not in the tree")
        if node.confirmed:
            raise InvalidInput(f"slot {slot} was duplicate-confirmed and cannot be invalid")
        node.duplicate = True
        self._inherit(node)

    def mark_confirmed(self, slot: int, bank_hash: bytes) -> None:
        """The cluster has confirmed this version: it and its ancestors are valid, whatever was said of them.

        Raises `InvalidInput` if that bank is unknown.
        """
        node = self._node(slot, bank_hash)
        if node is None:
            raise InvalidInput(f"slot {slot} with that hash is not in the tree")
        for above in node.path():
            above.confirmed, above.duplicate = True, False
        self._inherit(self._root)

    @staticmethod
    def _inherit(top: _Node) -> None:
        for node in top.below():  # parents come before their children
            inherited = None if node.parent is None else node.parent.invalid_ancestor
            node.invalid_ancestor = node.bank.slot if node.duplicate else inherited

    def invalid_ancestor(self, slot: int, bank_hash: bytes | None = None) -> int | None:
        """The newest slot at or above that bank which is marked invalid; `None` if there is none, or the bank is unknown."""
        node = self._node(slot, bank_hash)
        return None if node is None else node.invalid_ancestor

    def holds(self, slot: int, bank_hash: bytes) -> bool:
        """Whether the version that `slot` stands for here is the one with that hash."""
        node = self._node(slot)
        return node is not None and node.bank.bank_hash == bank_hash

    # ---- the root

    def set_root(self, slot: int) -> None:
        """Make `slot` the root: forks that do not hold it are gone, its ancestors are remembered by slot."""
        if slot == self.root:
            return
        node = self._node(slot)
        if node is None:
            raise InvalidInput(f"slot {slot} cannot become the root: it is not in the tree")
        self._rooted.update(above.bank.slot for above in node.path())
        self._rooted.discard(slot)
        if len(self._rooted) > ROOTED_SLOTS_MAX:
            self._rooted = set(sorted(self._rooted)[-ROOTED_SLOTS_MAX:])
        node.parent = None
        self._root = node
        kept: dict[int, list[_Node]] = {}
        for below in sorted(node.below(), key=lambda other: self._versions[other.bank.slot].index(other)):
            kept.setdefault(below.bank.slot, []).append(below)
        self._versions = kept
        for account, (voted, bank_hash, stake) in list(self._latest.items()):
            if stake and self._node(voted, bank_hash) is None:
                self._latest[account] = (voted, bank_hash, 0)
        self._gossip = {account: voted for account, voted in self._gossip.items() if voted in kept}


# ------------------------------------------------------------------------------------------------------- tallies


def newest_under(bank: FrozenBank, slot: int) -> dict[int, int]:
    """`{slot: stake}`: the stake by the newest vote that each account would be left with under a vote for `slot`."""
    tally: dict[int, int] = {}
    for account, state in bank.votes.items():
        stake, newest = bank.stakes.get(account, 0), _vote_under(state, slot)
        if stake and newest is not None:
            tally[newest] = tally.get(newest, 0) + stake
    return tally


def _vote_under(state: VoteAccountState, slot: int) -> int | None:
    stack = list(state.lockouts)
    if stack and stack[-1].slot >= slot:
        return stack[-2].slot if len(stack) > 1 else None
    while stack and stack[-1].last_locked_out_slot < slot:
        stack.pop()
    return stack[-1].slot if stack else None


def locked_out(bank: FrozenBank, last_voted_slot: int, forks: ForkChoice) -> set[bytes]:
    """The accounts with a vote above the root, on another fork than that of our last vote, that still binds at it."""
    ours = forks.ancestors(last_voted_slot)
    return {
        account
        for account, state in bank.votes.items()
        if any(
            vote.last_locked_out_slot >= last_voted_slot and vote.slot > forks.root and vote.slot not in ours
            for vote in state.lockouts
        )
    }
