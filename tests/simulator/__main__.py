"""`python -m tests.simulator --seed N --failovers N [--runs N]`: exit status 1 if anything was violated."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter

from tests.simulator.coverage import missing, unvisited
from tests.simulator.run import Result, simulate
from tower.trace import Trace


def traced(seed: int, failovers: int, path: str) -> Result:
    """The run, and its trace at `path`, in the order in which things happened. The same seed gives the same bytes."""
    with open(path, "wb") as file:
        return simulate(seed, failovers, legacy=0, trace=Trace(file.write, clock=itertools.count(1).__next__, name="life"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the others follow it")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--failovers", type=int, default=200, help="in each run")
    parser.add_argument("--trace", metavar="FILE", help="one run without legacy validators, and its trace for spec.replay")
    arguments = parser.parse_args()
    if arguments.trace is not None and arguments.runs != 1:
        parser.error("--trace is of one run: add --runs 1")
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    began, total, visited, counts = time.monotonic(), Counter(), Counter(), Counter()
    for number in range(arguments.runs):
        if arguments.trace is None:
            result = simulate(seed + number, arguments.failovers)
        else:
            result = traced(seed, arguments.failovers, arguments.trace)
        total.update(failovers=result.failovers, sent=result.sent, slots=result.slots)
        visited.update(result.visited)
        counts.update(result.counts)
        if result.conflicts or result.broken:
            print(f"seed {result.seed}: {'; '.join(result.conflicts + result.broken)}")
            print(f"again: make simulate SEED={result.seed} RUNS=1 FAILOVERS={arguments.failovers}")
            return 1
    seconds = time.monotonic() - began
    print(f"seeds {seed} to {seed + arguments.runs - 1}: {total['failovers']} failovers, {total['sent']} votes sent, "
          f"{total['slots']} slots, 0 violations, {seconds:.0f} s: {60 * total['failovers'] / seconds:.0f} a minute")  # fmt: skip
    for what, count in sorted(counts.items()):
        print(f"  {what:<66} {count}")
    print(f"  rows of the tables of voter and leader not met: {', '.join(unvisited(visited)) or 'none'}")
    print(f"  faults that struck too seldom: {'; '.join(missing(counts, total['failovers'])) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
