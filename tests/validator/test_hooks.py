"""Hooks: they are told what happens, may refuse before, and can hold nothing up for longer than their time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tower.errors import InvalidInput
from tower.validator.hooks import OUTPUT_BYTES_MAX, Hooks, RoleChange, parse_hook

TAKING = RoleChange("standby", "primary", "Me", "set-identity", 7, 40)


def script(folder: Path, text: str) -> tuple[str, ...]:
    file = folder / "hook"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return parse_hook(f"{file} one 'two words'", "--hook-before")


def ask(hooks: Hooks) -> None:
    asyncio.run(hooks.ask(TAKING))


def test_a_hook_is_told_what_happens(tmp_path: Path):
    out = tmp_path / "out"
    ask(Hooks(before=script(tmp_path, f'env | grep ^OPENOS_ | sort > {out}; echo "$1/$2" >> {out}')))
    assert out.read_text().splitlines() == [
        "OPENOS_FENCE=7", "OPENOS_IDENTITY=Me", "OPENOS_LAST_VOTED_SLOT=40", "OPENOS_ROLE_AFTER=primary",
        "OPENOS_ROLE_BEFORE=standby", "OPENOS_WHY=set-identity", "one/two words",
    ]  # fmt: skip


def test_a_hook_that_fails_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    counts: list[tuple[str, str]] = []
    hooks = Hooks(before=script(tmp_path, "echo not today; exit 3"), count=lambda *got: counts.append(got))
    with pytest.raises(InvalidInput, match="--hook-before ended with an error; nothing was claimed"):
        ask(hooks)
    assert counts == [("primary", "failed")]
    assert "not today (exit status 3)" in caplog.text


def test_a_hook_that_hangs_refuses_and_is_ended_with_its_children(tmp_path: Path):
    pids = tmp_path / "pids"
    hooks = Hooks(before=script(tmp_path, f"sleep 600 & echo $! $$ > {pids}; wait"), timeout=1.0)
    with pytest.raises(InvalidInput, match="did not end within 1 s"):
        ask(hooks)
    for pid in pids.read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_output_is_bounded_and_does_not_hold_the_hook_up(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    ask(Hooks(before=script(tmp_path, "yes | head -c 1000000")))
    assert len(caplog.records[-1].about["output"]) <= OUTPUT_BYTES_MAX
    assert caplog.records[-1].about["outcome"] == "ok"


def test_what_comes_after_is_not_waited_for_and_counts_for_nothing(tmp_path: Path):
    counts: list[tuple[str, str]] = []
    hooks = Hooks(after=script(tmp_path, "exit 1"), count=lambda *got: counts.append(got))

    async def change() -> int:
        hooks.tell(TAKING)
        before = len(counts)
        await hooks.close()
        return before

    assert asyncio.run(change()) == 0
    assert counts == [("primary", "failed")]


def test_a_program_that_is_gone_by_now_fails(tmp_path: Path):
    command = script(tmp_path, "exit 0")
    Path(command[0]).unlink()
    with pytest.raises(InvalidInput, match="ended with an error"):
        ask(Hooks(before=command))


def test_no_hook_is_no_question():
    ask(Hooks())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--hook-after: no command; .*"),
        ("no-such-program x", "--hook-after: no-such-program: no program that can be run; .*"),
        ("sh 'open", "--hook-after: \"sh 'open\": No closing quotation; .*"),
    ],
)
def test_what_cannot_be_run_is_refused_at_start(text: str, message: str):
    with pytest.raises(InvalidInput, match=message):
        parse_hook(text, "--hook-after")


def test_a_file_without_the_mode_is_refused(tmp_path: Path):
    (tmp_path / "hook").write_text("#!/bin/sh\n")
    with pytest.raises(InvalidInput, match="no program that can be run"):
        parse_hook(str(tmp_path / "hook"), "--hook-before")
