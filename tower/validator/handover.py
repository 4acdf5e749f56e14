"""What the two sides of a planned hand-over tell each other through the store: formats and rules, without I/O.

A spare that would take an identity leaves a *beacon* beside its keys, again and again. An owner that wants to hand over leaves an
*offer*, addressed to one beacon. Both are notes (`tower.store.NotingStore`): unfenced, for anybody to overwrite, and no promise
rests on them. An offer is an occasion to take over, as `set-identity` is one: the spare then looks, checks and claims as
always, and the owner learns of it by losing the fence.

Slots are the clock that both sides share: a beacon's age and an offer's end are counted in them, and never in seconds of
two machines.

>>> offer = Offer("0a", fence=7, by_slot=120, to="ff", sender="primary")
>>> decode_offer(offer.encode()) == offer
True
>>> refusal(offer, spare="ff", fence=7, tip=121)
'the offer ended with slot 120, it is slot 121'
"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "BEACON_SLOTS_MAX",
    "OFFER_NOTE",
    "Beacon",
    "Offer",
    "OfferState",
    "beacon_note",
    "decode_beacon",
    "decode_offer",
    "is_beacon",
    "refusal",
]

OFFER_NOTE = "handover"
BEACON_PREFIX = "spare-"
BEACON_SLOTS_MAX = 40  # 16 s of 400 ms slots: a spare that was not heard of for longer is taken for gone
TEXT_MAX = 400


class OfferState(enum.Enum):
    OFFERED = "offered"
    WITHDRAWN = "withdrawn"  # by the owner: the deadline passed
    REFUSED = "refused"  # by the spare, before it claimed anything
    TAKEN = "taken"  # by the spare: the identity is claimed


@dataclass(frozen=True, slots=True)
class Offer:
    """"Take this identity over by slot `by_slot`, from the owner whose claim has revision `fence`."

    The spare answers in it: `reason` of a refusal, or what it took.
    """

    id: str
    fence: int
    by_slot: int
    to: str  # the id of the beacon that is asked
    sender: str
    require_tower: bool = False
    state: OfferState = OfferState.OFFERED
    reason: str = ""
    taken_fence: int | None = None
    last_voted_slot: int | None = None  # of the tower that was taken
    votes_from_slot: int | None = None

    def encode(self) -> bytes:
        return json.dumps({**asdict(self), "state": self.state.value, "reason": self.reason[:TEXT_MAX]}).encode()


@dataclass(frozen=True, slots=True)
class Beacon:
    """A spare that would take the identity. `unfit` is why it could not now; empty if it could."""

    id: str  # random, of this run of the process
    who: str
    host: str
    pid: int
    identity: str  # its own, unstaked one
    slot: int  # its newest bank when this was written
    unfit: str = ""
    auto: str = "off"  # "off", "on" or "paused": whether it also takes over by itself

    def encode(self) -> bytes:
        return json.dumps({**asdict(self), "unfit": self.unfit[:TEXT_MAX]}).encode()


def beacon_note(who: str, host: str) -> str:
    """The name of a machine's beacon: the same for each run, so that they do not pile up."""
    return BEACON_PREFIX + hashlib.sha256(f"{who}\0{host}".encode()).hexdigest()[:16]


def is_beacon(name: str) -> bool:
    return name.startswith(BEACON_PREFIX)


def decode_offer(note: bytes | None) -> Offer | None:
    """The offer in a note; `None` for what is none."""
    found = _object(note)
    if found is None:
        return None
    try:
        offer = Offer(**{**found, "state": OfferState(found.get("state"))})
    except (TypeError, ValueError):
        return None
    texts, numbers = (offer.id, offer.to, offer.sender, offer.reason), (offer.fence, offer.by_slot)
    maybe = (offer.taken_fence, offer.last_voted_slot, offer.votes_from_slot)
    whole = _all(str, texts) and _all(int, numbers) and all(value is None or type(value) is int for value in maybe)
    return offer if whole and type(offer.require_tower) is bool else None


def decode_beacon(note: bytes | None) -> Beacon | None:
    """The beacon in a note; `None` for what is none."""
    found = _object(note)
    if found is None:
        return None
    try:
        beacon = Beacon(**found)
    except TypeError:
        return None
    texts = (beacon.id, beacon.who, beacon.host, beacon.identity, beacon.unfit, beacon.auto)
    return beacon if _all(str, texts) and _all(int, (beacon.pid, beacon.slot)) else None


def refusal(offer: Offer, *, spare: str, fence: int, tip: int) -> str:
    """Why the spare with the beacon `spare` must not act on an offer; empty if it may.

    `fence` is the revision of the newest claim, `tip` the spare's newest bank.
    """
    if offer.state is not OfferState.OFFERED:
        return f"the offer is {offer.state.value}"
    if offer.to != spare:
        return "the offer is for another spare"
    if offer.fence != fence:
        return f"the offer is by an owner with fence {offer.fence}, the owner now has {fence}"
    if tip > offer.by_slot:
        return f"the offer ended with slot {offer.by_slot}, it is slot {tip}"
    return ""


def _object(note: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(note or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _all(kind: type, values: tuple[object, ...]) -> bool:
    return all(type(value) is kind for value in values)
