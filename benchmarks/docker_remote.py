"""Bytes that go to a machine behind ssh when one file of a project of 25 MB has changed, beside rsync.

    python benchmarks/docker_remote.py [--rounds 3]

An sshd of its own on loopback, the engine of this computer behind it, and between them a relay that counts:
everything that crosses is in the figures, handshakes, questions to the engine and the log included.
Needs root, sshd and ssh; rsync is left out where there is none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aml_jupyter import experiment
from aml_jupyter.config import find_project
from tests.sshd import Sshd

IMAGE = "python:3.11-slim"
FILES, SIZE = 2000, 12_500


class Relay:
    """Passes connections on to a port of loopback and counts the bytes of both ways."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.sent = self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            try:
                there = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # the server has ended
                here.close()
                continue
            threading.Thread(target=self._pass, args=(here, there, "sent"), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, here, "received"), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        try:
            while data := source.recv(1 << 16):
                setattr(self, counter, getattr(self, counter) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone, and with it what there was to pass on
            return


class Cost(NamedTuple):
    """What one step took: bytes to the machine and from it, seconds."""

    sent: int
    received: int
    seconds: float


def make_project(folder: Path, server: Sshd, port: int) -> Path:
    """25 MB in 2,000 files, and a target on the machine."""
    (folder / "aml_config").mkdir(parents=True)
    (folder / "hi.py").write_text('print("hi")\n')
    for number in range(FILES):
        below = folder / f"d{number // 50:03d}"
        below.mkdir(exist_ok=True)
        (below / f"f{number}.bin").write_bytes(os.urandom(SIZE))
    keys = ["type: remotedocker", f"address: 127.0.0.1:{port}", "username: root", "sharedVolumes: true"]
    keys += [f"baseDockerImage: {IMAGE}", f"privateKey: {server.user_key}"]
    (folder / "aml_config/box.compute").write_text("\n".join(keys) + "\n")
    return folder


def run(folder: Path, relay: Relay) -> Cost:
    """A run of the project, from the call to its final record."""
    before, began = (relay.sent, relay.received), time.perf_counter()
    directory = experiment.submit(experiment.Request(target="box", script="hi.py"), find_project(str(folder)))
    record = experiment.wait(directory)
    assert record.status == "Completed", record.error
    return Cost(relay.sent - before[0], relay.received - before[1], time.perf_counter() - began)


def rsync(folder: Path, relay: Relay, server: Sshd, into: str) -> Cost:
    """The same files by rsync over the same ssh."""
    options = " ".join(f"-o {one}" for one in server.options)
    shell = f"ssh -p {relay.port} -i {server.user_key} {options}"
    before, began = (relay.sent, relay.received), time.perf_counter()
    subprocess.run(["rsync", "-a", "-e", shell, f"{folder}/", f"root@127.0.0.1:{into}/"], check=True)
    return Cost(relay.sent - before[0], relay.received - before[1], time.perf_counter() - began)


def change(folder: Path, number: int) -> None:
    """Another content for one file."""
    (folder / f"d000/f{number}.bin").write_bytes(os.urandom(SIZE))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    results: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(AML_HOME=f"{scratch}/home")
        os.mkdir(f"{scratch}/there")
        with Sshd(MaxSessions=30, SetEnv=f"HOME={scratch}/there") as server:
            relay = Relay(server.port)
            name, key = server.known_name, Path(server.known_hosts).read_text()
            Path(server.known_hosts).write_text(key + key.replace(name, f"[127.0.0.1]:{relay.port}"))
            os.environ["AML_SSH_OPTIONS"] = " ".join(server.options)
            folder = make_project(Path(scratch, "project"), server, relay.port)
            results["first run, 25 MB"] = [run(folder, relay)]
            if shutil.which("rsync"):
                results["first rsync"] = [rsync(folder, relay, server, f"{scratch}/copy")]
            for number in range(rounds):
                results.setdefault("run, nothing changed", []).append(run(folder, relay))
                change(folder, number)
                results.setdefault("run, one file changed", []).append(run(folder, relay))
                if shutil.which("rsync"):
                    again = rsync(folder, relay, server, f"{scratch}/copy")
                    results.setdefault("rsync, one file changed", []).append(again)
    report(results)


def report(results: dict[str, list[Cost]]) -> None:
    """Print medians, and the share of the project that was sent."""
    print(f"{'':<26}{'sent':>12}{'of 25 MB':>10}{'received':>12}{'seconds':>9}")
    for name, rows in results.items():
        sent, received, seconds = (statistics.median(row[i] for row in rows) for i in range(3))
        print(f"{name:<26}{sent:12,.0f}{sent / (FILES * SIZE):10.2%}{received:12,.0f}{seconds:9.2f}")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
