"""Runs the benchmarks topic by topic at full length, each in a process of its own, and writes the report.

    python -m benchmarks.run [TOPIC...]    all, or the named ones: codec stands for benchmarks/test_codec.py

Before a topic it says how long that took the last time. One that fails is named at the end, gives status 1, and keeps its earlier
figures in the report.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report, results
from benchmarks.peers.cargo import CannotBuild, build

__all__ = ["main"]

HERE = Path(__file__).parent
FOLDER = HERE.parent / "build" / "bench"


def known_topics() -> list[str]:
    return sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py"))


def _run(topic: str) -> Path | None:
    """The run's file; `None` if it failed."""
    file = FOLDER / f"{topic}.json"
    file.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--benchmark-enable", "--benchmark-quiet",
        f"--benchmark-json={file}", str(HERE / f"test_{topic}.py"),
    ]  # fmt: skip
    began = time.monotonic()
    status = subprocess.run(command, cwd=HERE.parent, env={**os.environ, "TOWER_BENCH": "full"}, check=False).returncode
    if status or not file.exists() or not file.stat().st_size:
        return None
    file.with_suffix(".seconds").write_text(f"{time.monotonic() - began:.0f}\n", encoding="ascii")
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("topics", nargs="*", metavar="TOPIC")
    named = parser.parse_args(arguments).topics
    topics = named or known_topics()
    if unknown := sorted(set(topics) - set(known_topics())):
        print(f"no topic {', '.join(unknown)}: there are {', '.join(known_topics())}", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    took = {topic["topic"]: topic["seconds"] for topic in results.load()["topics"]}
    total, new = sum(took.get(topic, 0) for topic in topics), sum(topic not in took for topic in topics)
    unknown_yet = f", and {new} for the first time" if new else ""
    print(f"{len(topics)} topics: {total / 60:.0f} min by the last run{unknown_yet}", flush=True)
    try:
        build()
    except CannotBuild as problem:
        print(f"{problem}; its lines are left out")
    done: list[Path] = []
    failed: list[str] = []
    for topic in topics:
        last = f"{took[topic]} s the last time" if topic in took else "for the first time"
        print(f"\n{topic}: {last}", flush=True)
        file = _run(topic)
        if file is None:
            failed.append(topic)
        else:
            done.append(file)
    status = report.main([str(file) for file in done]) if done else 1
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else status


if __name__ == "__main__":
    sys.exit(main())
