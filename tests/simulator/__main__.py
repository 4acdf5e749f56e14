"""`python -m tests.simulator --seed N --failovers N [--runs N]`: exit status 1 if anything was violated."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.simulator.run import simulate, unvisited


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the others follow it")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--failovers", type=int, default=200, help="in each run")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    began, total, visited, counts = time.monotonic(), Counter(), Counter(), Counter()
    for number in range(arguments.runs):
        result = simulate(seed + number, arguments.failovers)
        total.update(failovers=result.failovers, sent=result.sent, slots=result.slots)
        visited.update(result.visited)
        counts.update(result.counts)
        if result.conflicts or result.broken:
            print(f"seed {result.seed}: {'; '.join(result.conflicts + result.broken)}")
            print(f"again: make simulate SEED={result.seed} RUNS=1 FAILOVERS={arguments.failovers}")
            return 1
    seconds = time.monotonic() - began
    print(f"seeds {seed} to {seed + arguments.runs - 1}: {total['failovers']} failovers, {total['sent']} votes sent, "
          f"{total['slots']} slots, 0 violations, {seconds:.0f} s")  # fmt: skip
    for what, count in sorted(counts.items()):
        print(f"  {what:<32} {count}")
    print(f"  rows of the voter's table not met: {', '.join(unvisited(visited)) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
