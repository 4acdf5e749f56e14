"""A configuration file says what the flags say: same values, same refusals, and the command line wins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tower.errors import InvalidInput
from tower.validator.cli import cli, main
from tower.validator.cli_run import run
from tower.validator.config_file import config_option, read_config

ALL = """
identity = "node.json"
vote-account = "vote.json"
authorized-voter = ["a.json", "b.json"]
no-voting = true
tower-storage = "etcd"
etcd-endpoint = ["10.0.0.1:2379", "10.0.0.2:2379"]
etcd-domain-name = "etcd.internal"
no-check-vote-account = true
store-timeout = 2
rebuild-wait-slots = 300
ledger = "/var/lib/ledger"
"""
FLAGS = (
    "--identity node.json --vote-account vote.json --authorized-voter a.json --authorized-voter b.json --no-voting"
    " --tower-storage etcd --etcd-endpoint 10.0.0.1:2379 --etcd-endpoint 10.0.0.2:2379 --etcd-domain-name etcd.internal"
    " --no-check-vote-account --store-timeout 2 --rebuild-wait-slots 300 --ledger /var/lib/ledger"
)


def parsed(line: str) -> dict[str, Any]:
    """What `run` would get."""
    return run.make_context("run", line.split()).params


def test_a_file_is_equal_to_its_flags(tmp_path: Path):
    file = tmp_path / "all.toml"
    file.write_text(ALL)
    assert parsed(f"--config {file}") == parsed(FLAGS)
    assert parsed(FLAGS) != parsed("")


def test_the_command_line_wins(tmp_path: Path):
    file = tmp_path / "all.toml"
    file.write_text(ALL)
    got = parsed(f"--config {file} --store-timeout 4 --etcd-endpoint 10.0.0.9:2379")
    assert (got["store_timeout"], got["etcd_endpoints"]) == (4.0, ("10.0.0.9:2379",))
    assert got["identity"] == "node.json"


def test_a_switch_that_is_false_is_left_out(tmp_path: Path):
    file = tmp_path / "off.toml"
    file.write_text("no-voting = false\nno-check-vote-account = false\n")
    assert parsed(f"--config {file}") == parsed("")


def test_every_flag_of_run_can_stand_in_a_file(tmp_path: Path):
    """One that could not would be a flag without an equal."""
    for option in run.params:
        assert isinstance(option, click.Option)
        name = option.opts[0][2:]
        if name in ("config", "help"):
            continue
        if option.is_flag:
            value = "true"
        elif isinstance(option.type, click.Choice):
            value = f'"{option.type.choices[0]}"'
        else:
            value = "7" if option.type.name.removesuffix(" range") in ("integer", "float") else '"x"'
        file = tmp_path / f"{name}.toml"
        file.write_text(f"{name} = {value}\n")
        text = "" if option.is_flag else value.strip('"')
        assert parsed(f"--config {file}") == parsed(f"--{name} {text}"), name


def test_another_command_takes_what_it_has_and_leaves_the_rest(tmp_path: Path):
    @click.command()
    @click.option("--ledger")
    @click.option("--other", type=int)
    @config_option
    def command(**_: Any) -> None: ...

    file = tmp_path / "all.toml"
    file.write_text(ALL + "other = 5\n")
    assert command.make_context("command", ["--config", str(file)]).params == {"ledger": "/var/lib/ledger", "other": 5}


BAD = [
    ("identity = ", r".*bad.toml is not TOML: .*"),
    ("idenity = 'x'", r".*: idenity: there is no flag --idenity; did you mean identity\?"),
    ("config = 'x'", r".*: config: there is no flag --config"),
    ("[etcd]\nendpoint = 'x'", r".*: etcd: there is no flag --etcd.*"),
    ("no-voting = 'yes'", r".*: no-voting: expected true or false"),
    ("identity = ['a', 'b']", r".*: identity: expected one value, --identity cannot be repeated"),
    ("identity = 5", r".*: identity: expected a string"),
    ("store-timeout = '5'", r".*: store-timeout: expected a number"),
    ("rebuild-wait-slots = 1.5", r".*: rebuild-wait-slots: expected a whole number"),
    ("etcd-endpoint = ['a:1', 7]", r".*: etcd-endpoint: expected a string"),
    ("tower-storage = 'disk'", r".*: tower-storage: 'disk' is not one of 'file', 'etcd'.*"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text.split("\n")[0] for text, _ in BAD])
def test_what_is_wrong_is_one_line_with_file_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert main(["run", "--config", str(file)]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(f"Error: --config: {message}\n", said), said


@pytest.mark.parametrize("path", ["no.toml", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=f"--config: unable to read {re.escape(path)}: "):
        read_config(Path(path), {})


def test_a_huge_or_binary_file_is_no_configuration(tmp_path: Path):
    file = tmp_path / "huge.toml"
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidInput, match="larger than 1048576 bytes"):
        read_config(file, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="is not TOML"):
        read_config(file, {})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str):
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_OPENOS_VALIDATOR_COMPLETE" in done.output
    assert "openos-validator" in done.output


def completed(words: str) -> list[str]:
    """What bash would offer for the last word of `words`."""
    from click.shell_completion import get_completion_class

    bash = get_completion_class("bash")
    assert bash is not None
    *args, last = words.split(" ")
    return [item.value for item in bash(cli, {}, "openos-validator", "X").get_completions(args, last)]


def test_commands_and_flags_are_completed():
    assert completed("set-") == ["set-identity", "set-log-filter"]
    assert "--etcd-endpoint" in completed("--etcd-")
    assert "--etcd-endpoint" in completed("run --etcd-")
    assert completed("set-identity --req") == ["--require-tower"]
    assert "etcd" in completed("--tower-storage e")
    assert "inspect" in completed("tower ")
