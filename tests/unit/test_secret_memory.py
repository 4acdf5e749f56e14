"""A key in memory: one copy, on a locked page that no core dump has, and zeros when it is done with."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import leaks
from tower import secret_memory
from tower.errors import InvalidInput
from tower.keys import Keypair, parse_keypair, read_keypair_file, write_keypair_file
from tower.secret_memory import PAGES_MAX, keep, locked_pages, overwrite_if_last

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read by way of /proc")


def test_what_is_done_with_is_overwritten_and_what_is_in_use_is_not() -> None:
    pair = Keypair.generate()
    borrowed, before = pair.secret, pair.secret.hex()
    del pair
    assert borrowed.hex() == before  # somebody still signs with it
    own = keep(bytearray(b"s" * 64))
    address = secret_memory._address(own)
    assert overwrite_if_last(own)
    assert own == bytes(64)
    assert secret_memory._address(own) == address
    shared = keep(bytearray(b"t" * 64))
    also = shared
    assert not overwrite_if_last(shared)
    assert also == b"t" * 64


def test_the_caller_keeps_its_own_bytes() -> None:
    theirs = Keypair.from_seed(bytes([5]) * 32).secret
    copied = bytes(bytearray(theirs))
    pair = Keypair(copied)
    assert pair.secret is not copied
    del pair
    assert copied == theirs
    work = bytearray(theirs)
    assert Keypair(work) == Keypair(theirs)
    assert work == theirs


def test_a_keypair_is_not_pickled_and_a_copy_is_itself() -> None:
    pair = Keypair.generate()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(pair, protocol)
    assert copy.copy(pair) is pair
    assert copy.deepcopy([pair])[0] is pair


def test_one_that_is_refused_is_left_behind_in_order() -> None:
    with pytest.raises(InvalidInput):
        Keypair(bytes(64))
    with pytest.raises(InvalidInput):
        Keypair(b"short")


@pytest.mark.parametrize("text", ["{}", " {} ", "\n{}\n"])
def test_a_file_is_read_alike_in_both_ways(tmp_path: Path, text: str) -> None:
    pair = Keypair.generate()
    for separators in ((",", ":"), (", ", ":"), (" ,\n", ":")):
        path = tmp_path / "id.json"
        path.write_text(text.format(json.dumps(list(pair.secret), separators=separators)))
        assert read_keypair_file(path) == pair == parse_keypair(path.read_text())


@pytest.mark.parametrize("wrong", ["007", "256", "-1", "1e0", "1.0", "true", '"1"', "1" * 300])
def test_numbers_that_are_no_bytes_are_refused_alike(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "id.json"
    path.write_text("[" + ",".join([wrong, *map(str, Keypair.generate().secret[1:])]) + "]")
    with pytest.raises(InvalidInput) as ours:
        read_keypair_file(path)
    with pytest.raises(InvalidInput) as usual:
        parse_keypair(path.read_text())
    assert str(ours.value) == f"{path}: {usual.value}"


def test_few_pages_are_locked_however_many_keys_there_were() -> None:
    for _ in range(300):
        Keypair.generate()
    assert locked_pages() <= PAGES_MAX
    many = [Keypair.generate() for _ in range(3000)]
    assert locked_pages() <= PAGES_MAX
    assert len({pair.pubkey for pair in many}) == 3000


READS_A_KEY = """
import sys
from tower.keys import read_keypair_file
kept = read_keypair_file(sys.argv[1])
gone = read_keypair_file(sys.argv[2])
signed = __import__("tower._fast", fromlist=["sign"]).sign(kept.secret, b"message")
del gone
print("ready", flush=True)
sys.stdin.readline()
"""


@LINUX
def test_one_locked_copy_is_all_that_there_is_of_a_key(tmp_path: Path) -> None:
    """In the memory of a process that read two key files, signed with the one and dropped the other."""
    pairs = [Keypair.generate(), Keypair.generate()]
    paths = [tmp_path / "kept.json", tmp_path / "gone.json"]
    for path, pair in zip(paths, pairs, strict=True):
        write_keypair_file(path, pair)
    command = [sys.executable, "-c", READS_A_KEY, *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        parts = [(part, leaks.read_memory(process.pid, part)) for part in leaks.mappings(process.pid)]
        process.stdin.write(b"\n")
    kept, gone = ([(part, data) for part, data in parts if leaks.found_raw(data, pair.secret)] for pair in pairs)
    assert gone == []
    ((part, data),) = kept
    assert part.flags >= {"lo", "dd"}, "locked, and in no core dump"
    assert len(leaks.found_raw(data, pairs[0].secret)) == 3  # the three windows of one copy
    text = json.dumps(list(pairs[0].secret), separators=(",", ":")).encode()
    assert not [part for part, data in parts if text[1:40] in data], "the text of the file is gone, too"


WITH_CORE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)[1:] * 2)
from tower.validator.no_dumps import forbid_dumps
if sys.argv[1] == "dumps":
    os.abort()
if sys.argv[1] == "whatever the limit":
    resource.setrlimit = lambda what, limits: None
assert forbid_dumps()
assert (resource.getrlimit(resource.RLIMIT_CORE)[0] == 0) == (sys.argv[1] == "none")
os.abort()
"""


@LINUX
def test_no_core_dump(tmp_path: Path) -> None:
    def dumped(how: str) -> bool:
        pid = os.fork()
        if not pid:  # becomes the program; nothing of pytest runs in it
            os.chdir(tmp_path)
            os.environ["PYTHONPATH"] = str(Path(secret_memory.__file__).parents[1])
            os.execv(sys.executable, [sys.executable, "-c", WITH_CORE, how])
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status), status
        return os.WCOREDUMP(status)

    if not dumped("dumps"):
        pytest.skip("this system takes no core dumps: there is nothing to be switched off")
    assert not dumped("none")
    assert not dumped("whatever the limit"), "a program that takes core dumps gets none, either"
