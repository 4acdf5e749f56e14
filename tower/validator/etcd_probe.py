"""How long etcd takes: for a linearizable read, and, where the operator asks for it, for a write like a vote's.

A write goes to two scratch keys of its own, `doctor/<random>/instance` and `doctor/<random>/tower`, with the very
comparisons and the size of a tower's, and they are removed at the end. No identity is called `doctor`, so nothing here can
touch a tower; a probe that is killed in the middle leaves two keys of some 2 kB behind, which nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from tower.errors import StoreError, WireError
from tower.stores import _etcd_messages as pb
from tower.stores._common import Deadline
from tower.stores._etcd_link import CALL_ERRORS, METADATA, Link, read_credentials
from tower.validator.config import EtcdConfig
from tower.validator.etcd_survey import reason

__all__ = ["Latency", "measure_reads", "measure_writes"]

READS, WRITES = 10, 50
CLEAN_UP_S = 2.0
RECORD_BYTES = 2300  # a saved tower with a full stack
PREFIX = b"doctor/"
NOTHING = PREFIX + b"nothing"  # a key that nobody writes, and that every role of `access grant` may read


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that each call took, ascending; `error` is why there are fewer than were wanted."""

    endpoint: str
    samples: tuple[float, ...] = ()
    error: str | None = None

    def at(self, share: float) -> float:
        """So much of the calls was not slower than this; needs a sample."""
        return self.samples[min(int(share * len(self.samples)), len(self.samples) - 1)]


def measure_reads(config: EtcdConfig, address: tuple[str, int], timeout: float, count: int = READS) -> Latency:
    """`count` linearizable reads of a key that does not exist, one after another, within `timeout` seconds."""

    def read(link: Link, left: float) -> None:
        pb.decode_range(link.range(pb.range_request(NOTHING), timeout=left, metadata=METADATA))

    return _measure(config, address, timeout, count, read)


def measure_writes(config: EtcdConfig, address: tuple[str, int], timeout: float, count: int = WRITES) -> Latency:
    """`count` fenced writes to scratch keys, one after another, within `timeout` seconds; the keys are removed after."""
    prefix = PREFIX + os.urandom(8).hex().encode() + b"/"
    instance_key, record_key, instance = prefix + b"instance", prefix + b"tower", os.urandom(8)
    revisions: list[int] = []  # of the instance, then of each record

    def write(link: Link, left: float) -> None:
        if not revisions:
            claim = pb.txn([pb.compare_mod_revision(instance_key, 0)], [pb.put_op(instance_key, instance)])
            revisions.append(_txn(link, claim, left).revision)
        compare = [
            pb.compare_mod_revision(instance_key, revisions[0]),
            pb.compare_value(instance_key, instance),
            pb.compare_mod_revision(record_key, revisions[-1] if len(revisions) > 1 else 0),
        ]
        revisions.append(_txn(link, pb.txn(compare, [pb.put_op(record_key, os.urandom(RECORD_BYTES))]), left).revision)

    def clean_up(link: Link) -> None:
        # a DeleteRangeRequest begins as a RangeRequest does: first key and end
        request = pb.range_request(prefix, prefix[:-1] + b"0")  # "0" follows "/"
        link.client.channel.unary_unary("/etcdserverpb.KV/DeleteRange")(request, timeout=CLEAN_UP_S)

    return _measure(config, address, timeout, count, write, clean_up)


def _txn(link: Link, request: bytes, left: float) -> pb.TxnAnswer:
    answer = pb.decode_txn(link.txn(request, timeout=left, metadata=METADATA), (0, 0))
    if not answer.succeeded:
        raise StoreError("a write to a key of our own was refused; is somebody else writing below doctor/?")
    return answer


def _measure(
    config: EtcdConfig,
    address: tuple[str, int],
    timeout: float,
    count: int,
    call: Callable[[Link, float], None],
    clean_up: Callable[[Link], None] | None = None,
) -> Latency:
    deadline = Deadline(timeout)
    link = Link(*address, read_credentials(config.ca_cert, config.cert, config.key), config.domain_name, timeout)
    samples: list[float] = []
    try:
        for number in range(count + 1):
            if deadline.passed():
                return Latency(link.name, tuple(sorted(samples)), f"{number} of {count} calls in {timeout:g} s")
            began = time.perf_counter()
            call(link, deadline.left())
            if number:  # the first one also connects
                samples.append(time.perf_counter() - began)
        return Latency(link.name, tuple(sorted(samples)))
    except StoreError as problem:
        return Latency(link.name, tuple(sorted(samples)), str(problem))
    except (*CALL_ERRORS, WireError) as problem:
        return Latency(link.name, tuple(sorted(samples)), reason(problem, config.domain_name))
    finally:
        if clean_up is not None:
            with contextlib.suppress(*CALL_ERRORS):  # what is left behind is said at the top
                clean_up(link)
        link.client.close()
