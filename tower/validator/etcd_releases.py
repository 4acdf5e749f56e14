"""Which releases of etcd lose data or serve stale reads. Pure.

From etcd's own changelogs and its postmortem of the 3.5 data inconsistency (2022).
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["GOOD", "KEEPS_ROLES", "Verdict", "Version", "judge", "keeps_roles", "parse_version"]

Version = tuple[int, int, int]

GOOD = "3.5.28, 3.6.9, 3.7.0"
STALE = "a linearizable read may be stale after a pause or a change of leader (etcd issue 20418)"
SNAPSHOT = "data may be corrupted where a snapshot arrives during a defragmentation (etcd issue 20271)"
SINGLE = "a single member may lose a confirmed write when it crashes (etcd issue 14370)"
# (first release that has it, first that has not, what it is); the worst come first
DEFECTS: tuple[tuple[Version, Version, str], ...] = (
    ((0, 0, 0), (3, 4, 0), "unmaintained since years"),
    ((3, 4, 0), (3, 4, 8), "a member may corrupt its data (etcd pull 11652)"),
    ((3, 5, 0), (3, 5, 3), "a member may lose data when it crashes under load, unnoticed (etcd's 3.5 postmortem)"),
    ((3, 4, 20), (3, 4, 42), STALE),
    ((3, 5, 0), (3, 5, 28), STALE),
    ((3, 6, 0), (3, 6, 9), STALE),
    ((3, 4, 0), (3, 4, 38), SNAPSHOT),
    ((3, 5, 0), (3, 5, 23), SNAPSHOT),
    ((3, 6, 0), (3, 6, 5), SNAPSHOT),
    ((3, 4, 0), (3, 4, 21), SINGLE),
    ((3, 5, 0), (3, 5, 5), SINGLE),
)
# the first releases of their lines in which no way around a role is known: several were closed with 3.4.42,
# 3.5.28 and 3.6.9, reads in nested transactions with 3.6.11, a watch that told too much with 3.6.14 and 3.7.1
KEEPS_ROLES = "3.6.14, 3.7.1"
ROLES_KEPT: dict[tuple[int, int], Version] = {(3, 6): (3, 6, 14), (3, 7): (3, 7, 1)}
UNMAINTAINED: Version = (3, 5, 0)  # what is below


class Verdict(NamedTuple):
    """What is known of a release: `refused` where it loses data or serves stale reads."""

    refused: bool
    why: str


def parse_version(text: str) -> tuple[Version, bool] | None:
    """The numbers of a release, and whether it is one before a release.

    >>> parse_version("3.6.0-rc.1"), parse_version("3.5.28"), parse_version("x")
    (((3, 6, 0), True), ((3, 5, 28), False), None)
    """
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})(.*)", text)
    if found is None:
        return None
    return (int(found[1]), int(found[2]), int(found[3])), found[4].startswith("-")


def judge(text: str) -> Verdict | None:
    """What is wrong with a release of etcd; `None` if nothing is known.

    >>> judge("3.5.27").refused, judge("3.4.45").refused, judge("3.5.28"), judge("3.7.0")
    (True, False, None, None)
    """
    parsed = parse_version(text)
    if parsed is None:
        return Verdict(False, "no release that is known here")
    version, early = parsed
    defects = [what for first, fixed, what in DEFECTS if first <= version < fixed or (early and version == fixed)]
    if defects:
        return Verdict(True, "; ".join(defects))
    if early:
        return Verdict(False, "a version before a release")
    if version < UNMAINTAINED:
        return Verdict(False, "etcd 3.4 is unmaintained since 2026-06-01")
    return None


def keeps_roles(text: str) -> bool:
    """Whether no way around a user's role is known in this release; `False` for one that is not known here.

    >>> keeps_roles("3.6.14"), keeps_roles("3.6.13"), keeps_roles("3.5.28"), keeps_roles("3.8.0")
    (True, False, False, True)
    """
    parsed = parse_version(text)
    if parsed is None:
        return False
    version = parsed[0]
    return version >= ROLES_KEPT.get((version[0], version[1]), max(ROLES_KEPT.values()))
