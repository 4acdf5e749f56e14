"""`openos-validator` as it is, on a store whose operations are written down: `python -m tests.fault.instance FLAGS`.

The environment says what else: `FAULT_HISTORY` (the file of its operations), `FAULT_NAME`, `FAULT_COPIES` (late copies of
writes while that file exists), `FAULT_LEGACY` (1: an older validator's way of storing), `FAULT_DISK` (the file of every change
that it makes to the files of its store).
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from tests.fault.disk import record_disk
from tests.fault.history import Recorder
from tests.fault.legacy import LegacyStore
from tests.fault.recorded_store import Copies, RecordedStore
from tower.validator import store_options

__all__ = ["main"]


def main() -> int:
    """Wrap what opens the store, then be the validator; its exit status."""
    environment = os.environ
    process = f"{environment['FAULT_NAME']}-{os.getpid()}-{secrets.token_hex(2)}"
    recorder = Recorder(Path(environment["FAULT_HISTORY"]), process)
    opened = store_options.open_store
    numbers = itertools.count(1)

    def open_recorded(config: Any) -> Any:
        if environment.get("FAULT_LEGACY"):
            (endpoint,) = config.etcd.endpoints[:1]
            return LegacyStore(endpoint, Path(environment["FAULT_LEGACY"]), recorder)
        copies = None
        if switch := environment.get("FAULT_COPIES"):
            copies = Copies(Path(switch), lambda: opened(config), recorder, seed=os.getpid())
        return RecordedStore(opened(config), recorder, f"store-{next(numbers)}", copies)

    store_options.open_store = open_recorded
    if path := environment.get("FAULT_DISK"):
        record_disk(Path(path), Path(environment["FAULT_DISK_FOLDER"]))
    from tower.validator.cli import main as validator  # only now: it takes `open_store` by name

    return validator(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
