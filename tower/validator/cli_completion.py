"""`openos-validator completion`: what a shell needs to complete our commands and flags."""

from __future__ import annotations

import click

__all__ = ["completion"]

PROGRAM = "openos-validator"
VARIABLE = "_OPENOS_VALIDATOR_COMPLETE"  # the name that click derives from the program's


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    bash: eval "$(openos-validator completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
    fish: openos-validator completion fish > ~/.config/fish/completions/openos-validator.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"this version of click cannot complete for {shell}")
    click.echo(found(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
