"""What the documents show runs: the embedding example, Python in the documents, links between them, commands that exist."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("store", ["file", "memory"])
def test_the_embedding_example_hands_over_and_fits_a_page(store):
    example = ROOT / "examples" / "embed.py"
    assert len(example.read_text().splitlines()) <= 60
    command = [sys.executable, example, store]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    slots = {
        name: [int(slot) for slot in re.findall(rf"^{name}: vote for slot (\d+)", done.stdout, re.MULTILINE)]
        for name in ("primary", "spare")
    }
    assert slots == {"primary": [1, 2, 3, 4], "spare": [5, 6, 7]}
    assert "another instance has claimed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_the_documents_runs(document):
    known: dict[str, object] = {}  # one namespace a document: its blocks build on each other
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        test = doctest.DocTestParser().get_doctest(block, known, document.name, str(document), 0)
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test, clear_globs=False)
        known = test.globs
        assert runner.summarize(verbose=False) == (0, len(test.examples))
        assert test.examples


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_figure_is_still_to_be_filled_in(document):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    assert re.findall(r"\{[a-z_]+\}|\bTBD\b", text) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_make_targets_and_tests_that_the_documents_name_exist():
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)", text)) <= targets
    for path in re.findall(r"`((?:tests|tower|examples|docs|spec|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
