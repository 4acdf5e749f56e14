"""One coverage-guided run of one target: the child process that `fuzz.run` starts, with libFuzzer's own flags.

Atheris instruments the Python of `tower`, so its feedback is the branches taken there. The compiled module gives none;
its readable twin does, and every input that reaches a new branch of the twin goes through both (targets `tower` and
`instruction`).
"""

from __future__ import annotations

import os
import sys
import tempfile

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["tower"]):
    from fuzz.targets import TARGETS


def main() -> None:
    name, *flags = sys.argv[1:]
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        target(data)

    folder = tempfile.mkdtemp()  # empty, so that a path that an input names leads nowhere
    os.chdir(folder)
    os.rmdir(folder)
    atheris.Setup([sys.argv[0], *flags], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
