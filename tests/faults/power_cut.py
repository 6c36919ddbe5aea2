"""T4: cuts the power while runs are submitted and end, and looks at what is left.

    python -m tests.faults.power_cut FOLDER CUTS SEED      as root, in a mount namespace of its own
    python -m tests.faults.power_cut write PROJECT         the writer, started by the former

A file system of its own on a loop device is shut down without its journal being written back, and mounted
again.  In the namespace of others a process could pin the dead file system.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import time
import uuid

from aml_jupyter import artifacts, experiment, processes, runs
from aml_jupyter.config import find_project
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from aml_jupyter.snapshot import Store
from aml_jupyter.supervisor import supervise

FS_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# what is only looked at again before the end of a run, or made again from what is kept, is not synced
HARMLESS = {"run.half_made", "id.missing", "id.damaged", "job.corrupt", "index.corrupt"}
SCRIPT = """
data = open("data.txt").read()
print("flushed " + data.split()[-1], flush=True)
open("outputs/model.bin", "w").write(data)
"""


def write(project: str) -> None:
    """Submit and end runs for ever, as a submitter and a supervisor do; say what is acknowledged."""
    os.chdir(project)
    number = 0
    while True:
        number += 1
        with open("data.txt", "w") as file:
            file.write(f"{os.getpid()} {number} " * 100)
        directory = experiment.write(experiment.plan(Request(script="script.py"), find_project()))
        say("submitted", directory.run_id, str(number))
        if number % 2:
            supervise(directory.path, {})
            say("ended", directory.run_id)


def say(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())


class Machine:
    """A disk, what lies on it, and what was acknowledged by whoever wrote there."""

    def __init__(self, base: str, seed: int) -> None:
        self.disk, self.project, self.image = base + "/disk", base + "/project", base + "/image"
        self.boot_id = base + "/boot_id"
        self.home = self.disk + "/aml"
        self.random = random.Random(seed)
        self.acknowledged: dict[str, dict[str, list[str]]] = {}
        os.environ.update(AML_HOME=self.home, HOME=base + "/home")
        for folder in (self.disk, self.project, base + "/home"):
            os.mkdir(folder)
        with open(self.project + "/script.py", "w") as file:
            file.write(SCRIPT)
        subprocess.run(["truncate", "-s", "96M", self.image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        self.start()
        subprocess.run(["mount", "--bind", self.boot_id, BOOT_ID], check=True)

    def start(self) -> None:
        """What a start of the machine does."""
        with open(self.boot_id, "w") as file:
            file.write(f"{uuid.uuid4()}\n")
        subprocess.run(["mount", "-o", "loop", self.image, self.disk], check=True)
        with open(self.disk + "/writable", "w") as file:
            file.write("yes")
            os.fsync(file.fileno())

    def work_until_power_fails(self) -> int:
        """How many acknowledgements there were until then."""
        command = [sys.executable, "-m", "tests.faults.power_cut", "write", self.project]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert writer.stdout is not None
        said = os.read(writer.stdout.fileno(), 1 << 16)
        assert said, "the writer ended"
        time.sleep(self.random.uniform(0, 0.4))
        # stopped first and heard out: an answer on its way is no lost answer
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        os.set_blocking(writer.stdout.fileno(), False)
        while block := writer.stdout.read(1 << 16):
            said += block
        self.fail()
        writer.wait()
        writer.stdout.close()
        for line in said.decode().splitlines():
            what, run_id, *rest = line.split()
            self.acknowledged.setdefault(run_id, {})[what] = rest
        return said.count(b"\n")

    def fail(self) -> None:
        """The power goes."""
        fd = os.open(self.disk, os.O_RDONLY)
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
        os.close(fd)
        self.end_everything()
        # what ends gives its memory back first and its files a moment later
        for _ in range(100):
            if not subprocess.run(["umount", self.disk], stderr=subprocess.DEVNULL).returncode:
                return
            time.sleep(0.02)
        raise AssertionError("somebody holds the dead disk")

    def end_everything(self) -> None:
        """End all processes of the runs."""
        marker = f"AML_HOME={self.home}".encode()
        for _ in range(500):
            left = [pid for pid in processes.with_environment(marker) if pid != os.getpid()]
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.01)
        raise AssertionError(f"still there: {left}")

    def examine(self) -> None:
        """Everything that was acknowledged must be there, and whole."""
        store = Store(self.home + "/snapshots")
        for run_id, said in self.acknowledged.items():
            directory = runs.at(self.home, run_id)
            assert directory is not None, f"{run_id} is lost"
            data = store.read(runs.load_record(directory).snapshot_id, "data.txt").decode()
            assert data.split()[-1] == said["submitted"][0], f"{run_id}: another snapshot"
            if "ended" in said:
                self.examine_ended(directory, data)
        damage = [one for one in runs.check(self.home) if one.code not in HARMLESS]
        assert not damage, damage[:5]
        assert store.check() == [], store.check()
        with runs.History(self.home) as history:
            assert {row["run_id"] for row in history.rows(limit=None)} >= self.acknowledged.keys()

    def examine_ended(self, directory: RunDirectory, data: str) -> None:
        """Ending, artifact and log of a run."""
        record = runs.load_record(directory)
        assert record.status == "Completed", f"{directory.run_id} was Completed and is {record.status}"
        kept = artifacts.listing(directory)
        assert [one.path for one in kept] == ["outputs/model.bin"], (directory.run_id, kept)
        model = f"{self.home}/artifacts/ExperimentRun/{directory.run_id}/outputs/model.bin"
        with open(model) as file:
            assert file.read() == data, f"{directory.run_id}: another artifact"
        with open(directory.log) as file:
            said = file.read()
        assert said == f"flushed {data.rsplit(maxsplit=1)[-1]}\n", f"{directory.run_id}: {said}"

    def finish_one(self) -> None:
        """A run that was acknowledged and never started can be continued, or says that it cannot."""
        for run_id, said in self.acknowledged.items():
            directory = runs.at(self.home, run_id)
            assert directory is not None
            if "ended" not in said and not runs.load_record(directory).ended:
                assert supervise(directory.path, {})
                record = runs.load_record(directory)
                assert record.status == "Completed" or record.reason == "run.lost", (run_id, record.error)
                return

    def clear(self) -> None:
        """Make room: what was looked at is known to be whole."""
        subprocess.run(["rm", "-rf", self.home], check=True)
        os.sync()
        self.acknowledged.clear()


def cut(base: str, cuts: int, seed: int) -> None:
    machine = Machine(base, seed)
    total = 0
    try:
        for _ in range(cuts):
            total += machine.work_until_power_fails()
            machine.start()
            machine.examine()
            machine.finish_one()
            if len(machine.acknowledged) > 60:
                machine.clear()
    finally:
        machine.end_everything()
        subprocess.run(["umount", "-l", machine.disk], check=False)
    print(f"{cuts} cuts, {total} acknowledgements, none lost")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        cut(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
