"""The tree of banks, and what one side of the cluster sees of it.

`BankTree` holds every bank until it is pruned. A `View` is the part that one side has received: its fork choice, its
heaviest chain, what it calls confirmed and rooted, and which banks' hashes it can know.

A bank's hash is *named* once a child of it is seen: only then is the bank handed to voters, as over the RPC.

A fork weighs what was voted for it, whether those votes have landed or only arrived. Where leaders counted landed votes alone, a
fork that most have voted for could stay the lighter one for ever: nobody builds on it, so the votes land nowhere, and who
is bound to it may not switch. (On a real network every leader builds where its own votes bind it; here one view serves all.)

Rules: *rooted* is the highest slot that two thirds of the stake have as root in the heaviest bank's vote accounts;
*confirmed* the highest slot of the heaviest chain that more than two thirds of the stake have voted for or beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from tower.errors import InvariantViolation
from tower.forkchoice import ForkChoice
from tower.localnet.bank import Bank
from tower.types import FrozenBank, Lockout

__all__ = ["BANKS_BEHIND_ROOT", "UNROOTED_MAX", "Arrived", "BankTree", "View"]

BANKS_BEHIND_ROOT = 600  # more than SlotHashes can name, so every bank that a client may still ask about is there
Arrived = dict[bytes, int]  # vote account -> slot of its newest vote that arrived

UNROOTED_MAX = 2048  # slots between heaviest tip and root; beyond it the view roots by itself, to stay bounded


class BankTree:
    """Every bank that is still kept, by slot."""

    def __init__(self, first: Bank) -> None:
        self._banks: dict[int, Bank] = {first.slot: first}

    def __contains__(self, slot: int) -> bool:
        return slot in self._banks

    def __getitem__(self, slot: int) -> Bank:
        return self._banks[slot]

    def __len__(self) -> int:
        return len(self._banks)

    def get(self, slot: int) -> Bank | None:
        return self._banks.get(slot)

    def add(self, bank: Bank) -> None:
        if bank.slot in self._banks or bank.parent_slot not in self._banks:
            raise InvariantViolation(f"bank {bank.slot} does not fit into the tree")
        self._banks[bank.slot] = bank

    def upwards(self, slot: int) -> Iterator[Bank]:
        """The bank of `slot` and its ancestors, newest first, as far as they are kept."""
        bank = self._banks.get(slot)
        while bank is not None:
            yield bank
            bank = self._banks.get(bank.parent_slot) if bank.parent_slot is not None else None

    def prune(self, root: int) -> list[Bank]:
        """Drop forks that do not contain `root` and ancestors too far behind it; what was dropped comes back.

        Banks behind the root stay for their transactions only.
        """
        kept = set()
        for depth, bank in enumerate(self.upwards(root)):
            if depth > BANKS_BEHIND_ROOT:
                break
            kept.add(bank.slot)
            if depth and bank.accounts:
                bank.strip()
        for slot in sorted(self._banks):
            parent = self._banks[slot].parent_slot
            if slot > root and parent is not None and parent >= root and parent in kept:
                kept.add(slot)
        dropped = [bank for slot, bank in self._banks.items() if slot not in kept]
        for bank in dropped:
            del self._banks[bank.slot]
        return dropped


def highest_supported(slots: Iterable[tuple[int, int]], needed: int, *, strictly: bool) -> int | None:
    """The highest slot at or above which `(slot, stake)` pairs gather `needed` stake (more than it, if `strictly`).

    >>> highest_supported([(9, 10), (7, 10), (5, 10)], 20, strictly=False)
    7
    >>> highest_supported([(9, 10), (7, 10), (5, 10)], 20, strictly=True)
    5
    """
    gathered = 0
    for slot, stake in sorted(slots, reverse=True):
        gathered += stake
        if gathered > needed or (gathered == needed and not strictly):
            return slot
    return None


class View:
    """What one side has received. `receive` takes banks parents first."""

    def __init__(self, tree: BankTree, first: Bank, stakes: Mapping[bytes, int]) -> None:
        self._tree = tree
        self._stakes = stakes
        self._total = sum(stakes.values())
        self._choice = ForkChoice(first.for_voter())
        self._named: set[int] = set()
        self.slots: set[int] = {first.slot}
        self.best = first.slot
        self.root = first.slot
        self.confirmed = first.slot

    @property
    def tip(self) -> Bank:
        """The heaviest frozen bank: what `processed` means."""
        return self._tree[self.best]

    def receive(self, bank: Bank, arrived: Arrived | None = None) -> FrozenBank | None:
        """A frozen bank becomes known here. Returns its parent if that is named by it for the first time.

        `arrived` are the newest votes that this side has seen.
        """
        self.slots.add(bank.slot)
        # A bank on a fork that was given up is known, but never the heaviest.
        if bank.parent_slot is not None and bank.parent_slot in self._choice:
            self._choice.add(self._weighed(bank.for_voter(), arrived or {}))
        self.best = self._choice.best().slot
        self._advance()
        parent = bank.parent_slot
        if parent is None or parent in self._named or parent not in self._tree:
            return None
        self._named.add(parent)
        return self._tree[parent].for_voter()

    def _weighed(self, bank: FrozenBank, arrived: Arrived) -> FrozenBank:
        """The bank with votes that arrived in place of the older ones that landed."""
        votes = dict(bank.votes)
        for account, slot in arrived.items():
            own = votes.get(account)
            if own is not None and slot in self._tree and slot > (own.last_voted_slot or 0):
                votes[account] = replace(own, lockouts=(Lockout(slot, 1),))
        return replace(bank, votes=votes)

    def chain(self, slot: int | None = None) -> list[int]:
        """Slots of the fork of `slot` (the heaviest by default), oldest first, as far as banks are kept."""
        return [bank.slot for bank in self._tree.upwards(self.best if slot is None else slot)][::-1]

    def on_chain(self, slot: int) -> bool:
        """Is `slot` on the heaviest chain?"""
        for bank in self._tree.upwards(self.best):
            if bank.slot <= slot:
                return bank.slot == slot
        return False

    def _advance(self) -> None:
        votes = self.tip.votes
        staked = [(votes[account], stake) for account, stake in self._stakes.items() if account in votes]
        voted = [(state.last_voted_slot, stake) for state, stake in staked]
        supported = highest_supported(
            [(slot, stake) for slot, stake in voted if slot is not None], 2 * self._total // 3, strictly=True
        )
        if supported is not None and supported > self.confirmed:
            self.confirmed = self._at_or_below(supported, self.confirmed)
        roots = [(state.root, stake) for state, stake in staked if state.root is not None]
        root = highest_supported(roots, -(-2 * self._total // 3), strictly=False)
        if root is None or root <= self.root:
            root = self._forced_root()
        if root is not None and root > self.root and self.on_chain(root):
            self.root = root
            self.confirmed = max(self.confirmed, root)
            self._choice.set_root(root)

    def _at_or_below(self, slot: int, default: int) -> int:
        for bank in self._tree.upwards(self.best):
            if bank.slot <= slot:
                return max(bank.slot, default)
        return default

    def _forced_root(self) -> int | None:
        """Without voters nothing would ever be rooted, and nothing ever forgotten."""
        if self.best - self.root <= UNROOTED_MAX:
            return None
        return self._at_or_below(self.best - UNROOTED_MAX // 2, self.root)

    def forget(self, slots: Iterable[int]) -> None:
        """Banks that were pruned from the tree."""
        gone = set(slots)
        self.slots -= gone
        self._named -= gone
