"""The hand-written messages against the generated ones of the client library, which serve as the reference here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyetcd import etcdrpc

from tower.errors import WireError
from tower.stores import _etcd_messages as pb

KeyValue = type(etcdrpc.RangeResponse().kvs.add())
REVISION = st.integers(1, (1 << 63) - 1)
BYTES = st.binary(max_size=300)
KEY_VALUE = st.builds(KeyValue, key=BYTES, create_revision=REVISION, mod_revision=REVISION, value=BYTES)
HEADER = st.builds(etcdrpc.ResponseHeader, cluster_id=st.integers(0, (1 << 64) - 1), revision=REVISION)


def as_tuple(kv: KeyValue) -> pb.KeyValue:
    return pb.KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.value)


@given(key=BYTES, value=BYTES, revision=st.integers(0, (1 << 63) - 1))
def test_a_transaction_reads_as_it_was_meant(key: bytes, value: bytes, revision: int) -> None:
    ours = pb.txn(
        [pb.compare_mod_revision(key, revision), pb.compare_value(key, value)],
        [pb.put_op(key, value), pb.range_op(key)],
        [pb.range_op(key)],
    )
    read = etcdrpc.TxnRequest.FromString(ours)
    by_revision, by_value = read.compare
    assert (by_revision.result, by_revision.target) == (etcdrpc.Compare.EQUAL, etcdrpc.Compare.MOD)
    assert (by_revision.key, by_revision.mod_revision) == (key, revision)
    assert by_revision.WhichOneof("target_union") == "mod_revision"  # also where it is 0
    assert (by_value.result, by_value.target) == (etcdrpc.Compare.EQUAL, etcdrpc.Compare.VALUE)
    assert (by_value.key, by_value.value) == (key, value)
    put, got = read.success
    assert (put.request_put.key, put.request_put.value, put.request_put.lease) == (key, value, 0)
    assert got.request_range == read.failure[0].request_range == etcdrpc.RangeRequest(key=key)
    assert not got.request_range.serializable  # S3: a stale read would do harm
    assert got.request_range.revision == 0
    assert len(read.failure) == 1


@given(key=BYTES, end=BYTES, limit=st.integers(0, 1000), revision=REVISION)
def test_range_and_watch_read_as_they_were_meant(key: bytes, end: bytes, limit: int, revision: int) -> None:
    read = etcdrpc.RangeRequest.FromString(pb.range_request(key, end, limit))
    assert read == etcdrpc.RangeRequest(key=key, range_end=end, limit=limit)
    read = etcdrpc.RangeRequest.FromString(pb.range_request(key, end, limit, keys_only=True))
    assert read == etcdrpc.RangeRequest(key=key, range_end=end, limit=limit, keys_only=True)
    watch = etcdrpc.WatchRequest.FromString(pb.watch_create(key, revision))
    assert watch.create_request == etcdrpc.WatchCreateRequest(key=key, start_revision=revision)


WRITES = st.lists(st.tuples(REVISION | st.just(0), BYTES), min_size=1, max_size=4)


@given(fenced=st.lists(BYTES, max_size=3), key=BYTES, writes=WRITES)
def test_a_fenced_put_is_the_transaction_of_its_parts(fenced: list[bytes], key: bytes, writes: list[tuple[int, bytes]]) -> None:
    compares = [pb.compare_value(key, each) for each in fenced]
    put = pb.FencedPut(fenced=compares, key=key, failure=[pb.range_op(key)])
    for expected, record in writes:  # with parts that were made for the one before
        whole = pb.txn([*compares, pb.compare_mod_revision(key, expected)], [pb.put_op(key, record)], [pb.range_op(key)])
        assert put.request(expected, record) == whole


def outcome_of(decode: Callable[[bytes], pb.TxnAnswer], data: bytes) -> object:
    try:
        return decode(data)
    except WireError as problem:
        return str(problem)


@given(
    member=st.integers(0, (1 << 64) - 1),
    revisions=st.lists(REVISION | st.integers(1, 300), min_size=2, max_size=5),
    at=st.integers(0, 200),
    byte=st.integers(0, 255),
)
def test_an_answer_that_is_alike_reads_as_it_would_anew(member: int, revisions: list[int], at: int, byte: int) -> None:
    put = pb.FencedPut(fenced=[], key=b"k", failure=[pb.range_op(b"i"), pb.range_op(b"k")])
    for revision in revisions:
        header = etcdrpc.ResponseHeader(cluster_id=7, member_id=member, revision=revision, raft_term=3)
        written = etcdrpc.ResponseOp(response_put=etcdrpc.PutResponse(header=etcdrpc.ResponseHeader(revision=revision)))
        data = etcdrpc.TxnResponse(header=header, succeeded=True, responses=[written]).SerializeToString()
        assert put.decode(data) == pb.TxnAnswer(revision, True, ())
        changed = data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :]
        for other in (changed, data[:-1], data + data[-3:]):
            assert outcome_of(put.decode, other) == outcome_of(lambda each: pb.decode_txn(each, (2, 0)), other)
        nothing = [etcdrpc.ResponseOp(response_range=etcdrpc.RangeResponse()) for _ in range(2)]
        refused = etcdrpc.TxnResponse(header=header, succeeded=False, responses=nothing).SerializeToString()
        padded = refused + b"\x7a" + bytes([max(0, len(data) - len(refused) - 2)]) + bytes(max(0, len(data) - len(refused) - 2))
        for other in (refused, padded):  # the latter has the length of a commit's
            assert put.decode(other) == pb.TxnAnswer(revision, False, (None, None))


@given(header=HEADER, succeeded=st.booleans(), found=st.lists(st.none() | KEY_VALUE, max_size=4), puts=st.integers(0, 3))
def test_transaction_answers(header: etcdrpc.ResponseHeader, succeeded: bool, found: list[KeyValue | None], puts: int) -> None:
    operations = [etcdrpc.ResponseOp(response_put=etcdrpc.PutResponse(header=header)) for _ in range(puts)]
    for kv in found:
        answer = etcdrpc.RangeResponse(header=etcdrpc.ResponseHeader(), kvs=[kv] if kv else [], count=1 if kv else 0)
        operations.append(etcdrpc.ResponseOp(response_range=answer))
    data = etcdrpc.TxnResponse(header=header, succeeded=succeeded, responses=operations).SerializeToString()
    counts = (-1, len(found)) if succeeded else (len(found), -1)
    expected = tuple(kv and as_tuple(kv) for kv in found)
    assert pb.decode_txn(data, counts) == pb.TxnAnswer(header.revision, succeeded, expected)
    with pytest.raises(WireError, match="reads in place of"):
        pb.decode_txn(data, (len(found) + 1, len(found) + 1))


@given(header=HEADER, kvs=st.lists(KEY_VALUE, max_size=4), more=st.booleans())
def test_range_and_watch_answers(header: etcdrpc.ResponseHeader, kvs: list[KeyValue], more: bool) -> None:
    data = etcdrpc.RangeResponse(header=header, kvs=kvs, more=more, count=9).SerializeToString()
    assert pb.decode_range(data) == pb.RangeAnswer(header.revision, tuple(map(as_tuple, kvs)), more)

    events_ = etcdrpc.WatchResponse(header=header, watch_id=3, created=more).SerializeToString()
    for kv in kvs:
        event = etcdrpc.WatchResponse()
        event.events.add(type="DELETE" if more else "PUT", kv=kv)
        events_ += event.SerializeToString()  # protobuf joins what is concatenated
    assert pb.decode_watch(events_) == pb.WatchAnswer(more, None, tuple(kv.mod_revision for kv in kvs))


def test_a_cancelled_watch_says_why() -> None:
    compacted = etcdrpc.WatchResponse(canceled=True, compact_revision=7).SerializeToString()
    assert pb.decode_watch(compacted).cancelled == "compacted at 7"
    no_leader = etcdrpc.WatchResponse(canceled=True, cancel_reason="no leader").SerializeToString()
    assert pb.decode_watch(no_leader).cancelled == "no leader"


@given(data=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (pb.decode_range, pb.decode_watch, lambda data: pb.decode_txn(data, (0, 0))):
        with contextlib.suppress(WireError):
            decode(data)


def test_a_cut_answer_never_passes_for_a_whole_one_that_says_something_else() -> None:
    kv = KeyValue(key=b"k", create_revision=1, mod_revision=300, value=b"v" * 200)
    range_answer = etcdrpc.RangeResponse(kvs=[kv], count=1)
    whole = etcdrpc.TxnResponse(
        header=etcdrpc.ResponseHeader(revision=300),
        succeeded=True,
        responses=[etcdrpc.ResponseOp(response_range=range_answer)],
    ).SerializeToString()
    assert pb.decode_txn(whole, (9, 1)).succeeded
    for size in range(len(whole)):
        with pytest.raises(WireError):
            pb.decode_txn(whole[:size], (9, 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("08" + "ff" * 10, "more than 64 bits"),
        ("08" + "ff" * 9 + "02", "more than 64 bits"),
        ("0a05aa", "ends early: 5 bytes wanted, 1 left"),
        ("00", "field number 0"),
        ("0b", "wire type 3"),
        ("09aa", "ends early: 8 bytes wanted"),
        ("1801", "no header|without a header"),
        ("1001", "field 2 is no string of bytes"),
    ],
)
def test_malformed_answers_are_refused(data: str, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        pb.decode_range(bytes.fromhex(data))


def test_a_transaction_without_a_header_is_refused() -> None:
    """Its revision would become a fence: 0, which everybody could hold."""
    with pytest.raises(WireError, match="without a header"):
        pb.decode_txn(etcdrpc.TxnResponse(succeeded=True).SerializeToString(), (0, 0))
