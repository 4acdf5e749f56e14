"""Faults of the file store: power that fails, a disk that is full or becomes read-only."""

from __future__ import annotations

import shutil

from tests.fault.disk import image, load_disk
from tests.fault.host import bind_read_only, mount_small, unmount
from tests.fault.scenario import restarted, scenario
from tests.fault.traffic import Stage, wait
from tower.validator.config import Exit

__all__: list[str] = []


@scenario("power cuts of a file store", in_ci=True, store="file")
def power(stage: Stage) -> None:
    folder = stage.world.towers
    owner = stage.machine("primary")
    before: dict[str, bytes] = {}
    for number in range(5):
        log = stage.folder / f"disk-{number}.jsonl"
        owner.environment |= {"FAULT_DISK": str(log), "FAULT_DISK_FOLDER": str(folder)}
        owner.start().wait_running()
        stage.flows(4, owner)
        with stage.strike("power cut") as strike:
            owner.kill()
            left, lost = image(load_disk(log), before)
            seen = {path.name: path.read_bytes() for path in folder.iterdir()}
            for path in folder.iterdir():
                path.unlink()
            for name, content in left.items():
                (folder / name).write_bytes(content)
            before = left
            strike.proof["killed"] = owner.process.returncode == -9
            strike.proof["the record of the disk is whole"] = set(left) <= set(seen) | {name + ".new" for name in seen}
            strike.proof["a tower is left"] = any(name.startswith("tower-") for name in left)
            strike.proof["changes that were lost"] = f"{lost}"
            log = stage.folder / f"disk-{number}-after.jsonl"
            owner.environment |= {"FAULT_DISK": str(log)}
            strike.restarted = True
            owner.start().wait_running()
            stage.flows(3, owner)
        owner.process.terminate()
        assert owner.ended() == Exit.OK
        before = {path.name: path.read_bytes() for path in folder.iterdir()}


def _fill(stage: Stage) -> None:
    with open(stage.world.towers / "filler", "ab", buffering=0) as sink:
        for size in (65536, 4096, 1):
            try:
                while True:
                    sink.write(bytes(size))
            except OSError:
                continue


@scenario("disks of a file store", needs="root", store="file")
def disks(stage: Stage) -> None:
    folder = stage.world.towers
    mount_small(folder, 4)
    stage.stack.callback(unmount, folder)
    owner = stage.machine("primary").start()
    owner.wait_running()
    stage.flows(4, owner)
    with stage.strike("ledger full") as strike:
        _fill(stage)
        strike.proof["no byte is left"] = shutil.disk_usage(folder).free == 0
        wait(lambda: not owner.running, "the owner ends", 40)
        strike.proof["the owner says why"] = "No space left on device" in owner.log
        (folder / "filler").unlink()
        restarted(stage, strike, owner)
    with stage.strike("ledger read-only") as strike:
        bind_read_only(folder)
        wait(lambda: not owner.running, "the owner ends", 40)
        strike.proof["the owner says why"] = "Read-only file system" in owner.log
        unmount(folder)
        restarted(stage, strike, owner)
