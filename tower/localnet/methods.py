"""The JSON-RPC methods: what a voter and an operator's tools ask a node, answered from the cluster's banks.

`processed` is the heaviest frozen bank of the RPC side, `confirmed` and `finalized` follow the view (`tree`). One
answer is always taken from one bank. Changes nothing but through `sendTransaction`.
"""

from __future__ import annotations

import base64
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from tower.localnet.bank import SLOT_HISTORY_SYSVAR, SYSVAR_OWNER, Bank
from tower.localnet.cluster import Cluster
from tower.localnet.jsonrpc import INVALID_PARAMS, Method, RpcError
from tower.localnet.render import (
    API_VERSION,
    account_json,
    base58,
    commitment_of,
    config_of,
    encoding_of,
    integer,
    packet_of,
    param,
    pubkey_of,
    signature_of,
    with_context,
)
from tower.localnet.report import localnet_chain, localnet_report
from tower.restore import HISTORY_SLOTS, SlotHistory

__all__ = ["RpcMethods"]

ACCOUNTS_MAX = 100
SIGNATURES_MAX = 256
LOCKOUT_DEPTH = 32  # length of getBlockCommitment's array, MAX_LOCKOUT_HISTORY + 1
DELINQUENT_SLOTS = 128
BLOCKHASH_VALID_BLOCKS = 150
FEATURE_SET = 3_073_396_398
PREFLIGHT_FAILED = -32002
SIGNATURE_FAILED = -32003
NO_SNAPSHOT = -32008
MIN_CONTEXT_NOT_REACHED = -32016


class RpcMethods:
    """Answers from `cluster`; the addresses are what it tells others about itself."""

    def __init__(self, cluster: Cluster, vote_address: str, rpc_address: str, block_address: str = "") -> None:
        self._cluster = cluster
        self._vote_address = vote_address
        self._rpc_address = rpc_address
        self._block_address = block_address

    def table(self, source: str) -> dict[str, Method]:
        """Method names to functions of the parameter list, for a caller at the address `source`."""
        methods: dict[str, Method] = {
            _camel(name): getattr(self, name) for name in vars(type(self)) if name.startswith("get_")
        }
        methods["sendTransaction"] = lambda params: self.submit(params, source)
        methods["localnetReport"] = lambda params: localnet_report(self._cluster, config_of(params, 0))
        methods["localnetChain"] = lambda params: localnet_chain(self._cluster, config_of(params, 0))
        return methods

    # ---- helpers

    def _bank(self, config: dict[str, Any], key: str = "commitment") -> Bank:
        view = self._cluster.rpc_view
        slot = {"processed": view.best, "confirmed": view.confirmed, "finalized": view.root}[commitment_of(config, key)]
        bank = self._cluster.tree[slot]
        least = config.get("minContextSlot")
        if least is not None and bank.slot < integer(least, "minContextSlot"):
            raise RpcError(
                MIN_CONTEXT_NOT_REACHED, "Minimum context slot has not been reached", {"contextSlot": bank.slot}
            )
        return bank

    def _account(self, bank: Bank, address: Pubkey) -> Any:
        if address == SLOT_HISTORY_SYSVAR:
            return Account(913_326_000, self._slot_history(bank).encode(), SYSVAR_OWNER)
        return bank.account(address, self._cluster.config.slots_in_epoch)

    def _slot_history(self, bank: Bank) -> SlotHistory:
        """The slots of the bank's fork: the rooted chain up to it, and what lies between root and bank."""
        rooted = (slot for slot in self._cluster.rooted if bank.slot - HISTORY_SLOTS < slot <= bank.slot)
        above = (ancestor.slot for ancestor in self._cluster.tree.upwards(bank.slot))
        return SlotHistory.of({*rooted, *above}, bank.slot)

    # ---- the node

    def get_health(self, params: list[Any]) -> object:
        return "ok"

    def get_version(self, params: list[Any]) -> object:
        return {"feature-set": FEATURE_SET, "solana-core": API_VERSION}

    def get_identity(self, params: list[Any]) -> object:
        return {"identity": self._cluster.genesis.node.address}

    def get_genesis_hash(self, params: list[Any]) -> object:
        return base58(self._cluster.genesis.genesis_hash)

    def get_cluster_nodes(self, params: list[Any]) -> object:
        node: dict[str, object] = {
            "pubkey": self._cluster.genesis.node.address,
            "gossip": None,
            "tpu": None,
            "tpuVote": self._vote_address,
            "rpc": self._rpc_address,
            "version": API_VERSION,
            "featureSet": FEATURE_SET,
            "shredVersion": int.from_bytes(self._cluster.genesis.genesis_hash[:2], "little"),
        }
        # The other leaders take votes at the one port that there is: a sender may look its leader up here.
        leaders = [member for member in self._cluster.genesis.participants if member.voter is not None]
        # A field of our own: no node of another cluster is ever sent an announcement.
        blocks = {"localnetBlocks": self._block_address} if self._block_address else {}
        return [{**node, **blocks}] + [{**node, "pubkey": base58(member.identity), "rpc": None} for member in leaders]

    def get_highest_snapshot_slot(self, params: list[Any]) -> object:
        raise RpcError(NO_SNAPSHOT, "No snapshot")

    # ---- slots, epochs

    def get_slot(self, params: list[Any]) -> object:
        return self._bank(config_of(params, 0)).slot

    def get_block_height(self, params: list[Any]) -> object:
        return self._bank(config_of(params, 0)).height

    def get_slot_leader(self, params: list[Any]) -> object:
        return base58(self._cluster.leader(self._bank(config_of(params, 0)).slot))

    def get_epoch_info(self, params: list[Any]) -> object:
        bank = self._bank(config_of(params, 0))
        slots = self._cluster.config.slots_in_epoch
        return {
            "absoluteSlot": bank.slot,
            "blockHeight": bank.height,
            "epoch": bank.epoch,
            "slotIndex": bank.slot % slots,
            "slotsInEpoch": slots,
            "transactionCount": bank.transaction_count,
        }

    def get_leader_schedule(self, params: list[Any]) -> object:
        first = param(params, 0)
        slot_given = first is not None and not isinstance(first, dict)
        config = config_of(params, 0) if isinstance(first, dict) else config_of(params, 1)
        bank = self._bank(config)
        slots = self._cluster.config.slots_in_epoch
        epoch = (integer(first, "slot") if slot_given else bank.slot) // slots
        if epoch > bank.epoch + 1:
            return None
        wanted = pubkey_of(config["identity"]) if config.get("identity") is not None else None
        schedule: dict[str, list[int]] = {}
        for index, leader in enumerate(self._cluster.schedule(epoch)):
            if wanted is None or bytes(wanted) == leader:
                schedule.setdefault(base58(leader), []).append(index)
        return schedule

    def get_latest_blockhash(self, params: list[Any]) -> object:
        bank = self._bank(config_of(params, 0))
        value = {"blockhash": base58(bank.blockhash), "lastValidBlockHeight": bank.height + BLOCKHASH_VALID_BLOCKS}
        return with_context(bank, value)

    # ---- accounts

    def get_account_info(self, params: list[Any]) -> object:
        address, config = pubkey_of(param(params, 0)), config_of(params, 1)
        bank = self._bank(config)
        encoding_of(config, "binary")
        return with_context(bank, account_json(self._account(bank, address), config))

    def get_multiple_accounts(self, params: list[Any]) -> object:
        addresses, config = param(params, 0), config_of(params, 1)
        if not isinstance(addresses, list):
            raise RpcError(INVALID_PARAMS, "Invalid params: expected an array of addresses.")
        if len(addresses) > ACCOUNTS_MAX:
            raise RpcError(INVALID_PARAMS, f"Too many inputs provided; max {ACCOUNTS_MAX}")
        keys = [pubkey_of(address) for address in addresses]
        bank = self._bank(config)
        encoding_of(config, "base64")
        return with_context(bank, [account_json(self._account(bank, key), config, "base64") for key in keys])

    def get_program_accounts(self, params: list[Any]) -> object:
        program, config = pubkey_of(param(params, 0)), config_of(params, 1)
        bank = self._bank(config)
        filters = config.get("filters") or []
        if not isinstance(filters, list):
            raise RpcError(INVALID_PARAMS, "Invalid params: filters must be an array.")
        found = [
            {"pubkey": str(address), "account": account_json(account, config, "base64")}
            for address, account in sorted(bank.accounts.items(), key=lambda item: bytes(item[0]))
            if account.owner == program and all(_matches(bytes(account.data), wanted) for wanted in filters)
        ]
        return with_context(bank, found) if config.get("withContext") else found

    def get_balance(self, params: list[Any]) -> object:
        address, config = pubkey_of(param(params, 0)), config_of(params, 1)
        bank = self._bank(config)
        account = self._account(bank, address)
        return with_context(bank, account.lamports if account else 0)

    def get_vote_accounts(self, params: list[Any]) -> object:
        config = config_of(params, 0)
        bank = self._bank(config)
        only = pubkey_of(config["votePubkey"]) if config.get("votePubkey") is not None else None
        distance = config.get("delinquentSlotDistance")
        distance = DELINQUENT_SLOTS if distance is None else integer(distance, "delinquentSlotDistance")
        current: list[object] = []
        delinquent: list[object] = []
        for vote_account, state in sorted(bank.votes.items()):
            if only is not None and vote_account != bytes(only):
                continue
            last = state.last_voted_slot or 0
            entry = {
                "votePubkey": base58(vote_account),
                "nodePubkey": base58(state.node_pubkey),
                "activatedStake": bank.stakes.get(vote_account, 0),
                "epochVoteAccount": vote_account in bank.stakes,
                "commission": 0,
                "lastVote": last,
                "epochCredits": [list(earned) for earned in state.epoch_credits[-5:]],
                "rootSlot": state.root or 0,
            }
            alive = last > bank.slot - distance if bank.slot >= distance else last > 0
            (current if alive else delinquent).append(entry)
        return {"current": current, "delinquent": delinquent}

    def get_block_commitment(self, params: list[Any]) -> object:
        slot = integer(param(params, 0), "slot")
        view = self._cluster.rpc_view
        commitment = None
        if slot >= view.root and view.on_chain(slot):
            commitment = [0] * LOCKOUT_DEPTH
            for vote_account, stake in self._cluster.genesis.stakes.items():
                state = view.tip.votes.get(vote_account)
                counts = [count for voted, count in state.lockouts if voted >= slot] if state else []
                if counts:  # a vote on this fork at or above the slot confirms it as deep as the oldest such vote
                    commitment[min(counts[0], LOCKOUT_DEPTH) - 1] += stake
                elif state is not None and state.root is not None and state.root >= slot:
                    commitment[LOCKOUT_DEPTH - 1] += stake
        return {"commitment": commitment, "totalStake": self._cluster.genesis.total_stake}

    # ---- transactions

    def get_signature_statuses(self, params: list[Any]) -> object:
        texts = param(params, 0)
        if not isinstance(texts, list):
            raise RpcError(INVALID_PARAMS, "Invalid params: expected an array of signatures.")
        if len(texts) > SIGNATURES_MAX:
            raise RpcError(INVALID_PARAMS, f"Too many inputs provided; max {SIGNATURES_MAX}")
        signatures = [signature_of(text) for text in texts]
        view = self._cluster.rpc_view
        return with_context(view.tip, [self._status(signature) for signature in signatures])

    def _status(self, signature: bytes) -> object:
        found = self._cluster.where(signature)
        if found is None:
            return None
        bank, executed = found
        view = self._cluster.rpc_view
        rooted = bank.slot <= view.root
        return {
            "slot": bank.slot,
            "confirmations": None if rooted else view.tip.height - bank.height,
            "err": executed.error,
            "status": {"Ok": None} if executed.error is None else {"Err": executed.error},
            "confirmationStatus": self._commitment(bank),
        }

    def _commitment(self, bank: Bank) -> str:
        view = self._cluster.rpc_view
        if bank.slot <= view.root:
            return "finalized"
        return "confirmed" if bank.slot <= view.confirmed else "processed"

    def get_transaction(self, params: list[Any]) -> object:
        signature, second = signature_of(param(params, 0)), param(params, 1)
        config = {"encoding": second} if isinstance(second, str) else config_of(params, 1)
        if config.get("commitment") == "processed":
            raise RpcError(INVALID_PARAMS, "Method does not support commitment below `confirmed`")
        newest = self._bank(config).slot
        encoding = config.get("encoding") or "json"
        if encoding not in ("json", "base58", "base64"):
            raise RpcError(INVALID_PARAMS, "Invalid params: this cluster encodes transactions as json, base58, base64.")
        found = self._cluster.where(signature)
        if found is None or found[0].slot > newest:
            return None
        bank, executed = found
        meta = {
            "err": executed.error,
            "status": {"Ok": None} if executed.error is None else {"Err": executed.error},
            "fee": executed.fee,
            "preBalances": list(executed.balances_before),
            "postBalances": list(executed.balances_after),
            "innerInstructions": [],
            "logMessages": list(executed.logs),
            "preTokenBalances": [],
            "postTokenBalances": [],
            "rewards": [],
        }
        answer = {"slot": bank.slot, "blockTime": bank.unix_timestamp, "meta": meta}
        if config.get("maxSupportedTransactionVersion") is not None:
            answer["version"] = "legacy"
        if encoding == "json":
            return {**answer, "transaction": _transaction_json(Transaction.from_bytes(executed.raw))}
        encoded = base58(executed.raw) if encoding == "base58" else base64.b64encode(executed.raw).decode()
        return {**answer, "transaction": [encoded, encoding]}

    def submit(self, params: list[Any], source: str) -> object:
        """`sendTransaction` from the address `source`."""
        config = config_of(params, 1)
        raw = packet_of(param(params, 0), config.get("encoding") or "base58")
        intake = self._cluster.arrive(raw, source)
        if intake.transaction is None:
            raise RpcError(INVALID_PARAMS, f"failed to deserialize solana_transaction: {intake.problem}")
        if not intake.signed:
            raise RpcError(SIGNATURE_FAILED, "Transaction signature verification failure")
        if intake.problem is not None:
            raise RpcError(INVALID_PARAMS, f"this cluster executes votes only: {intake.problem}")
        if not config.get("skipPreflight"):
            self._preflight(intake.transaction, config)
        self._cluster.enqueue(intake)
        return str(intake.transaction.signatures[0])

    def _preflight(self, transaction: Transaction, config: dict[str, Any]) -> None:
        bank = self._bank({"commitment": config.get("preflightCommitment")})
        young = (bank.blockhash, *bank.recent_blockhashes)
        if bytes(transaction.message.recent_blockhash) not in young:
            raise RpcError(
                PREFLIGHT_FAILED,
                "Transaction simulation failed: Blockhash not found",
                {"err": "BlockhashNotFound", "logs": []},
            )


def _camel(name: str) -> str:
    """`get_slot` is served as `getSlot`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _matches(data: bytes, wanted: object) -> bool:
    """One filter of getProgramAccounts: `dataSize` or `memcmp`."""
    if isinstance(wanted, dict) and "dataSize" in wanted:
        return len(data) == integer(wanted["dataSize"], "dataSize")
    compare = wanted.get("memcmp") if isinstance(wanted, dict) else None
    if not isinstance(compare, dict):
        raise RpcError(INVALID_PARAMS, "Invalid params: a filter has dataSize or memcmp.")
    offset = integer(compare.get("offset"), "memcmp.offset")
    expected = packet_of(compare.get("bytes"), compare.get("encoding") or "base58")
    return data[offset : offset + len(expected)] == expected


def _transaction_json(transaction: Transaction) -> dict[str, object]:
    message = transaction.message
    header = message.header
    return {
        "signatures": [str(signature) for signature in transaction.signatures],
        "message": {
            "header": {
                "numRequiredSignatures": header.num_required_signatures,
                "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
                "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
            },
            "accountKeys": [str(key) for key in message.account_keys],
            "recentBlockhash": str(message.recent_blockhash),
            "instructions": [
                {
                    "programIdIndex": instruction.program_id_index,
                    "accounts": list(bytes(instruction.accounts)),
                    "data": base58(bytes(instruction.data)),
                    "stackHeight": None,
                }
                for instruction in message.instructions
            ],
        },
    }
