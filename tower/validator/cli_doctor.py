"""`openos-validator doctor`: looks at everything a validator depends on, and says what to type where something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tower.validator.cli_run import run
from tower.validator.config import Exit

if TYPE_CHECKING:
    from tower.validator.doctor import Finding

__all__ = ["doctor"]


@click.command("doctor", short_help="Say what is wrong with etcd, certificates, keys, clock, RPC and account, and the fix.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option(
    "--measure-writes", is_flag=True,
    help="Time fenced writes to scratch keys of etcd below doctor/, which are removed. Without it nothing is written.",
)
@click.option(
    "--timeout", type=click.FloatRange(0.1, 60), default=5.0, show_default=True, metavar="SECONDS",
    help="How long one question may take.",
)  # fmt: skip
def doctor(output: str, strict: bool, measure_writes: bool, timeout: float, ledger: Path, **flags: Any) -> int:
    """Look at everything that this validator depends on; takes the flags of run, and starts nothing.

    etcd's releases, members, alarms, quota, compaction, disks and latency; certificates, key files, folders, clocks; the
    cluster's RPC, the vote account and who may vote; the stored tower. Exit status 1 if something fails.

    Without --identity and --vote-account only etcd is looked at, so it runs on a machine of etcd too.
    """
    import dataclasses
    import json

    from tower.validator.doctor import Level, describe, worst
    from tower.validator.doctor_gather import examine
    from tower.validator.preflight import RunOptions

    known = {field.name for field in dataclasses.fields(RunOptions)}
    options = RunOptions(ledger=str(ledger), **{name: value for name, value in flags.items() if name in known})
    if options == RunOptions(ledger=str(ledger)):
        raise click.UsageError("nothing to look at: give the flags of run, or those of etcd")
    done = examine(options, timeout=timeout, write=measure_writes)
    if output == "json":
        etcd = None if done.etcd is None else dataclasses.asdict(done.etcd.survey)
        click.echo(json.dumps(describe(done.findings) | {"etcd": etcd}, indent=2))
    else:
        _print(done.findings, "" if done.etcd is None else done.etcd.tls)
    level = worst(done.findings)
    if level is Level.FAIL or (strict and level is Level.WARN):
        wrong = [each for each in done.findings if each.level is Level.FAIL or (strict and each.level is Level.WARN)]
        checks = ", ".join(dict.fromkeys(each.check for each in wrong))
        click.echo(f"Error: {len(wrong)} of {len(done.findings)} findings need work: {checks}", err=True)
        return Exit.REFUSED
    return Exit.OK


# what does not matter here, like --log, is taken all the same: `doctor` before the flags of a unit file must work
doctor.params += [option for option in run.params if option.name not in {each.name for each in doctor.params}]


def _print(findings: Sequence[Finding], tls: str) -> None:
    """A table, and below it what to type, unbroken so that it can be copied."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tower.validator.doctor import Level

    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    console = Console(highlight=False)
    table = Table("", "", "check", "found", box=box.SIMPLE_HEAD, pad_edge=False)
    wrong = [finding for finding in findings if finding.level is not Level.OK]
    for finding in findings:
        number = str(wrong.index(finding) + 1) if finding in wrong else ""
        found = Text(finding.found, overflow="fold")
        if finding.why:
            found.append(f"\n{finding.why}", "dim")
        table.add_row(number, Text(finding.level.value, styles[finding.level]), finding.check, found)
    console.print(table)
    if not wrong:
        return
    console.print("What to type:")
    lines = [(at, line.replace(tls, "$TLS") if tls else line) for at, each in enumerate(wrong, 1) for line in each.type]
    if any("$TLS" in line for _, line in lines):
        console.print(Text(f'    TLS="{tls}"'), soft_wrap=True)
    for at, line in lines:
        console.print(Text(f"{at:>2}  {line}"), soft_wrap=True)
