"""The fenced transaction through etcd3 0.12.0, run by an interpreter of its own: that library needs an old protobuf.

Knows nothing of this project but the line protocol of `benchmarks.peers.pipe`: {"do": "prepare_store", ...} and
{"do": "store", "calls": n}, answered with the nanoseconds of each call.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

warnings.simplefilter("ignore")  # its descriptors are from another age

import etcd3  # noqa: E402


class Storing:
    def __init__(self, command: dict[str, str]) -> None:
        host, port = command["endpoint"].removeprefix("https://").rsplit(":", 1)
        self._client = etcd3.client(
            host, int(port), ca_cert=command["ca_cert"], cert_cert=command["cert"], cert_key=command["key"], timeout=10,
            grpc_options=[("grpc.ssl_target_name_override", "localhost")],
        )  # fmt: skip
        self._instance, self._tower = f"{command['identity']}/instance", f"{command['identity']}/tower"
        self._value, self._held = bytes.fromhex(command["instance"]), int(command["instance_revision"])
        self._record, self._revision = bytes.fromhex(command["record"]), 0

    def store(self) -> None:
        library = self._client.transactions
        stored, answers = self._client.transaction(
            compare=[
                library.mod(self._instance) == self._held,
                library.value(self._instance) == self._value,
                library.mod(self._tower) == self._revision,
            ],
            success=[library.put(self._tower, self._record)],
            failure=[library.get(self._instance), library.get(self._tower)],
        )
        if not stored:
            raise SystemExit("a fenced transaction was refused")
        self._revision = answers[0].response_put.header.revision


def main() -> None:
    storing = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "prepare_store":
            storing = Storing(command)
            answer: dict[str, object] = {"version": etcd3.__version__}
        elif storing is None:
            raise SystemExit("store came before prepare_store")
        else:
            clock, taken = time.perf_counter_ns, []
            for _ in range(command["calls"]):
                began = clock()
                storing.store()
                taken.append(clock() - began)
            answer = {"nanoseconds": taken}
        print(json.dumps(answer), flush=True)


main()
