"""The plots of the report, as small SVG files that depend on their data alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw", "file_of", "plots_of"]

LEGEND_MAX = 12
LOG_FROM = 8  # times between the smallest and the largest value on a plot of distributions
SHARES = "share of the calls"


def file_of(plot: str) -> str:
    """The file name of a plot.

    >>> file_of("latency of a store, by identities")
    'bench-latency-of-a-store-by-identities.svg'
    """
    return f"bench-{re.sub(r'[^a-z0-9]+', '-', plot.lower()).strip('-')}.svg"


def plots_of(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Every plot with its lines, in the order in which they were written down."""
    plots: dict[str, list[Mapping[str, Any]]] = {}
    for topic in results["topics"]:
        for line in topic["series"]:
            plots.setdefault(line["plot"], []).append(line)
    return plots


def _axes(axes: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    first = lines[0]
    axes.set_xlabel(first["x_label"])
    steps = first["y_label"].split(" / ")
    if len(steps) > 1:  # steps of a course in place of numbers
        axes.set_yticks(range(len(steps)), steps)
        axes.invert_yaxis()
    else:
        axes.set_ylabel(first["y_label"])
    if first["log"]:
        axes.set_xscale("log")
        axes.set_yscale("log")
    elif first["y_label"] == SHARES:
        values = [value for line in lines for value in line["x"] if value > 0]
        if values and max(values) > LOG_FROM * min(values):
            axes.set_xscale("log")


def draw(plot: str, lines: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write the plot into `folder`. Needs matplotlib (the extra `bench`)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": plot, "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
        for line in lines:
            few = len(line["x"]) <= 20
            axes.plot(line["x"], line["y"], label=line["name"], linewidth=1.2, marker="." if few else "")
        _axes(axes, lines)
        axes.set_title(plot)
        axes.grid(visible=True, alpha=0.3, linewidth=0.5)
        if 1 < len(lines) <= LEGEND_MAX:
            axes.legend(frameon=False, fontsize=8)
        path = folder / file_of(plot)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return path
