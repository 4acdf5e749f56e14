"""The real vote program, in process: put an account, set the bank's sysvars, send a vote, read the account back.

LiteSVM runs the vote program of a current cluster. Messages are built by `tower.instructions`, so every vote that the
program accepts also proves the message around it. Vote accounts of any version are written byte by byte here.
"""

from __future__ import annotations

from collections.abc import Sequence

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.litesvm import FeatureSet, LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata
from solders.transaction_status import InstructionErrorCustom, TransactionErrorInstructionError

from tower._bytes import Writer
from tower.instructions import encode_instruction_message
from tower.keys import Keypair
from tower.types import VoteAccountState
from tower.wire import VOTE_PROGRAM_ID, decode_vote_account

V1_14_11, V3, V4 = 1, 2, 3
ACCOUNT_BYTES = {V1_14_11: 3731, V3: 3762, V4: 3762}
IDENTITY = Keypair.from_seed(b"i" * 32)
VOTE_ACCOUNT = Keypair.from_seed(b"a" * 32).pubkey
BLOCKHASH = bytes(32)
LAMPORTS = 10**12
U64_MAX = 2**64 - 1


def new_account(**fields: object) -> VoteAccountState:
    """An account whose node and voter is `IDENTITY`."""
    return VoteAccountState(IDENTITY.pubkey, ((0, IDENTITY.pubkey),), **fields)


def encode_vote_account(state: VoteAccountState, version: int = V4, latency: int = 1, bls_key: bytes | None = None) -> bytes:
    """A vote account's data as the program of `version` keeps it, padded with zeros to its size."""
    out = Writer().u32(version).raw(state.node_pubkey).raw(state.node_pubkey)
    if version == V4:
        out.raw(VOTE_ACCOUNT).raw(state.node_pubkey)  # inflation rewards, block revenue
        out.raw((700).to_bytes(2, "little")).raw((10_000).to_bytes(2, "little")).u64(0)
        out.u8(0) if bls_key is None else out.u8(1).raw(bls_key)
    else:
        out.u8(7)  # commission
    out.u64(len(state.lockouts))
    for slot, confirmation_count in state.lockouts:
        if version != V1_14_11:
            out.u8(latency)
        out.u64(slot).u32(confirmation_count)
    out.option_u64(state.root).u64(len(state.authorized_voters))
    for epoch, voter in state.authorized_voters:
        out.u64(epoch).raw(voter)
    if version != V4:
        out.raw(bytes(32 * 48)).u64(31).u8(1)  # prior voters: an empty ring
    out.u64(len(state.epoch_credits))
    for epoch, earned, previous in state.epoch_credits:
        out.u64(epoch).u64(earned).u64(previous)
    out.u64(state.last_timestamp.slot).i64(state.last_timestamp.timestamp)
    return out.bytes().ljust(ACCOUNT_BYTES[version], b"\0")


class VoteProgram:
    """One LiteSVM with one vote account. With `features` it runs the program of that feature set."""

    def __init__(self, features: FeatureSet | None = None) -> None:
        svm = LiteSVM() if features is None else LiteSVM.default().with_feature_set(features).with_builtins()
        if features is not None:
            svm = svm.with_lamports(LAMPORTS).with_sysvars().with_default_programs()
        self._svm: LiteSVM = svm.with_sigverify(False).with_blockhash_check(False).with_transaction_history(0)
        self._payers: set[bytes] = set()

    def put(self, state: VoteAccountState, version: int = V4) -> None:
        self.put_data(encode_vote_account(state, version))

    def put_data(self, data: bytes) -> None:
        self._svm.set_account(Pubkey(VOTE_ACCOUNT), Account(LAMPORTS, data, Pubkey(VOTE_PROGRAM_ID)))

    def data(self) -> bytes:
        account = self._svm.get_account(Pubkey(VOTE_ACCOUNT))
        assert account is not None
        return bytes(account.data)

    def read(self) -> VoteAccountState:
        return decode_vote_account(self.data())

    def on_bank(self, slot_hashes: Sequence[tuple[int, bytes]]) -> None:
        """Execute from now on in a bank with these ancestors, newest first, one slot above the newest."""
        self._svm.set_slot_hashes([(slot, Hash(bank_hash)) for slot, bank_hash in slot_hashes])
        newest = slot_hashes[0][0] if slot_hashes else 0
        self._svm.set_clock(Clock(min(newest + 1, U64_MAX), 0, 0, 1, 0))

    def send(self, instruction_data: bytes, voter: Keypair = IDENTITY) -> int | str | None:
        """Run one instruction: `None` for success, the number of a custom error, or the name of another error."""
        return self.send_message(
            encode_instruction_message(IDENTITY.pubkey, voter.pubkey, VOTE_ACCOUNT, BLOCKHASH, instruction_data)
        )

    def send_message(self, message: bytes) -> int | str | None:
        parsed = Message.from_bytes(message)
        payer = parsed.account_keys[0]
        if bytes(payer) not in self._payers:
            self._svm.set_account(payer, Account(LAMPORTS, b"", Pubkey.default()))
            self._payers.add(bytes(payer))
        result = self._svm.send_transaction(Transaction.new_unsigned(parsed))
        if not isinstance(result, FailedTransactionMetadata):
            return None
        error = result.err()
        if not isinstance(error, TransactionErrorInstructionError):
            return str(error)
        if isinstance(error.err, InstructionErrorCustom):
            return int(error.err.code)
        return str(error.err).rsplit(".", 1)[-1]
