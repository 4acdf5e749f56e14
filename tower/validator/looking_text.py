"""The documents of `tower.validator.looking` as text for people: lines for a log or a pipe, and a page for a terminal.

Columns are as wide as what is in them, never cut, so that an address can be copied and a line can be searched.

>>> duration(0.42), duration(75), duration(3 * 3600 + 120), duration(200_000), duration(None)
('0.4 s', '1 min 15 s', '3 h 02 min', '2 d 7 h', '-')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["LATENCIES_MAX", "columns", "duration", "history_lines", "list_lines", "status_lines", "watch_line", "watch_page"]

KIND_TEXT = {
    "first": "first claim",
    "again": "claimed again",
    "takeover": "took over",
    "import": "tower imported",
    "unnamed": "claimed by a validator that leaves no name",
}
STATE_STYLE = {"held": "bold green", "stale": "bold yellow", "unusable": "bold red", "nobody": "bold red"}
EVENTS_MAX = 8  # claims that `watch` shows
LATENCIES_MAX = 48  # looks whose time `watch` remembers and draws
BARS = "▁▂▃▄▅▆▇█"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _age(persisted: Mapping[str, Any]) -> str:
    """How old a stored vote is. Its timestamp is in whole seconds, so no more is shown."""
    age = persisted.get("age_s")
    return f"{age:.0f} s" if age is not None and age < 60 else duration(age)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand under each other.

    >>> columns([["a", "bb"], ["ccc", "d"]])
    ['a    bb', 'ccc  d']
    """
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _time(text: str | None) -> str:
    """An ISO moment for people, to the second."""
    return "-" if text is None else f"{text[:10]} {text[11:19]}Z"


def _who(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "nobody"
    return holder["who"] or "a validator that leaves no name"


# ------------------------------------------------------------------------------------------------------------- status


def status_lines(said: Mapping[str, Any]) -> list[str]:
    """The document of `status` as lines."""
    lines = _store_lines(said["store"])
    view = said["validator"]
    if view["status"] is not None:
        lines.append(f"validator on {view['ledger']}: {_validator_text(view['status'])}")
    else:
        lines.append(view["why"] or "no validator here")
    for row in said["identities"]:
        lines += ["", *_identity_lines(row)]
    problems = [*said["problems"], *(f"{row['identity']}: {text}" for row in said["identities"] for text in row["problems"])]
    if problems:
        lines += ["", *(f"PROBLEM: {text}" for text in problems)]
    return lines


def _store_lines(store: Mapping[str, Any]) -> list[str]:
    answers = "does not answer" if store["error"] is not None else "answers"
    if store["look_ms"] is not None:
        answers += f" in {store['look_ms']:.1f} ms"
    lines = [f"store {store['kind']} {' '.join(store['places'])}: {answers}"]
    members = [_member_cells(member) for member in store.get("members", [])]
    lines += [f"  {line}" for line in columns(members)]
    lines += [f"  ALARM: {alarm}" for alarm in store.get("alarms", [])]
    for each in store.get("certificates", []):
        lines.append(f"  {each['flag']} expires {_time(each['expires'])}, in {each['days_left']:.0f} days")
    return lines


def _member_cells(member: Mapping[str, Any]) -> list[str]:
    if member["error"] is not None:
        state = f"DOWN: {member['error']}"
    else:
        state = f"{'leader' if member['leader'] else 'follower'}, {member['version']}, {(member['db_bytes'] or 0) / 1e6:.1f} MB"
    return [member["name"] or "-", member["endpoint"], state]


def _validator_text(status: Mapping[str, Any]) -> str:
    voting = "votes" if status.get("voting") else f"does not vote ({status.get('state', '-')})"
    fence = "" if status.get("fence") is None else f" under fence {status['fence']}"
    return f"{voting} as {status.get('identity', '-')}{fence}, last voted slot {_shown(status.get('lastVotedSlot'))}"


def _identity_lines(row: Mapping[str, Any]) -> list[str]:
    holder, persisted, landed = row["holder"], row["persisted"], row["landed"]
    facts = {"holder": "nobody", "fence": "-", "persisted": "-"}
    if holder is not None:
        who = _who(holder)
        if holder["who"] is not None:
            who += f" (host {holder['host'] or '-'}, pid {holder['pid']}) by {holder['why']}"
            who += f", since {_time(holder['since'])}, {duration(holder['held_s'])} ago"
        facts["holder"] = who
        facts["fence"] = f"{row['fence']}, the last of {row['claims']} claim{'s' if row['claims'] != 1 else ''} in the history"
    if persisted is not None:
        votes = f"slot {_shown(persisted['slot'])}, root {_shown(persisted['root'])}, {persisted['lockouts']} lockouts"
        facts["persisted"] = f"{votes}, {_age(persisted)} ago"
    facts["released"] = f"slot {row['released']}" if row["released"] is not None else f"- ({row['released_why']})"
    if landed is not None:
        facts["landed"] = (
            f"slot {_shown(landed['slot'])}, root {_shown(landed['root'])}, {landed['credits']} credits; "
            f"the cluster is at slot {landed['cluster_slot']}"
        )
    else:
        facts["landed"] = f"- ({row['landed_why']})"
    return [f"{row['identity']}: {row['state']}", *(f"  {name + ':':<11}{value}" for name, value in facts.items())]


# ---------------------------------------------------------------------------------------------------- list and history


def list_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line an identity, below a line of names."""
    head = ["IDENTITY", "STATE", "HOLDER", "SINCE", "FENCE", "LAST SLOT", "ROOT"]
    cells = [head]
    for row in rows:
        persisted = row["persisted"] or {}
        since = None if row["holder"] is None else row["holder"]["since"]
        last, root = _shown(persisted.get("slot")), _shown(persisted.get("root"))
        cells.append([row["identity"], row["state"], _who(row["holder"]), _time(since), _shown(row["fence"]), last, root])
    return columns(cells)


def history_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a claim, below a line of names; whose it is only where there are several identities."""
    several = len({row["identity"] for row in rows}) > 1
    cells = [[*(["IDENTITY"] if several else []), "TIME", "WHO", "WHAT", "WHY", "FROM SLOT", "HELD"]]
    for row in rows:
        held = "still" if row["current"] else duration(row["held_s"])
        mine = [row["identity"]] if several else []
        cells.append([*mine, _time(row["at"]), row["who"] or "-", _what(row), row["why"] or "-", _shown(row["slot"]), held])
    return columns(cells)


def _what(row: Mapping[str, Any]) -> str:
    text = KIND_TEXT[row["kind"]]
    if row["from"] is not None and row["kind"] in ("takeover", "import"):
        return f"{text}, fence taken from {row['from']} after {duration(row['from_held_s'])}"
    return text


# -------------------------------------------------------------------------------------------------------------- watch


def watch_line(said: Mapping[str, Any]) -> str:
    """One refresh of `watch` as one line, for a log or a pipe."""
    store = said["store"]
    parts = [_time(said["at"])]
    if store["error"] is not None:
        return f"{parts[0]} | store does not answer: {store['error']}"
    parts.append(f"store {'-' if store['look_ms'] is None else format(store['look_ms'], '.1f')} ms")
    for row in said["identities"]:
        persisted = row["persisted"] or {}
        stored = f"stored {_shown(persisted.get('slot'))} ({_age(persisted)} ago), root {_shown(persisted.get('root'))}"
        parts.append(f"{row['identity']} {row['state']}: {_who(row['holder'])}, fence {_shown(row['fence'])}, {stored}")
    parts += [f"PROBLEM: {text}" for text in said["problems"]]
    return " | ".join(parts)


def watch_page(
    said: Mapping[str, Any], events: Sequence[Mapping[str, Any]], latencies: Sequence[float | None]
) -> RenderableType:
    """One refresh of `watch` as a page: the store, the identities, the newest claims. `latencies` are in ms, newest last."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    store = said["store"]
    head = Text(f"{store['kind']} {' '.join(store['places'])}  ", style="bold")
    if store["error"] is not None:
        head.append(f"does not answer: {store['error']}", style="bold red")
    elif store["look_ms"] is not None:
        head.append(f"{store['look_ms']:.1f} ms ", style="bold green")
        head.append(_sparkline(latencies), style="green")
        if known := [each for each in latencies if each is not None]:
            head.append(f" at most {max(known):.1f} ms in {len(known)} looks", style="dim")
    lines = [head]
    for cells in columns([_member_cells(member) for member in store.get("members", [])]):
        lines.append(Text(cells, style="red" if "DOWN: " in cells else "dim"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in ("identity", "state", "holder"):
        table.add_column(name)
    asked = [name for name in ("released", "landed") if any(row[name] is not None for row in said["identities"])]
    for name in ("for", "fence", "stored", "root", "age", *asked):
        table.add_column(name, justify="right")
    for row in said["identities"]:
        table.add_row(*_watch_cells(row, asked))
    claims = Table(box=None, pad_edge=False, show_header=False)
    for event in list(events)[-EVENTS_MAX:][::-1]:
        slot = f"from slot {event['slot']}" if event["slot"] is not None else ""
        what = [_time(event["at"]), event["identity"][:8], event["who"] or "-", _what(event), event["why"] or "", slot]
        claims.add_row(*(Text(cell) for cell in what))
    problems = [*said["problems"], *(f"{row['identity'][:8]}: {text}" for row in said["identities"] for text in row["problems"])]
    parts: list[RenderableType] = [*lines, table]
    if events:
        parts += [Text("claims, newest first", style="dim"), claims]
    parts += [Text(f"! {text}", style="bold red") for text in problems]
    return Panel(Group(*parts), title="openos-validator watch", subtitle=_time(said["at"]), border_style="dim")


def _watch_cells(row: Mapping[str, Any], asked: Sequence[str]) -> list[Any]:
    from rich.text import Text

    holder, persisted = row["holder"], row["persisted"] or {}
    more = {"released": row["released"], "landed": (row["landed"] or {}).get("slot")}
    cells = [
        Text(row["identity"], overflow="ellipsis", no_wrap=True),
        Text(row["state"], style=STATE_STYLE[row["state"]]),
        Text(_who(holder)),
    ]
    figures = [
        duration(None if holder is None else holder["held_s"]), _shown(row["fence"]), _shown(persisted.get("slot")),
        _shown(persisted.get("root")), _age(persisted), *(_shown(more[name]) for name in asked),
    ]  # fmt: skip
    return [*cells, *(Text(figure) for figure in figures)]


def _sparkline(latencies: Sequence[float | None]) -> str:
    """Latencies as bars against their own maximum; a gap where there was no answer.

    >>> _sparkline([1.0, 2.0, None, 8.0])
    '▂▃ █'
    """
    most = max((each for each in latencies if each is not None), default=0.0)
    if not most:
        return ""
    return "".join(" " if each is None else BARS[min(len(BARS) - 1, int(each / most * len(BARS)))] for each in latencies)
