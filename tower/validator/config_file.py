"""`--config FILE`: a TOML file that says the same as the flags.

A key is a flag without its dashes, a value is what the flag takes: a string, a number, `true` for a switch, a list for a
flag that may be repeated. What stands on the command line wins. The file is written for `run`; other commands take from it the
flags that they have, so that one file serves a whole machine. Paths in it mean what they mean on the command line.

    identity = "validator-keypair.json"
    tower-storage = "etcd"
    etcd-endpoint = ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]
    require-tower = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tower.errors import InvalidInput

__all__ = ["config_option", "read_config"]

SIZE_MAX = 1 << 20
NOT_IN_FILE = {"config", "help"}

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """Give a command `--config`."""
    option = click.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_use,
        help="TOML file with flags; the command line wins.",
    )
    return option(command)


def _use(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None or ctx.resilient_parsing:
        return
    from tower.validator.cli_run import run

    known, own = _options(run), _options(ctx.command)
    values = read_config(Path(path), known | own)
    # a flag that this command does not have is for another one
    mine = {own[key].name: value for key, value in values.items() if key in own}
    ctx.default_map = {**(ctx.default_map or {}), **mine}


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by their long names, without the dashes."""
    found = {}
    for option in command.params:
        if isinstance(option, click.Option):
            for name in option.opts:
                if name.startswith("--") and name[2:] not in NOT_IN_FILE:
                    found[name[2:]] = option
    return found


def read_config(path: Path, options: dict[str, click.Option]) -> dict[str, Any]:
    """The values in `path` by flag. Raises `InvalidInput`, one line that names the file and the key."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise InvalidInput(f"--config: unable to read {path}: {reason}") from None
    if len(data) > SIZE_MAX:
        raise InvalidInput(f"--config: {path} is larger than {SIZE_MAX} bytes: not a configuration")
    try:
        tables = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InvalidInput(f"--config: {path} is not TOML: {problem}") from None
    values = {key: _value(path, key, value, options) for key, value in tables.items()}
    return {key: value for key, value in values.items() if value is not None}


def _value(path: Path, key: str, value: Any, options: dict[str, click.Option]) -> Any:
    """The value of one flag; `None` leaves it out."""
    option = options.get(key)
    if option is None:
        raise InvalidInput(f"--config: {path}: {key}: there is no flag --{key}{_nearest(key, options)}")
    if option.is_flag:
        if not isinstance(value, bool):
            raise InvalidInput(f"--config: {path}: {key}: expected true or false")
        given = option.flag_value if isinstance(option.flag_value, bool) else True  # False for a `--no-` flag
        return given if value else None
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not option.multiple:
        raise InvalidInput(f"--config: {path}: {key}: expected one value, --{key} cannot be repeated")
    kinds: tuple[type, ...] = (str,)
    what = "a string"
    if isinstance(option.type, click.types.IntParamType):
        kinds, what = (int,), "a whole number"
    elif isinstance(option.type, click.types.FloatParamType):
        kinds, what = (int, float), "a number"
    for one in values:
        if isinstance(one, bool) or not isinstance(one, kinds):
            raise InvalidInput(f"--config: {path}: {key}: expected {what}")
        try:
            option.type.convert(one, option, None)
        except click.BadParameter as problem:
            raise InvalidInput(f"--config: {path}: {key}: {problem.message}") from None
    return values if option.multiple else value


def _nearest(key: str, options: dict[str, click.Option]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, options, 1)
    return f"; did you mean {near[0]}?" if near else ""
