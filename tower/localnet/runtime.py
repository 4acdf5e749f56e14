"""Executes a bank's transactions with the real vote program (LiteSVM), one fork at a time.

LiteSVM has one state; a bank's accounts, SlotHashes and Clock are put in before its transactions run, and the accounts
are read back afterwards. It decides what a transaction does to accounts. It does not decide which transactions a bank
gets, and trusts that their signatures were checked (`judge`).

Age of blockhashes and repeated signatures are checked by the caller, per fork: LiteSVM's own checks know no forks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from solders.account import Account
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata
from solders.transaction_status import InstructionErrorCustom, TransactionErrorInstructionError

from tower import wire
from tower.errors import InvariantViolation
from tower.localnet.bank import CLOCK_SYSVAR, SYSTEM_PROGRAM, VOTE_PROGRAM, Bank, Executed
from tower.localnet.genesis import Genesis

__all__ = ["VOTE_ACCOUNT_BYTES", "Runtime"]

VOTE_ACCOUNT_BYTES = 3762
FEE_PER_SIGNATURE = 5000
PAYER_LAMPORTS = 1_000 * 10**9
RENT_SYSVAR = Pubkey.from_string("SysvarRent111111111111111111111111111111111")
INITIALIZE_ACCOUNT = 0


class Runtime:
    """One LiteSVM and the way banks go through it."""

    def __init__(self, slots_in_epoch: int) -> None:
        self._slots_in_epoch = slots_in_epoch
        # Signatures are verified once, where a transaction arrives; ages and repetitions per fork, by the cluster.
        svm = LiteSVM().with_sigverify(False).with_blockhash_check(False).with_transaction_history(0)
        self._svm: LiteSVM = svm
        self.rent_exempt_vote_account = svm.minimum_balance_for_rent_exemption(VOTE_ACCOUNT_BYTES)

    def genesis_bank(self, genesis: Genesis, unix_timestamp: int) -> Bank:
        """Bank 0: every participant's vote account, made by the vote program itself, and lamports for the payers."""
        accounts: dict[Pubkey, Account] = {}
        payers = [member.identity for member in genesis.participants] + list(genesis.funded)
        for payer in [*payers, genesis.node.pubkey]:
            accounts[Pubkey(payer)] = Account(PAYER_LAMPORTS, b"", SYSTEM_PROGRAM)
        votes = {}
        for member in genesis.participants:
            address = Pubkey(member.vote_account)
            accounts[address] = self._new_vote_account(address, member.identity, member.authorized_voter)
            votes[member.vote_account] = wire.decode_vote_account(bytes(accounts[address].data))
        return Bank.first(genesis.genesis_hash, accounts, votes, unix_timestamp, genesis.stakes)

    def _new_vote_account(self, address: Pubkey, identity: bytes, authorized_voter: bytes) -> Account:
        node = Pubkey(identity)
        self._svm.set_account(node, Account(PAYER_LAMPORTS, b"", SYSTEM_PROGRAM))
        self._svm.set_account(address, Account(self.rent_exempt_vote_account, bytes(VOTE_ACCOUNT_BYTES), VOTE_PROGRAM))
        data = struct.pack("<I", INITIALIZE_ACCOUNT) + identity + authorized_voter + identity + bytes([0])
        metas = [
            AccountMeta(address, False, True),
            AccountMeta(RENT_SYSVAR, False, False),
            AccountMeta(CLOCK_SYSVAR, False, False),
            AccountMeta(node, True, False),
        ]
        message = Message.new_with_blockhash([Instruction(VOTE_PROGRAM, data, metas)], node, Hash.default())
        result = self._svm.send_transaction(Transaction.new_unsigned(message))
        if isinstance(result, FailedTransactionMetadata):
            raise InvariantViolation(f"the vote program refused a genesis vote account: {result.err()}")
        made = self._svm.get_account(address)
        if made is None:
            raise InvariantViolation("the vote program left no genesis vote account")
        return made

    def execute(self, bank: Bank, transactions: Iterable[tuple[bytes, Transaction]]) -> list[Executed]:
        """Run `(raw bytes, transaction)` pairs in order in the open `bank`; updates the bank's accounts and votes."""
        results: list[Executed] = []
        prepared = False
        for raw, transaction in transactions:
            if not prepared:
                self._svm.set_slot_hashes(bank.slot_hashes)
                self._svm.set_clock(bank.clock(self._slots_in_epoch))
                prepared = True
            results.append(self._execute_one(bank, raw, transaction))
        return results

    def simulate(self, bank: Bank, transaction: Transaction) -> object | None:
        """The error that `transaction` would end with on top of `bank`, `None` if it would succeed."""
        self._svm.set_slot_hashes(bank.slot_hashes)
        self._svm.set_clock(bank.clock(self._slots_in_epoch))
        self._load(bank, transaction.message)
        result = self._svm.simulate_transaction(transaction)
        return _error_json(result) if isinstance(result, FailedTransactionMetadata) else None

    def _load(self, bank: Bank, message: Message) -> list[Pubkey]:
        """Put the bank's version of every account of `message` in; the keys that may change come back."""
        header, keys, writable = message.header, message.account_keys, []
        signers = header.num_required_signatures
        for index, key in enumerate(keys):
            readonly = header.num_readonly_signed_accounts if index < signers else header.num_readonly_unsigned_accounts
            if index >= (signers if index < signers else len(keys)) - readonly:
                continue
            # An account unknown to this fork must not shine through from another one.
            self._svm.set_account(key, bank.accounts.get(key) or Account(0, b"", SYSTEM_PROGRAM))
            writable.append(key)
        return writable

    def _execute_one(self, bank: Bank, raw: bytes, transaction: Transaction) -> Executed:
        message = transaction.message
        writable = self._load(bank, message)
        keys = tuple(message.account_keys)
        before = tuple(_lamports(bank, key) for key in keys)
        result = self._svm.send_transaction(transaction)
        error: object | None = None
        if isinstance(result, FailedTransactionMetadata):
            error = _error_json(result)
            logs = tuple(result.meta().logs())
        else:
            logs = tuple(result.logs())
        for key in writable:
            account = self._svm.get_account(key)
            if account is not None and account != bank.accounts.get(key) and (account.lamports or key in bank.accounts):
                bank.accounts[key] = account
                bank.changed.add(key)
                if bytes(key) in bank.votes:
                    bank.votes[bytes(key)] = wire.decode_vote_account(bytes(account.data))
        return Executed(
            signature=bytes(transaction.signatures[0]),
            raw=raw,
            error=error,
            fee=FEE_PER_SIGNATURE * message.header.num_required_signatures,
            logs=logs,
            keys=tuple(bytes(key) for key in keys),
            balances_before=before,
            balances_after=tuple(_lamports(bank, key) for key in keys),
        )


def _lamports(bank: Bank, key: Pubkey) -> int:
    account = bank.accounts.get(key)
    return account.lamports if account else 0


def _error_json(result: FailedTransactionMetadata) -> object:
    """The error as the RPC writes it: `{"InstructionError": [0, {"Custom": 0}]}`, or a plain name."""
    error = result.err()
    if not isinstance(error, TransactionErrorInstructionError):
        return str(error).rsplit(".", 1)[-1]
    inner = error.err
    if isinstance(inner, InstructionErrorCustom):
        return {"InstructionError": [error.index, {"Custom": inner.code}]}
    return {"InstructionError": [error.index, str(inner).rsplit(".", 1)[-1]]}
