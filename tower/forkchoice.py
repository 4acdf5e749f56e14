"""The tree of frozen banks, and which fork is the heaviest.

Each voter's stake weighs on the newest slot that it is known to have voted for (in any frozen bank), and so on every
ancestor of it. From the root, the heaviest child is followed down; equal weights go to the smaller slot. Nothing here knows
our own tower: whether we *may* vote for the heaviest bank is asked in `tower.checks`.

The tree begins at a root. Slots below it that are known to be its ancestors are remembered (a bounded number), so that
old votes of a tower can still be placed. A bank needs its parent in the tree; a second bank for a slot is refused.

>>> from tower.types import FrozenBank, Lockout, VoteAccountState
>>> voted = {b"v": VoteAccountState(b"n", lockouts=(Lockout(2, 1),))}
>>> forks = ForkChoice(FrozenBank(1, None, b"1" * 32))
>>> forks.add(FrozenBank(2, 1, b"2" * 32))
>>> forks.add(FrozenBank(3, 1, b"3" * 32, votes=voted, stakes={b"v": 10}))
>>> forks.best().slot
2
>>> forks.is_ancestor(1, 3), forks.is_ancestor(2, 3)
(True, False)

Source: heaviest_subtree_fork_choice.rs and latest_validator_votes_for_frozen_banks.rs of the clients on the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tower.errors import InvalidInput
from tower.types import FrozenBank

__all__ = ["ROOTED_SLOTS_MAX", "ForkChoice"]

ROOTED_SLOTS_MAX = 4096  # slots below the root that are remembered as its ancestors


class _Node:
    __slots__ = ("bank", "children", "parent", "subtree_stake")

    def __init__(self, bank: FrozenBank, parent: _Node | None) -> None:
        self.bank = bank
        self.parent = parent
        self.children: list[_Node] = []
        self.subtree_stake = 0

    def path(self) -> Iterator[_Node]:
        """This node and its ancestors, up to the root of the tree."""
        node: _Node | None = self
        while node is not None:
            yield node
            node = node.parent


class ForkChoice:
    """The banks from `root` on. `rooted` are slots below it that are known to be its ancestors."""

    def __init__(self, root: FrozenBank, rooted: Iterable[int] = ()) -> None:
        self._root = _Node(root, None)
        self._nodes = {root.slot: self._root}
        self._rooted = set(sorted(rooted)[-ROOTED_SLOTS_MAX:])
        self._latest: dict[bytes, tuple[int, int]] = {}  # vote account -> (newest voted slot, stake counted there)
        self._gossip: dict[bytes, int] = {}  # vote account -> newest slot that a gossip vote named
        self._fold_votes(root)

    @property
    def root(self) -> int:
        return self._root.bank.slot

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, slot: int) -> bool:
        return slot in self._nodes

    def knows(self, slot: int) -> bool:
        """Whether `slot` is in the tree or remembered as an ancestor of its root."""
        return slot in self._nodes or slot in self._rooted

    def note_rooted(self, slot: int) -> None:
        """Remember `slot` as an ancestor of the root, learnt from elsewhere (a slot history)."""
        if slot < self.root:
            self._rooted.add(slot)

    def bank(self, slot: int) -> FrozenBank | None:
        node = self._nodes.get(slot)
        return None if node is None else node.bank

    def add(self, bank: FrozenBank) -> None:
        """Take in a frozen bank and the votes in it. Raises `InvalidInput`, and changes nothing, if it cannot be placed."""
        known = self._nodes.get(bank.slot)
        if known is not None:
            if known.bank.bank_hash == bank.bank_hash:
                return
            raise InvalidInput(f"slot {bank.slot} is known with another bank hash: a duplicate block")
        parent = None if bank.parent_slot is None else self._nodes.get(bank.parent_slot)
        if parent is None or bank.slot <= parent.bank.slot:
            raise InvalidInput(f"bank {bank.slot}: its parent {bank.parent_slot} is not in the tree")
        node = _Node(bank, parent)
        parent.children.append(node)
        self._nodes[bank.slot] = node
        self._fold_votes(bank)
        # A vote for a slot that only now became known begins to count.
        for account, (slot, _) in list(self._latest.items()):
            if slot == bank.slot:
                self._move(account, slot, bank.stakes.get(account, 0))

    def _fold_votes(self, bank: FrozenBank) -> None:
        for account, state in bank.votes.items():
            voted = state.last_voted_slot
            if voted is not None and (account not in self._latest or voted > self._latest[account][0]):
                self._move(account, voted, bank.stakes.get(account, 0))

    def _move(self, account: bytes, slot: int, stake: int) -> None:
        old_slot, old_stake = self._latest.get(account, (slot, 0))
        self._weigh(old_slot, -old_stake)
        counted = stake if slot in self._nodes else 0
        self._weigh(slot, counted)
        self._latest[account] = (slot, counted)

    def _weigh(self, slot: int, stake: int) -> None:
        node = self._nodes.get(slot)
        if node is not None and stake:
            for above in node.path():
                above.subtree_stake += stake

    def note_gossip_vote(self, account: bytes, slot: int, bank_hash: bytes) -> None:
        """A vote that was seen and has not landed yet. Counts for switching and propagation, never for the weight of a fork.

        Only votes for a bank of this tree, with its hash, are taken; an older one than the account's newest changes nothing.
        """
        node = self._nodes.get(slot)
        if node is not None and node.bank.bank_hash == bank_hash and slot > self._gossip.get(account, -1):
            self._gossip[account] = slot

    def gossip_votes(self) -> list[tuple[bytes, int]]:
        """`(vote account, slot)` of the newest gossip votes."""
        return list(self._gossip.items())

    def voted_at_or_beyond(self, slot: int) -> set[bytes]:
        """The accounts whose newest vote, landed or by gossip, is for `slot` or a descendant of it."""
        newest = [(account, voted) for account, (voted, _) in self._latest.items()] + self.gossip_votes()
        return {account for account, voted in newest if voted in self._nodes and self.is_ancestor(slot, voted)}

    def path(self, slot: int) -> Iterator[FrozenBank]:
        """The bank of `slot` and its ancestors in the tree, newest first; nothing for an unknown slot."""
        node = self._nodes.get(slot)
        return iter(()) if node is None else (above.bank for above in node.path())

    def stake(self, slot: int) -> int:
        """The stake, in lamports, whose newest vote is for `slot` or a descendant of it."""
        node = self._nodes.get(slot)
        return 0 if node is None else node.subtree_stake

    def best(self) -> FrozenBank:
        """The tip of the heaviest fork."""
        return self._heaviest_below(self._root).bank

    def best_below(self, slot: int) -> FrozenBank | None:
        """The tip of the heaviest fork that holds `slot`; `None` if the slot is unknown."""
        node = self._nodes.get(slot)
        return None if node is None else self._heaviest_below(node).bank

    @staticmethod
    def _heaviest_below(node: _Node) -> _Node:
        while node.children:
            node = max(node.children, key=lambda child: (child.subtree_stake, -child.bank.slot))
        return node

    def leaves(self) -> Iterator[FrozenBank]:
        """The banks without children, smaller slots first."""
        for slot in sorted(self._nodes):
            if not self._nodes[slot].children:
                yield self._nodes[slot].bank

    def ancestors(self, slot: int) -> set[int]:
        """The known ancestors of `slot`, without itself; empty for an unknown slot."""
        node = self._nodes.get(slot)
        if node is None:
            return set()
        above = {other.bank.slot for other in node.path()}
        above.discard(slot)
        return above | self._rooted

    def is_ancestor(self, older: int, newer: int) -> bool:
        """Whether `older` is an ancestor of `newer` or the same slot; False where either is unknown."""
        node = self._nodes.get(newer)
        if node is None:
            return False
        return older in self._rooted or any(above.bank.slot == older for above in node.path())

    def common_ancestor(self, one: int, other: int) -> int | None:
        """The newest slot that both forks hold; `None` where either is unknown."""
        first, second = self._nodes.get(one), self._nodes.get(other)
        if first is None or second is None:
            return None
        mine = {node.bank.slot for node in first.path()}
        return next(node.bank.slot for node in second.path() if node.bank.slot in mine)

    def set_root(self, slot: int) -> None:
        """Make `slot` the root: forks that do not hold it are gone, its ancestors are remembered by slot."""
        if slot == self.root:
            return
        node = self._nodes.get(slot)
        if node is None:
            raise InvalidInput(f"slot {slot} cannot become the root: it is not in the tree")
        self._rooted.update(above.bank.slot for above in node.path())
        self._rooted.discard(slot)
        if len(self._rooted) > ROOTED_SLOTS_MAX:
            self._rooted = set(sorted(self._rooted)[-ROOTED_SLOTS_MAX:])
        node.parent = None
        self._root = node
        kept, frontier = {}, [node]
        while frontier:
            next_node = frontier.pop()
            kept[next_node.bank.slot] = next_node
            frontier.extend(next_node.children)
        self._nodes = kept
        for account, (voted, stake) in list(self._latest.items()):
            if stake and voted not in kept:
                self._latest[account] = (voted, 0)
        self._gossip = {account: voted for account, voted in self._gossip.items() if voted in kept}
