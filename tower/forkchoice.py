"""The tree of frozen banks, and which fork is the heaviest.

Each voter's stake weighs on the newest slot that it is known to have voted for (in any frozen bank), and so on every
ancestor of it. From the root, the heaviest child is followed down; equal weights go to the smaller slot, then to the
smaller bank hash. Nothing here knows our own tower: whether we *may* vote for the heaviest bank is asked in `tower.checks`.

The tree begins at a root. Slots below it that are known to be its ancestors are remembered (a bounded number), so that
old votes of a tower can still be placed. A bank needs its parent in the tree.

>>> from tower.types import FrozenBank, Lockout, VoteAccountState
>>> voted = {b"v": VoteAccountState(b"n", lockouts=(Lockout(2, 1),))}
>>> forks = ForkChoice(FrozenBank(1, None, b"1" * 32))
>>> forks.add(FrozenBank(2, 1, b"2" * 32))
>>> forks.add(FrozenBank(3, 1, b"3" * 32, votes=voted, stakes={b"v": 10}))
>>> forks.best().slot
2
>>> forks.is_ancestor(1, 3), forks.is_ancestor(2, 3)
(True, False)

**Duplicates.** A leader that produces two blocks for one slot makes two banks with different hashes; both are kept. A slot is
one version at a time for every question that names a slot only: the first that is not marked invalid. `mark_invalid` takes a
bank and all its descendants out of the candidates for the best fork (their weight above stays counted);
`mark_confirmed`, for a bank that the cluster has duplicate-confirmed, takes that back for it, its ancestors, and what
was invalid only because of them.

The loops over voters and up the tree are compiled, in `tower._tree`; `tower._reference_tree` is all of this in plain Python.

Source: heaviest_subtree_fork_choice.rs and latest_validator_votes_for_frozen_banks.rs of the clients on the cluster.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator

from tower._tree import Ancestry, BankVotes, LatestVotes, LockedOut, Node
from tower.errors import InvalidInput
from tower.types import FrozenBank

__all__ = ["ROOTED_SLOTS_MAX", "ForkChoice"]

ROOTED_SLOTS_MAX = 4096  # slots below the root that are remembered as its ancestors


class ForkChoice:
    """The banks from `root` on. `rooted` are slots below it that are known to be its ancestors."""

    def __init__(self, root: FrozenBank, rooted: Iterable[int] = ()) -> None:
        self._root = Node(root, None, BankVotes.of(root.votes, root.stakes))
        self._versions: dict[int, list[Node]] = {root.slot: [self._root]}  # by slot, in the order of arrival
        self._newest = root.slot
        self._rooted_in_order = sorted(set(rooted))[-ROOTED_SLOTS_MAX:]
        self._rooted = set(self._rooted_in_order)
        self._latest = LatestVotes(self._node)
        self._gossip: dict[bytes, int] = {}  # vote account -> newest slot that a gossip vote named
        self._latest.fold(self._root)

    # ---- the banks

    @property
    def root(self) -> int:
        return self._root.bank.slot

    @property
    def newest(self) -> int:
        """The greatest slot in the tree, on whatever fork."""
        return self._newest

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
            self._remember(slot)

    def _remember(self, slot: int) -> None:
        if slot not in self._rooted:
            self._rooted.add(slot)
            insort(self._rooted_in_order, slot)
            if len(self._rooted_in_order) > ROOTED_SLOTS_MAX:
                self._rooted.discard(self._rooted_in_order.pop(0))

    def _node(self, slot: int, bank_hash: bytes | None = None) -> Node | None:
        """The version of `slot` with that hash; without one, the first that is not invalid, else the first."""
        versions = self._versions.get(slot)
        if versions is None:
            return None
        if bank_hash is not None:
            return next((node for node in versions if node.bank.bank_hash == bank_hash), None)
        if len(versions) == 1:
            return versions[0]
        return next((node for node in versions if node.invalid_ancestor is None), versions[0])

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
        node = Node(bank, parent, BankVotes.of(bank.votes, bank.stakes, like=parent.votes))
        self._versions.setdefault(bank.slot, []).append(node)
        self._newest = max(self._newest, bank.slot)
        self._latest.fold(node)

    def votes_in(self, bank: FrozenBank) -> BankVotes:
        """The votes of a bank in columns; of one that is not in the tree they are made here."""
        node = self._node(bank.slot, bank.bank_hash)
        return BankVotes.of(bank.votes, bank.stakes) if node is None or node.bank is not bank else node.votes

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
        newest = self._latest.slots() + self.gossip_votes()
        beyond = {voted: voted in self._versions and self.is_ancestor(slot, voted) for voted in {vote[1] for vote in newest}}
        return {account for account, voted in newest if beyond[voted]}

    # ---- which fork

    def stake(self, slot: int) -> int:
        """The stake, in lamports, whose newest vote is for `slot` or a descendant of it."""
        node = self._node(slot)
        return 0 if node is None else node.subtree_stake

    def best(self) -> FrozenBank:
        """The tip of the heaviest fork."""
        return self._root.heaviest_below().bank

    def best_below(self, slot: int) -> FrozenBank | None:
        """The tip of the heaviest fork that holds `slot`; `None` if the slot is unknown.

        Where `slot` is invalid itself, its fork is no candidate at all: then the deepest bank on it.
        """
        node = self._node(slot)
        if node is None:
            return None
        if node.invalid_ancestor is None:
            return node.heaviest_below().bank
        height = {node.key: 0}
        deepest = node
        for other in node.below():
            height[other.key] = 0 if other is node or other.parent is None else height[other.parent.key] + 1
            if self._rank(other, height[other.key]) > self._rank(deepest, height[deepest.key]):
                deepest = other
        return deepest.bank

    @staticmethod
    def _rank(node: Node, height: int) -> tuple[int, int, int, tuple[int, ...]]:
        return height, node.subtree_stake, -node.bank.slot, tuple(-byte for byte in node.bank.bank_hash)

    def leaves(self) -> Iterator[FrozenBank]:
        """The banks without children, smaller slots first."""
        for slot in sorted(self._versions):
            for node in self._versions[slot]:
                if not node.children:
                    yield node.bank

    def ancestors(self, slot: int) -> Ancestry:
        """The known ancestors of `slot`, without itself; empty for an unknown slot. To ask `in` costs their distance."""
        return Ancestry(self._node(slot), self._rooted)

    def is_ancestor(self, older: int, newer: int) -> bool:
        """Whether `older` is an ancestor of `newer` or the same slot; False where either is unknown."""
        node = self._node(newer)
        return node is not None and (node.descends_from(older) or older in self._rooted)

    def common_ancestor(self, one: int, other: int) -> int | None:
        """The newest slot that both forks hold; `None` where either is unknown."""
        first, second = self._node(one), self._node(other)
        if first is None or second is None:
            return None
        common = first.meets(second)
        return None if common is None else common.slot

    def add_locked_out(self, leaf: FrozenBank, last_voted_slot: int, counted: LockedOut) -> None:
        """Add to `counted` the accounts of `leaf` with a vote off the fork of our last vote that still binds at it."""
        self.votes_in(leaf).locked_out(last_voted_slot, self.root, self._node(last_voted_slot), counted)

    def path(self, slot: int) -> Iterator[FrozenBank]:
        """The bank of `slot` and its ancestors in the tree, newest first; nothing for an unknown slot."""
        node = self._node(slot)
        return iter(()) if node is None else (above.bank for above in node.path())

    def led_by(self, leader: bytes, slot: int) -> FrozenBank | None:
        """The newest bank on the fork of `slot`, itself included, that `leader` produced; `None` if none is known."""
        node = self._node(slot)
        return None if node is None else node.led_by(leader)

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
    def _inherit(top: Node) -> None:
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
        self._rooted_by(node)
        lost = node.become_root()
        self._root = node
        for gone in lost:
            versions = self._versions[gone.slot]
            versions.remove(gone)
            if not versions:
                del self._versions[gone.slot]
        if self._newest not in self._versions:
            self._newest = max(self._versions)
        self._latest.forget(lost, slot)
        self._gossip = {account: voted for account, voted in self._gossip.items() if voted in self._versions}

    def _rooted_by(self, node: Node) -> None:
        for above in reversed(node.path()[1:]):
            self._remember(above.slot)
