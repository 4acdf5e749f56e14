"""What a mutant is: one unified diff with a few lines above it that say what it takes away.

    Breaks: S3
    Without: An owner that was replaced goes on writing.
    Killed-by: tests/contract/test_store_contract.py::test_s3_an_old_fence_is_refused_after_a_claim[memory]

    --- a/tower/stores/memory.py
    +++ b/tower/stores/memory.py
    @@ ...

`Breaks` is a promise or a rule of docs/safety.md, `Without` one sentence on what goes wrong, `Killed-by` (repeatable) the
tests that must fail. `May-time-out: yes` is for a mutant whose end is that a test does not end. The name is the file's.

The context of a hunk is small, so that a patch outlives changes around it; so it must fit at one place of its file and no
other: `misfit` says so, before `git apply` would pick the nearest place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PATCHES", "ROOT", "BadMutant", "Mutant", "load_mutants", "misfit", "read_mutant"]

ROOT = Path(__file__).parents[1]
PATCHES = Path(__file__).parent / "patches"
HEADERS = ("Breaks", "Without", "Killed-by", "May-time-out")
TARGET = re.compile(r"^\+\+\+ b/(\S+)$", re.MULTILINE)
HUNK = re.compile(r"^@@ .*$\n", re.MULTILINE)


class BadMutant(Exception):
    """A patch file that says too little or does not fit; the text names it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch. `files` are the paths that it changes, `diff` the unified diff alone."""

    name: str
    breaks: str
    without: str
    tests: tuple[str, ...]
    files: tuple[str, ...]
    diff: str
    path: Path
    may_time_out: bool = False

    @property
    def rebuilds(self) -> bool:
        """Whether the extensions have to be built anew."""
        return any(name.endswith(".pyx") for name in self.files)


def read_mutant(path: Path) -> Mutant:
    """The mutant in `path`. Raises `BadMutant`."""
    head, mark, rest = path.read_text().partition("--- a/")
    found: dict[str, list[str]] = {name: [] for name in HEADERS}
    for line in head.splitlines():
        name, colon, value = line.partition(": ")
        if not line:
            continue
        if not colon or name not in found:
            raise BadMutant(f"{path.name}: {line!r} is no header; they are {', '.join(HEADERS)}")
        found[name].append(value.strip())
    for name in HEADERS[:3]:
        if not found[name] or not all(found[name]):
            raise BadMutant(f"{path.name}: no {name}")
    files = tuple(TARGET.findall(rest))
    if not mark or not files:
        raise BadMutant(f"{path.name}: no unified diff with --- a/ and +++ b/ lines")
    if not re.fullmatch(r"[A-Z].*\.", found["Without"][0]):
        raise BadMutant(f"{path.name}: Without is one sentence, with a capital letter and a full stop")
    may_time_out = found["May-time-out"] == ["yes"]
    return Mutant(
        path.stem, found["Breaks"][0], found["Without"][0], tuple(found["Killed-by"]), files, mark + rest, path, may_time_out
    )


def load_mutants(folder: Path = PATCHES) -> list[Mutant]:
    """All mutants, by name. Raises `BadMutant`."""
    return [read_mutant(path) for path in sorted(folder.glob("*.patch"))]


def _before(hunk: Sequence[str]) -> list[str]:
    """The lines that a hunk must find."""
    return [line[1:] for line in hunk if line[:1] in (" ", "-") or line == ""]


def misfit(mutant: Mutant, root: Path) -> str | None:
    """Why `mutant` does not fit the tree in `root` at exactly one place; `None` if it does."""
    for part in mutant.diff.split("--- a/")[1:]:
        target = TARGET.search(part)
        if target is None:
            return "a file without its +++ line"
        path = root / target[1]
        if not path.is_file():
            return f"{target[1]} is not there"
        lines = path.read_text().splitlines()
        for hunk in HUNK.split(part)[1:]:
            wanted = _before(hunk.splitlines())
            places = sum(1 for at in range(len(lines)) if lines[at : at + len(wanted)] == wanted)
            if places != 1:
                where = "nowhere" if not places else f"at {places} places"
                return f"a hunk fits {where} in {target[1]}: {wanted[len(wanted) // 2].strip()!r}"
    return None
