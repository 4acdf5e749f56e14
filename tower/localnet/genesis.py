"""Who takes part in the local cluster: keys, vote accounts, stakes, and the hash that names the cluster.

It decides stakes and addresses, and which files a cluster folder holds. It does not run anything.

Participant 0 is *ours*: the vote account that the operator's validators vote for. The others are the voters that the
cluster runs itself; their keys follow from their number, so a seed plus our two keypair files reproduces a cluster.

>>> shares = stake_shares(total=1_000, ours=0.1, others=4)
>>> shares, sum(shares)
([100, 225, 225, 225, 225], 1000)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tower.errors import InvalidInput
from tower.keys import Keypair, read_keypair_file, write_keypair_file
from tower.localnet.forks import REQUESTS_MAX, PartitionRequest

__all__ = [
    "IDENTITY_FILE",
    "SECONDARY_FILE",
    "VOTE_ACCOUNT_FILE",
    "Genesis",
    "LocalnetConfig",
    "Participant",
    "make_genesis",
    "prepare_dir",
    "stake_shares",
]

IDENTITY_FILE = "validator-keypair.json"
VOTE_ACCOUNT_FILE = "vote-account-keypair.json"
SECONDARY_FILE = "secondary-validator-keypair.json"

TOTAL_STAKE = 1_000_000 * 10**9  # lamports
VOTERS_MAX = 64
SLOT_MS_MIN = 5


@dataclass(frozen=True, slots=True)
class LocalnetConfig:
    """What a cluster is asked to be. Checked at construction; the text of an error names the flag."""

    slot_ms: int = 400
    voters: int = 5
    stake_share: float = 0.001
    fork_every: int = 40  # slots from the start of one partition to the next; 0: never
    fork_length: int = 6
    slots_in_epoch: int = 8192
    rpc_on_minority: bool = False
    seed: int = 1
    partitions: tuple[PartitionRequest, ...] = ()
    announced_blocks: bool = False  # our leader's slots are skipped unless it announces a block

    def __post_init__(self) -> None:
        if self.slot_ms < SLOT_MS_MIN:
            raise InvalidInput(f"--slot-ms {self.slot_ms}: a slot needs at least {SLOT_MS_MIN} ms")
        if not 0 <= self.voters <= VOTERS_MAX:
            raise InvalidInput(f"--voters {self.voters}: give a number from 0 to {VOTERS_MAX}")
        if not 0 < self.stake_share < 1:
            raise InvalidInput(f"--stake-share {self.stake_share}: give a fraction between 0 and 1, such as 0.001")
        if self.fork_every < 0 or self.fork_length < 0:
            raise InvalidInput("--fork-every and --fork-length count slots: give 0 or more")
        if self.fork_every and not 2 <= self.fork_length < self.fork_every:
            raise InvalidInput(f"--fork-length {self.fork_length}: give at least 2 and less than --fork-every {self.fork_every}")
        if self.rpc_on_minority and not 3 * self.stake_share < 1:
            raise InvalidInput(f"--rpc-on-minority needs --stake-share under a third, not {self.stake_share}")
        if self.partitions and self.rpc_on_minority:
            raise InvalidInput("--partition keeps us and the RPC on one side: leave --rpc-on-minority out")
        if len(self.partitions) > REQUESTS_MAX:
            raise InvalidInput(f"--partition: give at most {REQUESTS_MAX} of them, not {len(self.partitions)}")
        if self.slots_in_epoch < 32:
            raise InvalidInput(f"--slots-in-epoch {self.slots_in_epoch}: an epoch has at least 32 slots")

    def with_seed(self, seed: int) -> LocalnetConfig:
        return replace(self, seed=seed)


@dataclass(frozen=True, slots=True)
class Participant:
    """One staked vote account. `voter` is the key that the cluster itself votes with; `None` where others do."""

    name: str
    identity: bytes
    vote_account: bytes
    authorized_voter: bytes
    stake: int
    voter: Keypair | None = None


@dataclass(frozen=True, slots=True)
class Genesis:
    """The fixed facts of one cluster."""

    participants: tuple[Participant, ...]
    node: Keypair  # the key of the RPC node itself: neither staked nor voting
    funded: tuple[bytes, ...]  # further identities that get lamports
    genesis_hash: bytes

    @property
    def ours(self) -> Participant:
        return self.participants[0]

    @property
    def stakes(self) -> dict[bytes, int]:
        """Stake by vote account."""
        return {member.vote_account: member.stake for member in self.participants}

    @property
    def identity_stakes(self) -> dict[bytes, int]:
        """Stake by identity, as the leader schedule wants it."""
        return {member.identity: member.stake for member in self.participants}

    @property
    def total_stake(self) -> int:
        return sum(member.stake for member in self.participants)


def stake_shares(total: int, ours: float, others: int) -> list[int]:
    """Ours first, then the others in equal parts; sums to `total`. Alone, ours is everything."""
    if others == 0:
        return [total]
    mine = max(1, round(total * ours))
    part, rest = divmod(total - mine, others)
    return [mine] + [part + (1 if index < rest else 0) for index in range(others)]


def _derived(label: str) -> Keypair:
    return Keypair.from_seed(hashlib.sha256(b"openos-localnet " + label.encode()).digest())


def make_genesis(
    config: LocalnetConfig,
    identity: bytes,
    vote_account: bytes,
    *,
    authorized_voter: bytes | None = None,
    funded: Sequence[bytes] = (),
) -> Genesis:
    """The genesis for our `identity` and `vote_account` (addresses) under `config`.

    `authorized_voter` is our identity unless given.
    """
    shares = stake_shares(TOTAL_STAKE, config.stake_share, config.voters)
    members = [Participant("ours", identity, vote_account, authorized_voter or identity, shares[0])]
    for number, stake in enumerate(shares[1:], start=1):
        key = _derived(f"voter {number}")
        account = _derived(f"vote account {number}").pubkey
        members.append(Participant(f"voter-{number}", key.pubkey, account, key.pubkey, stake, key))
    addresses = [address for member in members for address in (member.identity, member.vote_account)]
    if len(set(addresses)) != len(addresses):
        raise InvalidInput("identity and vote account must be different keypairs, and none of the cluster's own")
    digest = hashlib.sha256(b"openos-localnet genesis" + config.seed.to_bytes(16, "little", signed=True))
    for address in addresses:
        digest.update(address)
    return Genesis(tuple(members), _derived("rpc node"), tuple(funded), digest.digest())


def _read_or_create(path: Path) -> Keypair:
    if not path.exists():
        write_keypair_file(path, Keypair.generate())
    return read_keypair_file(path)


def prepare_dir(directory: Path) -> tuple[Keypair, Keypair, Keypair]:
    """Identity, vote account and secondary identity of the cluster folder; missing files are made, none replaced."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        identity, vote_account, secondary = (
            _read_or_create(directory / name) for name in (IDENTITY_FILE, VOTE_ACCOUNT_FILE, SECONDARY_FILE)
        )
    except OSError as problem:
        raise InvalidInput(f"--dir {directory}: cannot be used: {problem.strerror}; give a writable folder") from None
    return identity, vote_account, secondary
