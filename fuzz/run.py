"""The command: each target for a while, one after the other, and what came of it.

    python -m fuzz.run                            all targets, 60 seconds each
    python -m fuzz.run --target admin --seconds 600
    python -m fuzz.run --target tower --input 0100    one input again (hex, or @file)

A crash prints the input as hex with the command that repeats it; the exit status is 1. What guided runs keep of their
inputs stays in build/fuzz, and the next run begins with it. The table at the end is Markdown, for docs/fuzzing.md.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fuzz.corpus import TOKENS, seeds
from fuzz.native import run_native
from fuzz.targets import MAX_BYTES, TARGETS

__all__ = ["Report", "guided", "main", "native", "repeat"]

ROOT = Path(__file__).parents[1]
NATIVE = "native"
INPUT_SECONDS_MAX = 10  # one input that takes longer is a hang
MEMORY_MB_MAX = 512
ENDING_S = 60  # beyond its time a child has this long to end
HUNG = -1
NATIVE_MAX = 1 << 40  # executions; the time ends a run


@dataclass(frozen=True, slots=True)
class Report:
    """What one target's run did. `crash` is the text for the reader, `None` where nothing was found."""

    target: str
    seed: int
    executions: int
    seconds: float
    branches: int | None = None  # reached in `tower`; a native run does not count them
    memory_mb: int | None = None
    crash: str | None = None

    def row(self) -> str:
        branches, memory = ("" if number is None else str(number) for number in (self.branches, self.memory_mb))
        rate = round(self.executions / self.seconds) if self.seconds else 0
        crashes = 0 if self.crash is None else 1
        return (
            f"| {self.target} | {self.executions:,} | {self.seconds:.0f} | {rate:,} | {branches} | {memory} | {crashes} "
            f"| {self.seed} |"
        )


HEAD = "| target | executions | seconds | per second | branches | MB | crashes | seed |\n|---|---|---|---|---|---|---|---|"


def _how_to_repeat(target: str, data: bytes) -> str:
    return f"input ({len(data)} bytes): {data.hex()}\nagain: {sys.executable} -m fuzz.run --target {target} --input {data.hex()}"


def _dictionary(tokens: tuple[bytes, ...]) -> str:
    return "".join('"{}"\n'.format("".join(f"\\x{byte:02x}" for byte in token)) for token in tokens if token)


def guided(target: str, seconds: int, seed: int, folder: Path) -> Report:
    """One guided run in a child process, its inputs and log in `folder`."""
    corpus, log = folder / "corpus", folder / "log"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target, random.Random(seed))):
        (corpus / f"seed-{number}").write_bytes(data)
    tokens = folder / "tokens"
    tokens.write_text(_dictionary(TOKENS[target]))
    command = [sys.executable, "-m", "fuzz.guided", target, f"-max_total_time={seconds}", f"-seed={seed or 1}"]
    command += [f"-max_len={MAX_BYTES[target]}", f"-timeout={INPUT_SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MB_MAX}"]
    command += ["-print_final_stats=1", f"-dict={tokens}", f"-artifact_prefix={folder}/crash-", str(corpus)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.monotonic()
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            status = child.wait(seconds + ENDING_S)
        except subprocess.TimeoutExpired:
            status = HUNG
        finally:
            child.kill()  # nothing, where it has ended
            child.wait()
    took = time.monotonic() - began
    text = log.read_text(errors="replace")
    covered = re.findall(r"cov: (\d+)", text)
    return Report(
        target,
        seed,
        _number(r"stat::number_of_executed_units:\s*(\d+)", text),
        took,
        int(covered[-1]) if covered else None,
        _number(r"stat::peak_rss_mb:\s*(\d+)", text),
        _crash(target, status, text, log),
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _crash(target: str, status: int, text: str, log: Path) -> str | None:
    written = re.search(r"Test unit written to (\S+)", text)
    if written:
        return f"{target}: see {log}\n{_how_to_repeat(target, Path(written[1]).read_bytes())}"
    if status == HUNG:
        return f"{target}: did not end {ENDING_S} s after its time; see {log}"
    if status or "stat::number_of_executed_units" not in text:
        return f"{target}: ended with status {status} and left no input behind; see {log}"
    return None


def native(seconds: float, seed: int) -> Report:
    """One native run, in this process."""
    run = run_native(seed, NATIVE_MAX, seconds)
    crash = None
    if run.problem is not None:
        crash = f"{run.name}: {type(run.problem).__name__}: {run.problem}\n{_how_to_repeat(run.name, run.data)}"
    return Report(NATIVE, seed, run.executions, run.seconds, crash=crash)


def repeat(target: str, data: bytes) -> int:
    """Run one input, and let what it raises through."""
    print(f"{target}: {'accepted' if TARGETS[target](data) else 'refused'}, no rule broken")
    return 0


def _input(text: str) -> bytes:
    try:
        return Path(text[1:]).read_bytes() if text.startswith("@") else bytes.fromhex(text)
    except OSError as problem:
        raise argparse.ArgumentTypeError(f"{text[1:]}: {problem.strerror}; give hex digits, or @file") from None
    except ValueError:
        raise argparse.ArgumentTypeError("not hex digits; give those, or @file") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz.run", description="Run the fuzz targets; docs/fuzzing.md")
    parser.add_argument("--target", choices=[*TARGETS, NATIVE], help="one target; default: all of them")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is printed")
    parser.add_argument("--input", type=_input, help="run this one input of --target again: hex, or @file")
    asked = parser.parse_args(arguments)
    if asked.seconds < 1:
        parser.error("--seconds: at least 1")
    if asked.input is not None:
        if asked.target not in TARGETS:
            parser.error("--input: name its target with --target, one of " + ", ".join(TARGETS))
        return repeat(asked.target, asked.input)
    if importlib.util.find_spec("atheris") is None and asked.target != NATIVE:
        parser.error("guided runs need atheris: make fuzz, or pip install 'tower[fuzz]' (CPython 3.11 to 3.13)")
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1, 1 << 31)
    reports = []
    for target in [asked.target] if asked.target else [*TARGETS, NATIVE]:
        print(f"{target}: {asked.seconds} seconds, seed {seed}", flush=True)
        if target == NATIVE:
            reports.append(native(asked.seconds, seed))
        else:
            reports.append(guided(target, asked.seconds, seed, ROOT / "build" / "fuzz" / target))
    print("\n".join([HEAD, *(report.row() for report in reports)]))
    crashes = [report.crash for report in reports if report.crash is not None]
    for crash in crashes:
        print(f"\nCRASH {crash}")
    return 1 if crashes else 0


if __name__ == "__main__":
    faulthandler.enable()  # a crash of the native run takes this process with it; its seed, printed, makes the same inputs again
    sys.exit(main())
