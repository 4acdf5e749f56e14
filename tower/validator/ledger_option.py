"""`--ledger`, which every command of `openos-validator` takes."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["ledger_option"]

ledger_option = click.option(
    "--ledger",
    "-l",
    type=click.Path(path_type=Path),
    default=Path("ledger"),
    show_default=True,
    metavar="DIR",
    help="Folder of the validator: admin socket, lock, tower.",
)
