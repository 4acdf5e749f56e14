"""The fuzz targets without atheris: their seeds, a few thousand mutations with the run's seed, and that they notice things."""

from __future__ import annotations

import doctest
import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from fuzz import corpus, mutate, run, sanitize, targets
from fuzz.corpus import TOKENS, seeds
from fuzz.mutate import Mutator
from fuzz.native import run_native
from fuzz.targets import MAX_BYTES, TARGETS, Finding
from tower import _fast, _reference, wire
from tower.errors import WireError
from tower.localnet import intake
from tower.restore import SlotHistory
from tower.stores import _etcd_frames, _etcd_messages
from tower.validator.admin_calls import AdminCalls

MUTATIONS = 2_000
NATIVE_EXECUTIONS = 20_000


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted_and_mutations_break_no_rule(name: str, rng: random.Random) -> None:
    known = seeds(name, rng)
    # not all: an empty vote is no ballot, and a batch has no single result
    assert sum(TARGETS[name](data) for data in known) >= len(known) * 2 // 3
    assert max(map(len, known)) <= MAX_BYTES[name]
    mutator = Mutator(rng, known, TOKENS[name])
    refused = 0
    for _ in range(MUTATIONS):
        data = mutator.next()
        try:
            refused += not TARGETS[name](data)
        except BaseException:
            print(f"{name}: {data.hex()}")
            raise
    assert 0 < refused <= MUTATIONS


def test_the_native_run_decodes_and_refuses(rng: random.Random) -> None:
    done = run_native(rng.randrange(1 << 32), NATIVE_EXECUTIONS)
    assert done.problem is None, f"{done.name}: {done.data.hex()}"
    assert done.executions >= NATIVE_EXECUTIONS
    assert 0 < done.refused < done.executions


def _escape(*_: object) -> None:
    raise IndexError("not a TowerError")


@pytest.mark.parametrize(
    ("name", "owner", "attribute"),
    [
        ("tower", _fast, "decode_saved_tower"),
        ("instruction", wire, "decode_vote_instruction"),
        ("transaction", intake, "read_ballots"),
        ("account", wire, "decode_vote_account"),
        ("sysvars", SlotHistory, "check"),
        ("reservation", targets, "decode_reservation"),
        ("etcd", _etcd_messages, "decode_watch"),
        ("http2", _etcd_frames, "settings_of"),
        ("admin", AdminCalls, "answer"),
    ],
)
def test_an_error_of_another_kind_ends_the_run(monkeypatch, rng, name: str, owner: object, attribute: str) -> None:
    known = seeds(name, rng)
    monkeypatch.setattr(owner, attribute, _escape)
    with pytest.raises(IndexError):
        list(map(TARGETS[name], known))


def _other_offset(data: bytes) -> None:
    try:
        _reference.decode_saved_tower(data)
    except WireError as problem:
        raise WireError(problem.offset + 1, problem.reason) from None


def test_twins_that_disagree_are_found(monkeypatch) -> None:
    monkeypatch.setattr(_fast, "decode_saved_tower", _other_offset)
    with pytest.raises(Finding, match="against"):
        TARGETS["tower"](b"\2" * 100)


def test_bytes_that_do_not_come_back_are_found(monkeypatch, rng) -> None:
    real = _reference.encode_tower_body
    monkeypatch.setattr(_reference, "encode_tower_body", lambda *arguments: real(*arguments) + b"\0")
    with pytest.raises(Finding, match="other bytes"):
        TARGETS["tower"](seeds("tower", rng)[0])


@pytest.mark.parametrize("ident", [b"NaN", b"1e999", b"[" * 984 + b"]" * 984], ids=["nan", "infinite", "deep"])
def test_an_id_that_cannot_be_echoed_is_refused(ident: bytes) -> None:
    """Found here: an id went back as it came. NaN is no JSON, and an array as deep as the reader allows was too deep to write."""
    assert not TARGETS["admin"](b'{"jsonrpc":"2.0","method":"pid","id":' + ident + b"}")


def test_a_fixed_number_is_no_string() -> None:
    """Found here: a fixed32 in the place of a key and value was read as one."""
    header = bytes.fromhex("0a021818")
    assert _etcd_messages.decode_range(header).revision == 24
    with pytest.raises(WireError, match="field 2 is no string of bytes"):
        _etcd_messages.decode_range(header + bytes.fromhex("1518181818"))


def test_an_internal_error_of_the_admin_rpc_is_found(monkeypatch) -> None:
    monkeypatch.setattr(targets, "parse_keypair", _escape)
    request = b'{"jsonrpc":"2.0","method":"addAuthorizedVoter","params":["[]"],"id":1}'
    with pytest.raises(Finding, match="failed unexpectedly"):
        TARGETS["admin"](request)


def test_one_input_can_be_run_again(monkeypatch, capsys) -> None:
    assert run.main(["--target", "etcd", "--input", "00"]) == 0
    assert "refused" in capsys.readouterr().out
    monkeypatch.setattr(_etcd_messages, "decode_watch", _escape)
    with pytest.raises(IndexError):
        run.main(["--target", "etcd", "--input", "00"])


def test_a_native_crash_is_reported_with_its_input(monkeypatch, capsys) -> None:
    monkeypatch.setattr(_fast, "decode_compact_vote", _escape)
    assert run.main(["--target", "native", "--seconds", "60", "--seed", "1"]) == 1  # ends at once
    told = capsys.readouterr().out
    assert "CRASH instruction: IndexError" in told
    assert "--target instruction --input " in told


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: make fuzz")
def test_a_guided_run_counts_and_reports_a_crash(tmp_path: Path) -> None:
    sound = run.guided("etcd", 1, 7, tmp_path / "sound")
    assert sound.crash is None
    assert sound.executions > 100
    assert (sound.branches or 0) > 20
    # the same run over a reader that fails at one byte: sitecustomize stands in for a bug
    (tmp_path / "sitecustomize.py").write_text(
        "import tower.stores._etcd_messages as m\n"
        "real = m.decode_watch\n"
        "def wrong(data):\n    if data[:1] == b'\\x00': raise IndexError(data)\n    return real(data)\n"
        "m.decode_watch = wrong\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        broken = run.guided("etcd", 20, 7, tmp_path / "broken")
    assert broken.crash is not None
    assert "--target etcd --input 00" in broken.crash


def test_bad_arguments_are_one_line_with_the_fix(capsys) -> None:
    for arguments, hint in (
        (["--input", "00"], "--input: name its target"),
        (["--target", "etcd", "--input", "0"], "--input: not hex digits"),
        (["--target", "etcd", "--input", "@/nowhere"], "--input: /nowhere: No such file"),
        (["--seconds", "0"], "--seconds: at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            run.main(arguments)
        assert ended.value.code == 2
        assert hint in capsys.readouterr().err


def test_the_sanitizer_s_wrong_builds_still_fit_the_source() -> None:
    for name, loses, right, wrong, _, _ in sanitize.WRONG:
        source = (Path(_fast.__file__).parent / name).read_text()
        assert source.count(right) == 1, loses
        assert wrong not in source


@pytest.mark.parametrize("module", [corpus, mutate, targets], ids=lambda module: module.__name__)
def test_doctests(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
