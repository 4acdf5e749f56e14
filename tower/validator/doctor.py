"""What the doctor says: findings, and the checks of this machine's files, its cluster and its vote account. Pure.

Every check takes facts that were collected elsewhere (`tower.validator.doctor_facts`) and returns findings; one that found
nothing wrong says so too, so that a report shows what was looked at. A finding that is not `OK` says why it matters and
what to type. Those of etcd are in `tower.validator.doctor_etcd` and `tower.validator.doctor_space`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from tower.validator.certs_show import CertificateFacts, Problem
from tower.validator.doctor_facts import CertificateFiles, ClockFacts, FolderFacts, KeyFile, RpcFacts, TowerFacts, VoteFacts

__all__ = [
    "Finding",
    "Level",
    "check_certificates",
    "check_clocks",
    "check_flags",
    "check_folders",
    "check_keys",
    "check_rpc",
    "check_tower",
    "check_vote_account",
    "describe",
    "fail",
    "ok",
    "warn",
    "worst",
]

VOTE_FEE_LAMPORTS = 5000
VOTES_A_DAY = 216_000  # slots of 400 ms
BALANCE_MIN = 2  # with less `run` does not start
BALANCE_WARN_DAYS = 3.0
LAMPORTS_A_SOL = 10**9
FREE_BYTES_MIN = 100 << 20
MODE_FIX = "chmod 600 {path}"


class Level(enum.StrEnum):
    """How a finding is: only `FAIL` makes the doctor's exit status 1, unless it is strict."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found by the check `check`; `why` it matters, and what to `type`, line by line, to mend it."""

    check: str
    level: Level
    found: str
    why: str = ""
    type: tuple[str, ...] = ()


def ok(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, why: str, *lines: str) -> Finding:
    return Finding(check, Level.WARN, found, why, lines)


def fail(check: str, found: str, why: str, *lines: str) -> Finding:
    return Finding(check, Level.FAIL, found, why, lines)


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst finding."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def describe(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for JSON, with the level of the worst."""
    rows = [
        {"check": each.check, "level": each.level.value, "found": each.found, "why": each.why, "type": list(each.type)}
        for each in findings
    ]
    return {"level": worst(findings).value, "findings": rows}


# -- checks


def check_flags(refused: str | None) -> list[Finding]:
    """Whether `run` would take these flags."""
    if refused is None:
        return [ok("flags", "run takes these flags")]
    return [fail("flags", refused, "run refuses to start with these flags", "the flags as the line says, then this again")]


def check_keys(files: Sequence[KeyFile]) -> list[Finding]:
    """Who can read the secrets."""
    found = []
    for file in files:
        what = f"{file.flag}: {file.path}"
        lines = (MODE_FIX.format(path=quote(file.path)),)
        if file.error is not None or file.mode is None:
            why = "the validator cannot use what it cannot read"
            found.append(fail("keys", f"{what}: {file.error}", why, f"ls -l {quote(file.path)}"))
        elif file.mode & 0o007:
            why = "every user of this machine can vote as this identity, or take its fence"
            found.append(fail("keys", f"{what} has mode {file.mode:04o}", why, *lines))
        elif file.mode & 0o070:
            why = "a group of users of this machine can vote as this identity, or take its fence"
            found.append(warn("keys", f"{what} has mode {file.mode:04o}", why, *lines))
        elif file.foreign_owner:
            why = "whoever owns a file can read it, whatever its mode"
            found.append(warn("keys", f"{what} belongs to another user", why, f"chown $(id -u):$(id -g) {quote(file.path)}"))
        else:
            found.append(ok("keys", f"{what} has mode {file.mode:04o}"))
    return found


def check_certificates(files: CertificateFiles) -> list[Finding]:
    """Whether the certificates of the flags are good now and for some time."""
    name = "certificates"
    why = "etcd is only reached with an authority's certificate, one of our own and its key"
    found = [fail(name, error, why, "openos-validator certs make --help") for error in files.errors]
    for facts in files.certificates:
        problems = [problem for problem in facts.problems if problem.kind != "key mode"]  # said of the key's file
        if not problems:
            found.append(ok(name, f"{facts.file}: valid until {facts.not_after:%Y-%m-%d}, {facts.days_left} days"))
        found += [_certificate_problem(facts, problem) for problem in problems]
    if files.authority_key is not None:
        why = "who reads it can make certificates that etcd accepts; a validator does not need it"
        line = f"mv {quote(files.authority_key)} /where/certificates/are/made/"
        found.append(warn(name, f"{files.authority_key}: the authority's secret key is on this machine", why, line))
    return found


def _certificate_problem(facts: CertificateFacts, problem: Problem) -> Finding:
    if problem.kind == "early":
        why = "etcd refuses it; this machine's clock is behind, or the maker's was ahead"
        return fail("certificates", problem.text, why, "timedatectl set-ntp true")
    lines = (f"openos-validator certs renew {quote(facts.file)}", "then restart the validator: it keeps what it was started with")
    if problem.kind == "soon":
        return warn("certificates", problem.text, "after that etcd is not reached, and voting stops", *lines)
    return fail("certificates", problem.text, "etcd is not reached, and nothing is voted", *lines)


def check_folders(folders: Sequence[FolderFacts]) -> list[Finding]:
    """Whether the validator can write where it must."""
    found = []
    for folder in folders:
        what = f"{folder.flag}: {folder.path}"
        if not folder.writable:
            why = "the lock of the ledger, the admin socket and a tower in a folder are written there"
            found.append(fail("folders", f"{what} cannot be written", why, f"ls -ld {quote(folder.path)}"))
        elif folder.free < FREE_BYTES_MIN:
            why = "a tower that cannot be stored ends the validator"
            line = f"df -h {quote(folder.path)}"
            found.append(warn("folders", f"{what} has {folder.free >> 20} MiB left", why, line))
        else:
            found.append(ok("folders", f"{what} can be written, {folder.free >> 20} MiB left"))
    return found


def check_clocks(clocks: Sequence[ClockFacts]) -> list[Finding]:
    """Whether this machine's clock agrees with others: no promise depends on it, certificates and logs do."""
    found = []
    for clock in clocks:
        text = f"{clock.source} is {abs(clock.ahead):.1f} s {'ahead of' if clock.ahead > 0 else 'behind'} this machine"
        if abs(clock.ahead) <= clock.limit:
            found.append(ok("clock", f"{clock.source} agrees within {clock.limit:g} s"))
        else:
            why = "certificates are judged and votes are stamped by this clock; no vote is wrong for it"
            found.append(warn("clock", text, why, "timedatectl set-ntp true", "timedatectl timesync-status"))
    return found


def check_rpc(rpc: RpcFacts) -> list[Finding]:
    """Whether the cluster's RPC answers and keeps up."""
    line = f"curl -s {rpc.url} -H 'Content-Type: application/json' -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"getHealth\"}}'"
    if rpc.error is not None:
        return [fail("rpc", rpc.error, "without it there is no bank to vote for", line)]
    if not rpc.healthy:
        text = f"{rpc.url}: the node calls itself unhealthy, at slot {rpc.slot}"
        return [warn("rpc", text, "its banks come late, and so do votes for them", line)]
    return [ok("rpc", f"{rpc.url}: healthy, version {rpc.version}, slot {rpc.slot}")]


def check_vote_account(vote: VoteFacts, identity: str, loaded: Sequence[str], *, spare: bool) -> list[Finding]:
    """Whether this process could vote with the account: its node, its voters, and lamports for fees.

    `loaded` are the keys that it has. A `spare` (`--no-check-vote-account`) becomes the account's node by `set-identity`.
    """
    name = "vote-account"
    what = f"--vote-account: {vote.address}"
    right = f"solana vote-account {vote.address}"
    if vote.error is not None:
        return [fail(name, vote.error, "whether this process may vote is not known", right)]
    if not vote.found:
        return [fail(name, f"{what} does not exist", "there is nothing to vote with", right, "check the address, and --url")]
    if vote.owner is not None or vote.unreadable is not None:
        reason = f"is owned by {vote.owner}" if vote.owner is not None else f"cannot be read: {vote.unreadable}"
        return [fail(name, f"{what} {reason}", "it is no vote account", right)]
    if not vote.voters:
        return [fail(name, f"{what} is not initialized", "nobody may vote with it", "solana create-vote-account --help")]
    found = [_node(vote, identity, what, spare), *_voters(vote, loaded)]
    return [*found, _balance(vote)] if vote.balance is not None else found


def _node(vote: VoteFacts, identity: str, what: str, spare: bool) -> Finding:
    if vote.node == identity:
        return ok("vote-account", f"{what}: its node is this identity")
    if spare:
        return ok("vote-account", f"{what}: its node is {vote.node}; this one, {identity}, stands by")
    why = "run refuses: an account is voted for by its node; a spare says that it is one"
    return fail("vote-account", f"{what}: its node is {vote.node}, not {identity}", why, "--no-check-vote-account")


def _voters(vote: VoteFacts, loaded: Sequence[str]) -> list[Finding]:
    name, voter = "authorized-voter", vote.voter()
    if voter is None:
        why = "nobody may vote with this account in this epoch"
        return [fail(name, f"{vote.address} has no voter for epoch {vote.epoch}", why, f"solana vote-account {vote.address}")]
    if voter not in loaded:
        why = "only this key may vote in this epoch, and it is not loaded"
        line = f"--authorized-voter FILE  # the keypair of {voter}"
        return [fail(name, f"the authorized voter of epoch {vote.epoch} is {voter}", why, line)]
    found = [ok(name, f"{voter} may vote in epoch {vote.epoch}, and is loaded")]
    for first, later in vote.voters:
        if first > vote.epoch and later not in loaded:
            why = f"from epoch {first} on only this key may vote, and it is not loaded"
            line = f"openos-validator authorized-voter add FILE  # the keypair of {later}"
            found.append(warn(name, f"from epoch {first} on the authorized voter is {later}", why, line))
    return found


def _balance(vote: VoteFacts) -> Finding:
    balance = vote.balance or 0
    text = f"{vote.node} has {balance / LAMPORTS_A_SOL:.3f} SOL"
    line = f"solana transfer {vote.node} 5"
    if balance < BALANCE_MIN:
        return fail("balance", text, "run refuses: votes cost a fee", line)
    days = balance / (VOTE_FEE_LAMPORTS * VOTES_A_DAY)
    if days < BALANCE_WARN_DAYS:
        return warn("balance", f"{text}, fees of {days:.1f} days", "votes without a fee are dropped", line)
    return ok("balance", f"{text}, fees of {days:.0f} days")


def check_tower(tower: TowerFacts) -> list[Finding]:
    """What a start would find in the store."""
    name, what = "tower", f"{tower.where}: the tower of {tower.identity}"
    if tower.error is not None:
        return [fail(name, tower.error, "no vote leaves without its tower stored", "bring the store back; then this again")]
    if tower.unusable is not None:
        why = "run ends with status 12 and claims nothing"
        line = "openos-validator tower import FILE --identity KEYPAIR --replace-stored unusable  # and the store's flags"
        return [fail(name, f"{what} cannot be used: {tower.unusable}", why, line)]
    holder = f", held by {tower.holder}" if tower.holder else ""
    if tower.stored:
        return [ok(name, f"{what}: last vote {tower.last_voted_slot}{holder}")]
    if tower.has_voted:
        why = "a start rebuilds it from the vote account and waits --rebuild-wait-slots before it votes"
        line = "openos-validator tower import FILE --identity KEYPAIR  # of the machine that voted last; and the store's flags"
        return [warn(name, f"{what} is not stored, and the account has voted", why, line)]
    told = " yet, and the account has not voted" if tower.has_voted is False else ""
    return [ok(name, f"{what} is not stored{told}")]
