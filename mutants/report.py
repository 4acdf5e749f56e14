"""What a run found, as lines for a terminal and as docs/mutants.md.

>>> rows = table([])
>>> rows[0]
'| mutant | breaks | what goes wrong | killed by | seconds |'
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from mutants.catalog import ROOT, Mutant

__all__ = ["DOCUMENT", "Verdict", "summary", "table", "write_document"]

DOCUMENT = ROOT / "docs" / "mutants.md"
INTRODUCTION = """\
# Mutants

Each guard of the code taken out once, and the test that noticed. A patch in `mutants/patches` removes one guard and says which
promise or rule of [safety](safety.md) that breaks, what goes wrong, and which tests must fail. The run copies the tree, applies
one patch at a time, and runs those tests; if they pass, the quick tests; a mutant that passes them too has survived, and the
run fails. So this list is a test of the tests: a survivor is a missing test.

```
make mutants                                every mutant, about {minutes} minutes
python -m mutants.run --only 'memory-*'     some of them
python -m mutants.run --sample 20 --seed 7  twenty, drawn from a seed
python -m mutants.run --list                what there is
python -m mutants.run --write               all of them, and this page anew
```

A new guard comes with its mutant: change the file, `git diff -U1 > mutants/patches/NAME.patch`, put the lines `Breaks:`,
`Without:` and `Killed-by:` above the diff, undo the change, name it in [safety](safety.md), and run
`python -m mutants.run --only NAME`. Seconds are those of one mutant: a copy of the tree, the build where the patch is in the
extension, and the tests up to the first that fails.

{stamp}:

"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant. `killer` is the node id of the first test that failed; `expected` if the patch named it."""

    mutant: Mutant
    killer: str | None
    expected: bool
    timed_out: bool
    seconds: float
    output: str = ""

    @property
    def killed(self) -> bool:
        """Noticed by a test; running out of time counts only where the patch says that it may."""
        return self.mutant.may_time_out if self.timed_out else self.killer is not None

    def by(self) -> str:
        """Who noticed, in words."""
        killer = None if self.killer is None else f"`{self.killer}`"
        if self.timed_out:
            return f"timed out{'' if killer is None else f': {killer}'}"
        if killer is None:
            return "**survived**"
        return killer if self.expected else f"{killer} (not named by the patch)"

    def line(self) -> str:
        """One line for a terminal."""
        word = "killed" if self.killed else "TIMED OUT" if self.timed_out else "SURVIVED"
        return f"{word:<9} {self.mutant.name:<34} {self.seconds:5.1f} s  {self.by()}"


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """The rows of a Markdown table, its head first."""
    rows = ["| mutant | breaks | what goes wrong | killed by | seconds |", "| --- | --- | --- | --- | --- |"]
    for verdict in verdicts:
        mutant = verdict.mutant
        by = verdict.by().replace("|", "\\|")
        rows.append(f"| `{mutant.name}` | {mutant.breaks} | {mutant.without} | {by} | {verdict.seconds:.0f} |")
    return rows


def summary(verdicts: Sequence[Verdict], seconds: float) -> str:
    """The last line of a run."""
    killed = sum(verdict.killed for verdict in verdicts)
    return f"killed {killed} of {len(verdicts)}, {seconds:.0f} s"


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_document(verdicts: Sequence[Verdict], seconds: float, jobs: int) -> None:
    """Write docs/mutants.md."""
    day = datetime.datetime.now(datetime.UTC).date()
    machine = f"{os.cpu_count()} cores, CPython {platform.python_version()}"
    stamp = f"{day}, commit {_commit()}, {machine}, `python -m mutants.run --write --jobs {jobs}`: {summary(verdicts, seconds)}"
    text = INTRODUCTION.format(minutes=max(1, round(seconds / 60)), stamp=stamp)
    DOCUMENT.write_text(text + "\n".join(table(verdicts)) + "\n")
