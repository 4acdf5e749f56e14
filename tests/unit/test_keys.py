"""Keypair files: what is read, what is refused with which line, and that a secret never shows."""

from __future__ import annotations

import os
import stat

import pytest

from tower.errors import InvalidInput
from tower.keys import Keypair, as_keypair, as_pubkey, from_base58, read_keypair_file, write_keypair_file


def test_a_keypair_file_comes_back_and_is_private_and_never_overwritten(tmp_path):
    path, pair = tmp_path / "id.json", Keypair.generate()
    write_keypair_file(path, pair)
    assert read_keypair_file(path) == pair
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InvalidInput, match="never overwritten"):
        write_keypair_file(path, Keypair.generate())
    assert read_keypair_file(path) == pair


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "expected a JSON array"),
        ("[" * 3000, "expected a JSON array"),
        ("{}", "64 numbers from 0 to 255"),
        ("[1,2]", "expected 64 numbers, found 2"),
        (str([256] * 64), "from 0 to 255"),
        (str([1.5] * 64), "from 0 to 255"),
        (str([1] * 64), "does not belong to its seed"),
        ("ü", "expected a JSON array"),
        (str([7] * 100_000), "expected a JSON array"),
    ],
)
def test_what_is_no_keypair_file_is_refused_without_quoting_it(tmp_path, content, problem):
    path = tmp_path / "id.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=problem) as refused:
        read_keypair_file(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("path", ["missing.json", ".", "/dev/zero", "a\0b", "\ud800"])
def test_what_is_no_file_is_refused(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput):
        read_keypair_file(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="not a file"):
        read_keypair_file(tmp_path / "pipe")


def test_a_secret_is_in_no_text():
    pair = Keypair.from_seed(b"s" * 32)
    for text in (repr(pair), str(pair), f"{pair}", repr([pair])):
        assert pair.address in text
        assert "s" * 8 not in text
        assert pair.secret.hex()[:16] not in text


@pytest.mark.parametrize("wrong", [None, 5, b"short", "no address", object()])
def test_what_is_no_key_is_refused(wrong):
    with pytest.raises(InvalidInput):
        as_pubkey(wrong)
    with pytest.raises(InvalidInput):
        as_keypair(wrong)


def test_base58_addresses():
    pair = Keypair.generate()
    assert from_base58(pair.address) == pair.pubkey
    with pytest.raises(InvalidInput, match="not a base58 address"):
        from_base58(pair.address[:-3])
