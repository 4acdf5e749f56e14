"""The report of the benchmarks: what it makes of a run, and that what is written down agrees with the results it came from."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import report, results
from benchmarks.measure import Here, Sample, in_turns, interleaved
from benchmarks.peers.pipe import Peer, PeerFailed, Turn
from benchmarks.plots import draw, file_of, plots_of

SAMPLE = {"rounds": 3, "min": 1e-5, "q1": 2e-5, "median": 3e-5, "q3": 4e-5, "p99": 5e-5, "max": 6e-5}
NO_TARGET = {"at_most": None, "at_least": None}


def row(**given):
    made = {"table": "codec", "what": "", "ours": SAMPLE, "against": "", "other": None, "ratio": None, "unit": "x", "note": ""}
    return {**made, **NO_TARGET, **given}


ROWS = [
    row(what="slow | thing", against="a raw exchange", other=SAMPLE, ratio=1.2345678, at_most=1.15),
    row(what="quick thing", against="one signature", other=SAMPLE, ratio=0.0312, at_most=0.04, unit="sig"),
    row(what="twin", against="the readable twin", other=SAMPLE, ratio=120.0, at_least=100),
    row(what="without a target", note="for the scale"),
]
FIGURES = [
    {"table": "memory", "what": "held", "value": 130.5, "unit": "MB", "at_most": 120, "at_least": None, "note": ""},
    {"table": "memory", "what": "votes missed", "value": 0, "unit": "votes", "at_most": 0, "at_least": None, "note": ""},
]
LINE = {"plot": "a plot, of a kind", "name": "ours", "x_label": "ms", "y_label": "share of the calls", "log": False}


def run(full=True, series=()):
    info = {"full": full, "seed": 7, "rows": ROWS, "figures": FIGURES, "series": list(series)}
    commit = {"id": "0123456789abcdef", "dirty": True}
    return {"datetime": "2026-01-02T03:04:05", "commit_info": commit, "benchmarks": [{"extra_info": info}]}


def made(**given):
    return results.merge({}, {"kernel": "Linux"}, [results.condense(run(**given), "codec", 61.2)])


def test_a_run_becomes_tables_that_call_a_missed_target_missed():
    text = report.page(made())
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    slow = next(line for line in text.splitlines() if line.startswith("| slow \\| thing"))
    assert "| 1.24 x | <= 1.15 x | missed |" in slow or "| 1.23 x | <= 1.15 x | missed |" in slow
    assert "| 0.0312 sig | <= 0.04 sig | reached |" in lines["quick thing"]
    assert "| 120 x faster | >= 100 x faster | reached |" in lines["twin"]
    assert "30 µs (20 µs to 40 µs)" in lines["without a target"]
    assert "missed" not in lines["without a target"]
    assert "| 130 MB | <= 120 | missed |" in lines["held"] or "| 131 MB | <= 120 | missed |" in lines["held"]
    assert "| 0 votes | <= 0 | reached |" in lines["votes missed"]
    assert "Of 5 targets 3 were reached and 2 missed." in text
    assert "- missed: memory, held: 13" in text
    assert "0123456789ab with changes on top | 2026-01-02 | 61 s | 7 |" in text
    assert text.index("What these numbers are not") < text.index("| --- |")


def test_a_reason_stands_where_a_target_is_missed_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(report, "FLOORS", {"memory": "Why it holds so much.", "store": "Why it is slow."})
    text = report.page(made())
    assert "**Memory.** Why it holds so much.\n" in text
    assert "Why it is slow." not in text


def test_what_follows_on_a_case_is_called_after_each_of_its_turns_and_never_timed():
    order = []
    cases = {"one": lambda: order.append("one"), "two": lambda: order.append("two")}
    taken = interleaved(cases, rounds=2, after={"two": lambda: order.append("after")})
    assert order == ["one", "two", "after", "one", "two", "after", "two", "after", "one"]
    assert {name: len(sample.seconds) for name, sample in taken.items()} == {"one": 2, "two": 2}


def test_smoke_runs_and_empty_runs_give_no_report(tmp_path, capsys):
    with pytest.raises(results.NotAFullRun, match="TOWER_BENCH=full"):
        results.condense(run(full=False), "codec", 1)
    with pytest.raises(results.NotAFullRun, match="no benchmark in it"):
        results.condense({**run(), "benchmarks": []}, "codec", 1)
    smoke = tmp_path / "codec.json"
    smoke.write_text(json.dumps(run(full=False)))
    assert report.main([str(smoke)]) == 1
    assert "smoke tests" in capsys.readouterr().err


def test_a_topic_takes_the_place_of_its_earlier_run_and_of_no_other():
    earlier = results.merge({}, {}, [{"topic": "store", "rows": [1]}, {"topic": "codec", "rows": [2]}])
    later = results.merge(earlier, {"kernel": "new"}, [{"topic": "codec", "rows": [3]}])
    assert [(topic["topic"], topic["rows"]) for topic in later["topics"]] == [("codec", [3]), ("store", [1])]
    assert later["surroundings"] == {"kernel": "new"}


def test_results_are_written_a_line_an_entry_and_read_back():
    found = made(series=[{**LINE, "x": [1.0, 2.0], "y": [0.1, 0.9]}])
    text = results.dump(found)
    assert json.loads(text) == found
    assert sum('"what"' in line for line in text.splitlines()) == len(ROWS) + len(FIGURES)
    assert '"ratio":1.235' in text, "four digits"


def test_plots_depend_on_their_data_alone(tmp_path):
    pytest.importorskip("matplotlib")
    points = [index / 200 for index in range(1, 201)]
    found = made(series=[{**LINE, "x": points, "y": points}, {**LINE, "name": "theirs", "x": points, "y": points[::-1]}])
    ((plot, lines),) = plots_of(found).items()
    assert len(lines[0]["x"]) <= 70
    assert lines[0]["x"][-1] == 1.0
    first = draw(plot, lines, tmp_path)
    once = first.read_bytes()
    assert first.name == file_of(plot) == "bench-a-plot-of-a-kind.svg"
    assert draw(plot, lines, tmp_path).read_bytes() == once
    assert b"dc:date" not in once
    assert f"images/{first.name}" in report.page(found)


def test_the_page_and_the_readme_say_what_the_results_say():
    found = results.load()
    assert report.PAGE.read_text() == report.page(found)
    assert all((report.IMAGES / file_of(plot)).is_file() for plot in plots_of(found))
    text = report.README.read_text()
    assert report.with_table(text, report.readme_table(found)) == text
    with pytest.raises(ValueError, match="no place for the figures"):
        report.with_table("", "")


PEER = """
import json, sys
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "end":
        sys.exit("told to end")
    print(json.dumps({"nanoseconds": [1000.0] * (command["calls"] - command.get("short", 0))}), flush=True)
"""


def test_a_peer_in_another_process_takes_its_turns():
    called = []
    with Peer([sys.executable, "-c", PEER]) as peer:
        turn = Turn(peer, do="work")
        taken = in_turns({"here": Here(lambda: called.append(1)), "there": turn}, rounds=3, calls=4)
        assert taken["there"] == Sample((1e-06,) * 12)
        assert len(taken["here"].seconds) == 12
        assert turn.calls == len(called) == 2 + 3 * 5
        with pytest.raises(PeerFailed, match="timed 1 calls in place of 3"):
            Turn(peer, do="work", short=2).take(3)
        with pytest.raises(PeerFailed, match="told to end"):
            peer.ask(do="end")


def test_an_unknown_topic_is_named():
    command = [sys.executable, "-m", "benchmarks.run", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=report.ROOT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("no topic nothing: there are codec,")
