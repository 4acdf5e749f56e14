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
from tower.store import Claimed, Committed, Kind, Owner, Refusal, Refused, Unknown
from tower.stores import _folder
from tower.stores._common import Deadline
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


def test_a_tower_never_waits_for_a_reservation_and_a_claim_waits_for_both(store: FileStore, identity: str) -> None:
    """S3 and S7: each kind has a lock of its own, and a claim comes between no comparison and its put."""
    mine = claim(store, identity)
    sighting = store.look(identity, T)
    locks = {Kind.TOWER: f"lock-{identity}", Kind.BLOCKS: f"lock-blocks-{identity}"}
    for kind, other in ((Kind.TOWER, Kind.BLOCKS), (Kind.BLOCKS, Kind.TOWER)):
        with open(store.directory / locks[other], "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert isinstance(store.begin_store(mine.fence, 0, b"record", T, kind).outcome(T), Committed)
            for outcome in (store.begin_store(mine.fence, 0, b"x", 0.05, other).outcome(T), store.claim(sighting, OWNER, 0.05)):
                assert isinstance(outcome, Unknown)
                assert locks[other] in outcome.cause
    assert store.look(identity, T).instance_revision == mine.fence.revision
    assert isinstance(store.claim(sighting, OWNER, T), Claimed)


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_a_write_that_dies_before_its_rename_leaves_the_record_before_it(
    store: FileStore, identity: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = claim(store, identity)
    path = store.directory / {Kind.TOWER: f"tower-1_9-{identity}.bin", Kind.BLOCKS: f"blocks-{identity}.bin"}[kind]
    one = store.begin_store(mine.fence, 0, b"record 1", T, kind).outcome(T)
    assert isinstance(one, Committed)
    rename = os.rename
    flushed: list[str] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def fail(old: Path, new: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(new))

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", fail)
    assert isinstance(store.begin_store(mine.fence, one.record_revision, b"record 2", T, kind).outcome(T), Unknown)
    assert path.read_bytes() == b"record 1"
    monkeypatch.setattr(os, "rename", rename)
    assert isinstance(store.begin_store(mine.fence, one.record_revision, b"record 2", T, kind).outcome(T), Committed)
    assert path.read_bytes() == b"record 2"
    assert flushed == [f"{path.name}.new", f"{path.name}.new", store.directory.name]


def test_claims_of_two_identities_wait_for_one_counter(store: FileStore, identity: str) -> None:
    """S3: fences rise over all identities of a folder, so a claim waits for whoever counts."""
    sighting = store.look(identity, T)
    with open(store.directory / "claims.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = store.claim(sighting, OWNER, 0.05)
        assert isinstance(outcome, Unknown)
        assert "claims.lock" in outcome.cause
    assert store.look(identity, T) == sighting
    assert isinstance(store.claim(sighting, OWNER, T), Claimed)


def test_a_lock_on_a_file_that_was_removed_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3: somebody removes the lock file between its opening and its locking, and another process locks a new one."""
    path, flock = tmp_path / "lock", fcntl.flock
    removed: list[int] = []

    def remove_and_lock(handle: int, operation: int) -> None:
        if not removed:
            removed.append(os.fstat(handle).st_ino)
            path.unlink()
            path.touch()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with _folder.Folder(tmp_path).locked("lock", Deadline(T)), open(path, "rb") as other:
        assert removed != [path.stat().st_ino]
        with pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_s2_a_write_is_flushed_before_it_is_renamed_and_the_folder_after_it(
    store: FileStore, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the first, a power cut leaves an empty tower under the right name; without the second, the tower before."""
    mine = claim(store, identity)
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        done.append(("flushed", Path(os.readlink(f"/proc/self/fd/{handle}")).name))

    def noted_rename(old: Path, new: Path) -> None:
        rename(old, new)
        done.append(("renamed to", new.name))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    assert isinstance(store.begin_store(mine.fence, 0, b"tower", T).outcome(T), Committed)
    name = f"tower-1_9-{identity}.bin"
    assert done == [("flushed", f"{name}.new"), ("renamed to", name), ("flushed", store.directory.name)]


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
