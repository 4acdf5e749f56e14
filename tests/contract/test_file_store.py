"""What only the file store does: its files, other processes, and a disk that fails."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.etcd import wait_until
from tower.errors import InvalidInput, StoreError, StoreUnavailable
from tower.store import Claimed, Committed, Owner, Refusal, Refused, Unknown
from tower.stores import _folder
from tower.stores.file import FileStore, content_revision

T = 10.0
OWNER = Owner("primary", "start", at_ms=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    store = FileStore(tmp_path / "towers")
    yield store
    store.close()


def claim(store: FileStore, identity: str) -> Claimed:
    claimed = store.claim(store.look(identity, T), OWNER, T)
    assert isinstance(claimed, Claimed)
    return claimed


def test_the_file_is_the_record_and_a_copy_put_in_by_hand_is_a_new_revision(store: FileStore, identity: str) -> None:
    mine = claim(store, identity)
    path = store.directory / f"tower-1_9-{identity}.bin"
    one = store.begin_store(mine.fence, 0, b"tower 1", T).outcome(T)
    assert isinstance(one, Committed)
    assert path.read_bytes() == b"tower 1"

    path.write_bytes(b"imported")
    seen = content_revision(b"imported")
    assert store.begin_store(mine.fence, one.record_revision, b"tower 2", T).outcome(T) == Refused(
        Refusal.CONFLICT, one.record_revision, seen
    )
    assert isinstance(store.begin_store(mine.fence, seen, b"tower 2", T).outcome(T), Committed)


def test_the_old_name_is_read_and_never_written(store: FileStore, identity: str) -> None:
    old = store.directory / f"tower-{identity}.bin"
    old.write_bytes(b"from 1.8")
    mine = claim(store, identity)
    assert mine.record == b"from 1.8"
    assert isinstance(store.begin_store(mine.fence, mine.record_revision, b"new", T).outcome(T), Committed)
    assert (old.read_bytes(), store.look(identity, T).record) == (b"from 1.8", b"new")


OTHER_PROCESS = """
import sys
from tower.store import Committed, Owner, Refused
from tower.stores.file import FileStore
store = FileStore(sys.argv[1])
mine = store.claim(store.look(sys.argv[2], 10), Owner("other", "start"), 10)
print(mine.record.decode(), flush=True)
revision, count = mine.record_revision, int(mine.record)
while True:
    outcome = store.begin_store(mine.fence, revision, b"%d" % (count + 1), 10).outcome(10)
    if isinstance(outcome, Refused):
        print(outcome.reason.name, count, flush=True)
        break
    assert isinstance(outcome, Committed), outcome
    revision, count = outcome.record_revision, count + 1
store.close()
"""


def test_two_processes_fence_each_other(store: FileStore, identity: str) -> None:
    mine = claim(store, identity)
    one = store.begin_store(mine.fence, 0, b"1", T).outcome(T)
    assert isinstance(one, Committed)
    lost: list[int] = []
    store.watch(mine.fence, lost.append)
    command = [sys.executable, "-c", OTHER_PROCESS, str(store.directory), identity]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "1\n"
            assert wait_until(lambda: lost, "the watch sees the other process") == [mine.fence.revision + 1]
            outcome = store.begin_store(mine.fence, one.record_revision, b"x", T).outcome(T)
            assert isinstance(outcome, Refused)
            assert outcome.reason is Refusal.FENCED
            wait_until(lambda: int(store.look(identity, T).record or 0) > 20, "the other process stores")
            back = claim(store, identity)
            assert other.stdout.readline() == f"FENCED {int(back.record or 0)}\n"
            assert other.wait(T) == 0
        finally:
            other.kill()
    assert store.look(identity, T).record == back.record


def test_a_lock_that_is_held_ends_in_time(store: FileStore, identity: str) -> None:
    mine = claim(store, identity)
    sighting = store.look(identity, T)
    with open(store.directory / f"lock-{identity}", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match=f"lock-{identity}"):
            store.look(identity, 0.05)
        assert isinstance(store.claim(sighting, OWNER, 0.05), Unknown)
        outcome = store.begin_store(mine.fence, 0, b"tower", 0.05).outcome(T)
        assert isinstance(outcome, Unknown)
        assert "lock" in outcome.cause
    assert store.look(identity, T) == sighting
    assert isinstance(store.begin_store(mine.fence, 0, b"tower", T).outcome(T), Committed)


def test_a_disk_that_hangs_is_unknown_in_time_and_the_repetition_settles_it(
    store: FileStore, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = claim(store, identity)
    goes_on = threading.Event()
    fsync = os.fsync

    def hang(handle: int) -> None:
        goes_on.wait(T)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", hang)
    try:
        pending = store.begin_store(mine.fence, 0, b"tower", T)
        assert isinstance(pending.outcome(0.05), Unknown)
        with pytest.raises(StoreUnavailable):
            store.look(identity, 0.05)
    finally:
        goes_on.set()
    repeated = store.begin_store(mine.fence, 0, b"tower", T).outcome(T)
    assert isinstance(repeated, Committed)
    assert pending.outcome(T) == repeated


def test_s2_an_error_after_the_rename_is_unknown_and_committed_only_once_flushed(
    store: FileStore, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is visible then, but a power cut could still take it away: the repetition must flush it again."""
    mine = claim(store, identity)
    flushed: list[Path] = []
    broken = True
    flush = _folder._flush

    def fail(path: Path) -> None:
        if broken:
            raise OSError(errno.EIO, "Input/output error", str(path))
        flush(path)
        flushed.append(path)

    monkeypatch.setattr(_folder, "_flush", fail)
    for _ in range(2):
        outcome = store.begin_store(mine.fence, 0, b"tower", T).outcome(T)
        assert isinstance(outcome, Unknown)
        assert outcome.cause.endswith("Input/output error")
        assert store.look(identity, T).record == b"tower"
    broken = False
    assert isinstance(store.begin_store(mine.fence, 0, b"tower", T).outcome(T), Committed)
    assert flushed == [store.directory / f"tower-1_9-{identity}.bin", store.directory]


def test_a_full_disk_is_unknown_and_leaves_the_record(store: FileStore, identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = claim(store, identity)
    one = store.begin_store(mine.fence, 0, b"tower 1", T).outcome(T)
    assert isinstance(one, Committed)

    def full(handle: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        outcome = store.begin_store(mine.fence, one.record_revision, b"tower 2", T).outcome(T)
        assert isinstance(outcome, Unknown)
        assert "No space left on device" in outcome.cause
        assert f"tower-1_9-{identity}.bin.new" in outcome.cause
        assert isinstance(store.claim(store.look(identity, T), OWNER, T), Unknown)
    assert store.look(identity, T).instance_revision == mine.fence.revision  # the claim that failed took nothing
    assert isinstance(store.begin_store(mine.fence, one.record_revision, b"tower 2", T).outcome(T), Committed)


def test_a_folder_that_vanished_is_unknown_for_a_write_and_an_error_for_a_look(store: FileStore, identity: str) -> None:
    mine = claim(store, identity)
    store.directory.rename(store.directory.with_name("gone"))
    outcome = store.begin_store(mine.fence, 0, b"tower", T).outcome(T)
    assert isinstance(outcome, Unknown)
    assert str(store.directory) in outcome.cause
    with pytest.raises(StoreError, match="No such file or directory"):
        store.look(identity, T)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"revision": 0, "instance": "00"}', '{"revision": 3}'])
def test_a_torn_fence_file_is_named(store: FileStore, identity: str, text: str) -> None:
    mine = claim(store, identity)
    path = store.directory / f"fence-{identity}.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=f"fence-{identity}.json: torn"):
        store.look(identity, T)
    outcome = store.begin_store(mine.fence, 0, b"tower", T).outcome(T)
    assert isinstance(outcome, Unknown)
    assert path.name in outcome.cause


def test_history_leaves_out_claims_that_a_crash_cut_short(store: FileStore, identity: str) -> None:
    first = claim(store, identity)
    path = store.directory / f"history-{identity}.jsonl"
    entry = json.loads(path.read_text())
    # A claim whose fence never came, and one whose line was cut: the next claim takes the revision of the first.
    with path.open("a") as file:
        file.write(json.dumps({**entry, "revision": first.fence.revision + 1, "who": "crashed"}) + "\n")
        file.write('{"revision": 9, "wh')
    assert [owner.who for owner in store.history(identity, T)] == ["primary"]
    second = store.claim(store.look(identity, T), Owner("secondary", "set-identity", at_ms=2), T)
    assert isinstance(second, Claimed)
    assert [owner.who for owner in store.history(identity, T)] == ["primary", "secondary"]
    path.write_text("nonsense\n")
    with pytest.raises(StoreError, match=r"jsonl: line 1"):
        store.history(identity, T)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in ((tmp_path / "no" / "where", "parent folder"), (tmp_path / "file", "not a folder")):
        with pytest.raises(InvalidInput, match=why) as problem:
            FileStore(path)
        assert str(path) in str(problem.value)
    FileStore(tmp_path / "made").close()
    assert (tmp_path / "made").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    with pytest.raises(InvalidInput, match="not writable"):
        FileStore(folder)
