"""Writes docs/mistakes.md: what an operator typed wrong, and what the real program said. `python -m tests.mistakes --write`.

Rows are those of the tests of bad input that `ROWS` picks and words; each is run anew, and the table holds what came out.
`tests/validator/test_mistakes.py` holds the page to the same runs.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.validator import test_bad_input as run_cases
from tests.validator import test_bad_input_look as look_cases
from tower.validator.certs import make_certificates

__all__ = ["PAGE", "ROWS", "Row", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"
Fill = Callable[[Path, Path], Path]

HEAD = """\
# Mistakes

What the program says when something was typed wrong, as real runs gave it: one line on stderr that names what is wrong
and the fix, an [exit status](operations.md#exit-statuses-of-openos-validator), and nothing changed on disk. A test writes
this table (`python -m tests.mistakes --write`) and holds it to what the program does.

In it, `node.json` and `other.json` are keypair files, `certs` is a folder of certificates, `towers` a file store in which
`primary` holds the fence of `node.json` with votes for 10 and 11, `good.bin` that tower, `older.bin`, `newer.bin` and
`torn.bin` what their names say, and `ETCD` stands for `--identity node.json --tower-storage etcd` with its certificates and
`--etcd-endpoint 127.0.0.1:2379`. `ADDRESS` stands for an identity.

| mistake | what is typed after `openos-validator` | exit status | what it says |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A mistake in words, and the line that makes it: one of the `CASES` of `module`."""

    mistake: str
    line: str
    module: object = run_cases


LOOK = look_cases
ROWS = (
    Row("no identity", ""),
    Row("an identity file that is not there", "--identity no.json"),
    Row("a folder as identity", "--identity certs"),
    Row("a keypair file that is cut", "--identity short.json"),
    Row("some other file as keypair", "--identity text.json"),
    Row("a keypair whose halves do not belong together", "--identity swapped.json"),
    Row("a name in place of a vote account", "--identity node.json --vote-account nobody"),
    Row("a URL without its scheme", "--identity node.json --url 127.0.0.1:8899"),
    Row("a file as ledger folder", "--identity node.json --ledger node.json"),
    Row("etcd without its certificates", "--identity node.json --tower-storage etcd"),
    Row("a certificate file that is not there", f"{run_cases.ETCD} --etcd-cacert-file no.pem"),
    Row("some other file as certificate", f"{run_cases.ETCD} --etcd-cert-file node.json"),
    Row("another certificate's key", f"{run_cases.ETCD} --etcd-key-file certs/etcd-key.pem"),
    Row("an endpoint without its port", f"{run_cases.ETCD} --etcd-endpoint localhost"),
    Row("an endpoint written as URL", f"{run_cases.ETCD} --etcd-endpoint https://127.0.0.1:2379"),
    Row("a store that does not exist", "--identity node.json --tower-storage zookeeper"),
    Row("a flag that does not exist", "--identity node.json --no-such-flag"),
    Row("a flag without its value", "--identity"),
    Row("a word too many", "--identity node.json surplus"),
    Row("`set-identity` with a file that is not there", "set-identity no.json"),
    Row("`set-identity` with nothing", "set-identity"),
    Row("`set-identity` where no validator runs", "set-identity node.json"),
    Row("another ledger folder than the validator's", "--ledger elsewhere monitor"),
    Row("`exit` where no validator runs", "exit -f"),
    Row("a share above 100 %", "wait-for-restart-window --max-delinquent-stake 101"),
    Row("a tower file that is torn", "tower inspect torn.bin"),
    Row("some other file as tower", "tower inspect node.json"),
    Row("certificates over existing ones", "certs make --dir certs"),
    Row("a host name with a wrong character", "certs make --dir new --host bad_host!"),
    Row("a store folder that is not there", "status --tower no", LOOK),
    Row("an identity that is neither address nor file", "status nobody --tower towers", LOOK),
    Row("etcd's flags for the file store", "status --tower towers --etcd-endpoint 127.0.0.1:1", LOOK),
    Row("etcd without an endpoint", f"list {LOOK.ETCD}", LOOK),
    Row("a vote account without a cluster to ask", f"status --tower towers --vote-account {LOOK.OTHER.address}", LOOK),
    Row("a form of output that does not exist", "status --tower towers --output yaml", LOOK),
    Row("a tower of another identity", "tower verify good.bin --identity other.json", LOOK),
    Row("a torn tower to be loaded", "tower verify torn.bin --identity node.json", LOOK),
    Row("export of what is not stored", "tower export out.bin --identity other.json --tower towers", LOOK),
    Row("export over a file", "tower export good.bin --identity node.json --tower towers", LOOK),
    Row("export over a newer tower", "tower export newer.bin --force --identity node.json --tower towers", LOOK),
    Row("import with an address", f"tower import newer.bin --identity {LOOK.NODE.address} --tower towers", LOOK),
    Row("import while somebody holds the fence", "tower import newer.bin --identity node.json --tower towers", LOOK),
    Row("import of an older tower", "tower import older.bin --identity node.json --tower towers --take-fence", LOOK),
    Row(
        "going back without a cluster to count slots",
        "tower import older.bin --identity node.json --tower towers --take-fence --replace-stored 11",
        LOOK,
    ),
    Row("import of another identity's tower", "tower import good.bin --identity other.json --tower towers", LOOK),
)


def page(folder: Path, rows: Sequence[Row] = ROWS) -> str:
    """The page, from runs in `folder`, which is empty; each run gets a folder of its own there."""
    make_certificates(folder / "certificates")

    def ran(numbered: tuple[int, Row]) -> str:
        number, row = numbered
        own = folder / f"run-{number}"
        own.mkdir()
        row.module.folder.__wrapped__(own, folder / "certificates")  # type: ignore[attr-defined]
        status, _, said = run_cases.program(own, row.line)
        typed = _code(_short(row.line)) if row.line else "nothing"
        return f"| {row.mistake} | {typed} | {status} | {_code(_plain(said, own))} |\n"

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return HEAD + "".join(pool.map(ran, enumerate(rows)))


def _plain(said: str, folder: Path) -> str:
    """One line, without what differs from run to run: the folder, addresses, the number of an inode or a process."""
    text = said.removesuffix("\n").replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    return _addresses(text)


def _short(line: str) -> str:
    return _addresses(line.replace(run_cases.ETCD, "ETCD"))


def _addresses(text: str) -> str:
    return re.sub(r"\b[1-9A-HJ-NP-Za-km-z]{32,44}\b", "ADDRESS", text)


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def _changes(old: str, new: str) -> Iterator[str]:
    known = set(old.splitlines())
    yield from (line for line in new.splitlines() if line not in known)


def main(arguments: Sequence[str]) -> int:
    """`--write` writes the page; without it, exit status 1 if it is not what the runs give."""
    with tempfile.TemporaryDirectory() as folder:
        new = page(Path(folder))
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    for line in _changes(old, new):
        print(line)
    if "--write" in arguments:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
