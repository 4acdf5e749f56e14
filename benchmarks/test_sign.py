"""The vote's way against the two signatures in it, and libsodium against the other ways to sign from Python."""

from __future__ import annotations

import threading

import nacl.bindings
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from solders.keypair import Keypair as SoldersKeypair

from benchmarks.measure import Sample, interleaved
from benchmarks.workload import SHORT_BYTES, Voting
from tower import _fast, _reference

TABLE = "signing"


def test_the_votes_way_is_two_signatures(benchmark, bench):
    ours = Voting(_fast)
    assert benchmark(ours.vote) == Voting(_reference).vote()
    record, transaction = ours.vote()
    assert ours.two_signatures() == (record[4:68], transaction[1:65])
    samples = interleaved(
        {"way": ours.vote, "two": ours.two_signatures}, rounds=bench.rounds(2000), inner=1 if not bench.full else 10
    )
    bench.row(
        TABLE,
        "record the vote, encode and sign the tower, build and sign the transaction",
        samples["way"],
        against="two bare signatures of the same bytes",
        other=samples["two"],
        at_most=1.10,
        note=f"31 lockouts; {len(ours.body):,} and {len(ours.message)} bytes are signed",
    )


@pytest.mark.parametrize("length", [SHORT_BYTES, 2_246])
def test_signing(benchmark, bench, length):
    message = bench.rng.randbytes(length)
    secret = Voting(_fast).secrets[0]
    solders = SoldersKeypair.from_bytes(secret)
    openssl = Ed25519PrivateKey.from_private_bytes(secret[:32])
    ways = {
        "ours": lambda: _fast.sign(secret, message),
        "PyNaCl's binding of the same libsodium": lambda: nacl.bindings.crypto_sign(message, secret)[:64],
        "solders (ed25519-dalek)": lambda: bytes(solders.sign_message(message)),
        "cryptography (OpenSSL)": lambda: openssl.sign(message),
    }
    signature = benchmark(ways["ours"])
    assert all(sign() == signature for sign in ways.values())
    samples = interleaved(ways, rounds=bench.rounds(1000), inner=1 if not bench.full else 5)
    for name in list(ways)[1:]:
        bench.row(TABLE, f"sign {length:,} bytes", samples["ours"], against=name, other=samples[name])


def test_signing_beside_a_busy_thread(benchmark, bench):
    """Ours keeps the GIL; PyNaCl's binding gives it away meanwhile, and then waits until the other thread gives it back."""
    message = bench.rng.randbytes(SHORT_BYTES)
    secret = Voting(_fast).secrets[0]
    ways = {
        "ours": lambda: _fast.sign(secret, message),
        "PyNaCl": lambda: nacl.bindings.crypto_sign(message, secret)[:64],
    }
    assert benchmark(ways["ours"]) == ways["PyNaCl"]()
    ended: list[bool] = []

    def count() -> None:
        turns = 0
        while not ended:
            turns += 1

    busy = threading.Thread(target=count)
    busy.start()
    try:
        samples = interleaved(ways, rounds=bench.rounds(10_000))
    finally:
        ended.append(True)
        busy.join()
    late = {name: Sample((sample.quantile(0.99),)) for name, sample in samples.items()}
    against = "PyNaCl's binding, which gives the GIL away"
    bench.row(TABLE, "sign 300 bytes beside a thread that computes", samples["ours"], against=against, other=samples["PyNaCl"])
    bench.row(TABLE, "the same, the slowest of a hundred", late["ours"], against=against, other=late["PyNaCl"])
    for name, sample in samples.items():
        bench.distribution("signing beside a busy thread", "ours" if name == "ours" else "PyNaCl's binding", sample)
