"""Notes beside an identity's keys: what every adapter keeps of them, and that they touch nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.etcd import open_store
from tower.errors import InvalidInput
from tower.store import Claimed, Committed, NotingStore, Owner
from tower.stores._notes import NOTE_BYTES_MAX
from tower.stores.file import FileStore
from tower.stores.memory import MemoryBackend, MemoryStore

T = 10.0
Open = Callable[[], NotingStore]


@pytest.fixture(params=["memory", "file", "etcd"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens further clients of one and the same store."""
    opened: list[NotingStore] = []
    backend = MemoryBackend()
    server = request.getfixturevalue("etcd_server") if request.param == "etcd" else None

    def open_one() -> NotingStore:
        if server is not None:
            opened.append(open_store(server))
        else:
            opened.append(MemoryStore(backend) if request.param == "memory" else FileStore(tmp_path / "towers"))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def test_a_note_is_replaced_whole_and_read_by_everybody(opener: Open, identity: str) -> None:
    mine, yours = opener(), opener()
    assert yours.notes(identity, T) == {}
    mine.put_note(identity, "handover", b"offered, and quite long", T)
    mine.put_note(identity, "spare-0a", b"here", T)
    assert yours.notes(identity, T) == {"handover": b"offered, and quite long", "spare-0a": b"here"}
    yours.put_note(identity, "handover", b"taken", T)
    yours.put_note(identity, "spare-0a", b"", T)
    assert mine.notes(identity, T) == {"handover": b"taken", "spare-0a": b""}


def test_notes_of_one_identity_are_not_those_of_another(opener: Open, identity: str) -> None:
    store, other = opener(), identity[:-1]
    store.put_note(identity, "handover", b"one", T)
    store.put_note(other, "handover", b"other", T)
    assert store.notes(identity, T) == {"handover": b"one"}
    assert store.notes(other, T) == {"handover": b"other"}


def test_notes_touch_neither_fence_nor_record_nor_history(opener: Open, identity: str) -> None:
    store = opener()
    claimed = store.claim(store.look(identity, T), Owner("a", "start"), T)
    assert isinstance(claimed, Claimed)
    before, history = store.look(identity, T), store.history(identity, T)
    store.put_note(identity, "handover", b"x", T)
    assert (store.look(identity, T), store.history(identity, T)) == (before, history)
    outcome = store.begin_store(claimed.fence, claimed.record_revision, b"tower", T).outcome(T)
    assert isinstance(outcome, Committed)
    assert store.notes(identity, T) == {"handover": b"x"}


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "x" * 65, "a b", "ä"])
def test_a_name_that_could_reach_elsewhere_is_refused(opener: Open, identity: str, name: str) -> None:
    with pytest.raises(InvalidInput, match="no name of a note"):
        opener().put_note(identity, name, b"", T)
    with pytest.raises(InvalidInput, match="not an identity"):
        opener().put_note("a/b", "handover", b"", T)


def test_a_note_has_a_bound(opener: Open, identity: str) -> None:
    store = opener()
    store.put_note(identity, "long", bytes(NOTE_BYTES_MAX), T)
    with pytest.raises(InvalidInput, match="at most"):
        store.put_note(identity, "long", bytes(NOTE_BYTES_MAX + 1), T)
    assert store.notes(identity, T) == {"long": bytes(NOTE_BYTES_MAX)}


def test_writers_at_once_leave_one_whole_note(opener: Open, identity: str) -> None:
    texts = [bytes([65 + n]) * 3000 for n in range(4)]

    def write(store: NotingStore, text: bytes) -> None:
        for _ in range(5):
            store.put_note(identity, "n", text, T)

    threads = [threading.Thread(target=write, args=(opener(), text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(T)
    assert opener().notes(identity, T)["n"] in texts
