"""The search for leaked keys finds a planted key in every encoding, and a part of one, and cries at nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import leaks
from tower.keys import Keypair, to_base58, write_keypair_file

PAIR = Keypair.from_seed(hashlib.sha256(b"a key to be found").digest())
SECRET = PAIR.secret
LONG = b'{"level":"info","message":"' + bytes(range(32, 127)) * 3

PLANTED: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda secret: secret,
    "hex": lambda secret: secret.hex().encode(),
    "HEX": lambda secret: secret.hex().upper().encode(),
    "hex with separators": lambda secret: secret.hex(":").encode(),
    "\\x": lambda secret: b"".join(b"\\x%02x" % each for each in secret),
    "0x": lambda secret: ", ".join(f"0x{each:02x}" for each in secret).encode(),
    "repr": lambda secret: repr(secret).encode(),
    "decimal": lambda secret: json.dumps(list(secret)).encode(),  # as Rust's {:?} of a vector, too
    "base64": base64.b64encode,
    "base64 for URLs": base64.urlsafe_b64encode,
    "base32": base64.b32encode,
    "base58": leaks.base58,
}


@pytest.mark.parametrize("form", PLANTED)
@pytest.mark.parametrize("before", [b"", b"a", b"bc", b"def"], ids=len)
def test_a_planted_key_is_found_in_every_form_and_place(form: str, before: bytes) -> None:
    for what in (SECRET, SECRET[:32]):
        text = LONG + PLANTED[form](what if form == "base58" else before + what + before) + LONG
        assert form in leaks.found_in(text, SECRET)


def test_other_separators_and_the_file_itself_are_found(tmp_path: Path) -> None:
    write_keypair_file(tmp_path / "id.json", PAIR)
    assert leaks.found_in_files(tmp_path, SECRET) == {"id.json": {"decimal"}}
    assert leaks.found_in_files(tmp_path, SECRET, but=frozenset({tmp_path / "id.json"})) == {}
    for mark in (",", ", ", " ", "\n", ";", ",\n"):
        assert leaks.found_in(mark.join(map(str, SECRET)).encode(), SECRET) == {"decimal"}


@pytest.mark.parametrize("form", [form for form in PLANTED if form != "base58"])
def test_a_third_of_a_seed_is_enough(form: str, rng: random.Random) -> None:
    for _ in range(10):
        pair = Keypair.from_seed(rng.randbytes(32))
        start = rng.randrange(32 - 14)
        assert leaks.found_in(LONG + PLANTED[form](rng.randbytes(3) + pair.secret[start : start + 14]) + LONG, pair.secret)


def test_what_is_no_key_of_ours_is_not_found(rng: random.Random) -> None:
    other = Keypair.from_seed(rng.randbytes(32))
    for plant in PLANTED.values():
        assert leaks.found_in(LONG + plant(other.secret) + LONG, SECRET) == set()
    public = b" ".join([PAIR.pubkey, PAIR.pubkey.hex().encode(), PAIR.address.encode(), base64.b64encode(PAIR.pubkey)])
    assert leaks.found_in(public, SECRET) == set()
    assert leaks.base58(PAIR.pubkey).decode() == to_base58(PAIR.pubkey).lstrip("1")


HOLDS_A_KEY = """
import sys
open_copy = bytes(int(each) for each in sys.stdin.readline().split(","))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read by way of /proc")
def test_a_copy_in_the_memory_of_a_process_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS_A_KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(",".join(map(str, SECRET)).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        found = [part for part in leaks.mappings(process.pid) if leaks.found_raw(leaks.read_memory(process.pid, part), SECRET)]
        process.stdin.write(b"\n")
    assert found
    assert all(not part.flags & {"lo", "dd"} for part in found)
