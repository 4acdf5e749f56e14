"""Writes docs/benchmarks.md, its plots and the README's table of figures from benchmarks/results.json.

    python -m benchmarks.report [FILE...]    take in runs first: JSON of pytest-benchmark, named <topic>.json

`make bench` calls it. A missed target is written down as missed; nothing here decides what is good enough.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results as kept
from benchmarks.plots import draw, file_of, plots_of
from benchmarks.results import NotAFullRun, targets_of, verdict
from benchmarks.surroundings import look_around

__all__ = ["PAGE", "README", "main", "page", "readme_table", "with_table"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
INSTRUCTIONS = Path(__file__).with_name("instructions.json")

WHAT_THEY_ARE_NOT = """\
# Benchmarks

`make bench` measures everything here and writes this page, its plots and `benchmarks/results.json`, from which it is made;
`make bench TOPIC=codec` does so for one file of `benchmarks/`. Nobody edits a figure by hand.

**What these numbers are not.** They come from one machine with few cores that others share, everything on loopback: no network,
no disk of its own, mostly a single etcd. They say nothing about another machine, and little about absolute times on any.
What is claimed is a *ratio*: both sides are called in turns in one run, so that a busy moment slows both, and the medians are
divided. Beside it stand the absolute figures, to say on what scale. Benchmarks never fail for being slow: a target that was
not met is called missed. They do fail if the two sides have not done the same work.

The unit `sig` is one bare libsodium signature of 300 bytes in the same run. Quartiles are in parentheses; of a hundred calls
about one is slower than p99.
"""


# Why a target of a table is missed and what the floor is: shown while one of them is.
FLOORS = {
    "scale": """\
At 1,000 identities three members of etcd and the drivers share this machine's processors and leave almost none of them
idle (the lines "processors of"): what pauses one of them, above all etcd's compaction of so many revisions at once,
holds the votes of all behind it. At 2,000 it stores what it can, which is little more. The drivers' own part is a
quarter of the work; with members on machines of their own there is three times the room.""",
    "clients of etcd": """\
Nothing that waits for this etcd on this machine can be that fast: the table's last line is a bare socket, which encodes
nothing and reads no answer. What is left is the kernel's and etcd's own.""",
    "frozen bank to released vote": """\
Two things cannot be done beside the store: the record is signed before it is asked, and the datagram leaves after it
answered. The rest is the decision, in Python that can be read. In a loop it is quick (the lines in memory); after a
wait, in which others had the processor and its caches, it takes two or three times that. "Where the time of a vote
goes" has the steps. The same files compiled as they stand were tried and are a few per cent quicker, which does not
reach the target.""",
    "signing": """\
It is the signatures: the line below compares them alone. ed25519-dalek signs with vector instructions, where libsodium
does not. All else that a vote takes is the difference of our two lines.""",
}


def _time(seconds: float) -> str:
    """
    >>> _time(0.0003812), _time(0.0000119), _time(1.5), _time(0.000000094)
    ('0.381 ms', '11.9 µs', '1.5 s', '0.094 µs')
    """
    if seconds >= 1:
        return f"{seconds:,.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"


def _spread(sample: Mapping[str, float]) -> str:
    return f"{_time(sample['median'])} ({_time(sample['q1'])} to {_time(sample['q3'])})"


def _ratio(value: float | None, row: Mapping[str, Any]) -> str:
    if value is None:
        return ""
    if row["unit"] == "sig":
        return f"{value:.3g} sig"
    return f"{value:.3g} x faster" if row["at_least"] is not None else f"{value:.3g} x"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def _got(row: Mapping[str, Any]) -> str:
    return _ratio(row["ratio"], row) if "ratio" in row else f"{_number(row['value'])} {row['unit']}".strip()


def _target(row: Mapping[str, Any]) -> str:
    ratio = "ratio" in row
    if row["at_most"] is not None:
        return f"<= {_ratio(row['at_most'], row) if ratio else _number(row['at_most'])}"
    if row["at_least"] is not None:
        return f">= {_ratio(row['at_least'], row) if ratio else _number(row['at_least'])}"
    return ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, without the columns that are empty in every row."""
    used = [index for index, _ in enumerate(head) if any(row[index] for row in rows)]
    lines = [[head[index] for index in used], ["---"] * len(used), *([_cell(row[index]) for index in used] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("what", "median (quartiles)", "p99", "against", "its median", "its p99", "ratio", "target", "", "note")
    body = []
    for row in rows:
        other = row["other"]
        theirs = ("", "") if other is None else (_time(other["median"]), _time(other["p99"]))
        body.append(
            (
                row["what"], _spread(row["ours"]), _time(row["ours"]["p99"]), row["against"], *theirs,
                _ratio(row["ratio"], row), _target(row), verdict(row), row["note"],
            )
        )  # fmt: skip
    return _table(head, body)


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("what", "value", "target", "", "note")
    body = [(row["what"], _got(row), _target(row), verdict(row), row["note"]) for row in rows]
    return _table(head, body)


def _summary(results: Mapping[str, Any]) -> str:
    rows = targets_of(results)
    missed = [row for row in rows if verdict(row) == "missed"]
    lines = [f"Of {len(rows)} targets {len(rows) - len(missed)} were reached and {len(missed)} missed.\n\n"]
    for row in missed:
        against = f" against {row['against']}" if row.get("against") else ""
        lines.append(f"- missed: {row['table']}, {row['what']}{against}: {_got(row)}, wanted {_target(row)}\n")
    for table in dict.fromkeys(row["table"] for row in missed):
        if table in FLOORS:
            lines.append(f"\n**{table[0].upper()}{table[1:]}.** {FLOORS[table]}\n")
    return "".join(lines)


def _tables(results: Mapping[str, Any]) -> str:
    """A section a table, in the order in which the topics name them; plots stand at the end of their topic's first table."""
    names = list(dict.fromkeys(row["table"] for topic in results["topics"] for row in [*topic["rows"], *topic["figures"]]))
    shown: set[str] = set()
    parts = []
    for name in names:
        topics = [each for each in results["topics"] if any(row["table"] == name for row in [*each["rows"], *each["figures"]])]
        parts.append(f"## {name[0].upper()}{name[1:]}\n")
        rows = [row for topic in topics for row in topic["rows"] if row["table"] == name]
        figures = [row for topic in topics for row in topic["figures"] if row["table"] == name]
        parts += [_rows(rows)] if rows else []
        parts += [_figures(figures)] if figures else []
        for plot in dict.fromkeys(line["plot"] for topic in topics for line in topic["series"]):
            if plot not in shown:
                shown.add(plot)
                parts.append(f"![{plot}](images/{file_of(plot)})\n")
    return "\n".join(parts)


def _where(results: Mapping[str, Any]) -> str:
    facts = _table(("", ""), list(results["surroundings"].items()))
    runs = [
        (
            f"`benchmarks/test_{topic['topic']}.py`", topic["commit"] + (" with changes on top" if topic["dirty"] else ""),
            topic["date"], f"{topic['seconds']:,} s", str(topic["seed"]),
        )
        for topic in results["topics"]
    ]  # fmt: skip
    return f"## Where and when\n\n{facts}\n{_table(('topic', 'commit', 'date', 'took', 'seed'), runs)}"


def _instructions() -> str:
    """The counts that `python -m benchmarks.instructions --write` has written down."""
    if not INSTRUCTIONS.exists():
        return ""
    found = json.loads(INSTRUCTIONS.read_text(encoding="utf-8"))
    rows = [(name, f"{count['ours']:,}", f"{count['libsodium']:,}") for name, count in found["instructions"].items()]
    tools = ", ".join(f"{name} {value}" for name, value in found["toolchain"].items())
    text = f"Counted by valgrind, which no busy machine changes ({tools}). A growth of more than 5 % fails"
    return f"## Instructions\n\n{text} `python -m benchmarks.instructions --check`.\n\n" + _table(
        ("one call of", "instructions, ours", "libsodium's"), rows
    )


def page(results: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [WHAT_THEY_ARE_NOT, _summary(results), _tables(results), _instructions(), _where(results)]
    return "\n".join(part for part in parts if part)


def readme_table(results: Mapping[str, Any]) -> str:
    """Every target in short."""
    head = ("what", "against", "here", "target", "")
    rows = targets_of(results)
    often = Counter((row["what"], row.get("against", "")) for row in rows)
    body = []
    for row in rows:
        against = row.get("against", "")
        what = row["what"] if often[row["what"], against] == 1 else f"{row['what']}; {row['note']}"
        body.append((what, against, _got(row), _target(row), verdict(row)))
    return _table(head, body)


def with_table(readme: str, table: str) -> str:
    """The README with `table` between its two marks. Raises `ValueError` where they are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the figures: put the two lines {BEGIN} and {END} there")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def _take_in(files: Sequence[Path]) -> dict[str, Any]:
    topics = []
    for file in files:
        run = json.loads(file.read_text(encoding="utf-8"))
        took = file.with_suffix(".seconds")
        topics.append(kept.condense(run, file.stem, float(took.read_text()) if took.exists() else 0))
    results = kept.load()
    return kept.merge(results, look_around() if topics else results["surroundings"], topics)


def write(results: Mapping[str, Any]) -> None:
    """The results, the page, the plots, the README."""
    kept.FILE.write_text(kept.dump(results), encoding="utf-8")
    for plot, lines in plots_of(results).items():
        draw(plot, lines, IMAGES)
    known = {file_of(plot) for plot in plots_of(results)}
    for old in IMAGES.glob("bench-*.svg"):
        if old.name not in known:
            old.unlink()
    PAGE.write_text(page(results), encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), readme_table(results)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="FILE", help="JSON of pytest-benchmark, named <topic>.json")
    try:
        results = _take_in(parser.parse_args(arguments).runs)
        write(results)
    except (NotAFullRun, OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    missed = sum(verdict(row) == "missed" for row in targets_of(results))
    print(f"{PAGE.relative_to(ROOT)}: {len(targets_of(results))} targets, {missed} missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
