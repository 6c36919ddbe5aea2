"""Artifacts into Blob storage beside azure-storage-blob used naively; into the folder of this machine.

    python benchmarks/artifacts.py [--rounds 2] [--size 1024] [--files 1000] [--only large,small,collect]

One Azurite, on disk, on loopback, and a relay in front of it that makes every answer take 30 ms longer. Each
measurement is a process of its own; the ways take turns. obstore is left out where it is not installed. Needs
node and Azurite (`make test` installs it).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.azurite import ACCOUNT, KEY, Azurite

PREFIX = "ExperimentRun/bench_1"
DELAY = 0.015
MANY = 8


# --- the ways: each is given a folder of files, a container and where it is ---------------------------------


def ours(folder: str, container: str, endpoint: str) -> None:
    """As a run does it: hashes are known from the collection."""
    from aml_jupyter.artifacts.opening import open_store
    from aml_jupyter.artifacts.transfer import Upload, upload

    hashes = json.loads(Path(folder + ".json").read_text())
    store = open_store(f"azblob://{container}", {"AZURE_STORAGE_CONNECTION_STRING": connection(endpoint)})
    items = [
        Upload(
            key=f"{PREFIX}/outputs/{name}",
            open=partial(os.open, f"{folder}/{name}", os.O_RDONLY),
            size=os.path.getsize(f"{folder}/{name}"),
            sha256=hashes[name],
        )
        for name in sorted(hashes)
    ]
    for outcome in upload(store, PREFIX, items):
        if outcome.error:
            raise outcome.error


def sdk(folder: str, container: str, endpoint: str, parallel: int = 1) -> None:
    """The SDK as its first example has it: one file after the other; `parallel` parts of each."""
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(connection(endpoint)) as service:
        client = service.get_container_client(container)
        for name in sorted(os.listdir(folder)):
            with Path(folder, name).open("rb") as file:
                client.upload_blob(f"{PREFIX}/outputs/{name}", file, overwrite=True, max_concurrency=parallel)


def sdk_pool(folder: str, container: str, endpoint: str) -> None:
    """The SDK in a pool of threads."""
    from concurrent.futures import ThreadPoolExecutor

    from azure.storage.blob import BlobServiceClient

    with (
        BlobServiceClient.from_connection_string(connection(endpoint)) as service,
        ThreadPoolExecutor(32) as pool,
    ):
        client = service.get_container_client(container)

        def send(name: str) -> None:
            with Path(folder, name).open("rb") as file:
                client.upload_blob(f"{PREFIX}/outputs/{name}", file, overwrite=True)

        list(pool.map(send, sorted(os.listdir(folder))))


def obstore(folder: str, container: str, endpoint: str) -> None:
    """The fastest client that was found."""
    from concurrent.futures import ThreadPoolExecutor

    import obstore as client
    from obstore.store import AzureStore

    store = AzureStore(
        container,
        account_name=ACCOUNT,
        account_key=KEY,
        endpoint=endpoint,
        client_options={"allow_http": True},
    )
    with ThreadPoolExecutor(32) as pool:

        def send(name: str) -> None:
            with Path(folder, name).open("rb") as file:
                client.put(store, f"{PREFIX}/outputs/{name}", file, max_concurrency=MANY)

        list(pool.map(send, sorted(os.listdir(folder))))


WAYS: dict[str, Callable[[str, str, str], None]] = {
    "ours": ours,
    "SDK, one at a time": sdk,
    f"SDK, max_concurrency={MANY}": partial(sdk, parallel=MANY),
    "SDK, pool of 32": sdk_pool,
    "obstore": obstore,
}


def connection(endpoint: str) -> str:
    """What the SDK is given."""
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"


def measure(way: str, folder: str, container: str, endpoint: str) -> None:
    """In a process of its own: wall and CPU seconds, and how much memory it needed beyond its imports."""
    import azure.storage.blob
    import requests

    assert azure.storage.blob
    assert requests
    begun, used = time.perf_counter(), time.process_time()
    before = peak()
    WAYS[way](folder, container, endpoint)
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": peak() - before}))


def peak() -> float:
    """The most memory this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(way: str, folder: Path, server: Azurite, endpoint: str) -> dict[str, float]:
    """One measurement into a fresh container, which is removed."""
    container = server.container()
    command = [sys.executable, __file__, "--measure", way, str(folder), container, endpoint]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(answer.stderr)
    with server.service as service:
        service.delete_container(container)
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def relay(port: int) -> None:
    """In a process of its own: every piece waits 15 ms on its way; prints its port."""
    import asyncio

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        task = asyncio.create_task(deliver())
        try:
            while data := await reader.read(1 << 17):
                await queue.put((loop.time() + DELAY, data))
        except ConnectionError:
            pass
        await queue.put((loop.time(), b""))
        await asyncio.gather(task, return_exceptions=True)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 18)
        await asyncio.gather(pass_on(reader, up_writer), pass_on(up_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 18)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(serve())


# --- what is measured --------------------------------------------------------------------------------------


def make_files(folder: Path, count: int, size: int) -> Path:
    """Files of random bytes, and beside the folder their hashes."""
    folder.mkdir()
    hashes = {}
    block = os.urandom(min(size, 1 << 20))
    for number in range(count):
        hashing = hashlib.sha256()
        with (folder / f"{number:05}.bin").open("wb") as file:
            left = size
            while left:
                # no two blocks alike, without an hour of random numbers
                data = (os.urandom(32) + block[32:])[:left]
                file.write(data)
                hashing.update(data)
                left -= len(data)
        hashes[f"{number:05}.bin"] = hashing.hexdigest()
    Path(f"{folder}.json").write_text(json.dumps(hashes))
    return folder


def compare(title: str, ways: list[str], rounds: int, once: Callable[[str], dict[str, float]]) -> None:
    """Each way in turn; medians, and the median of the ratios to the second, which is the naive one."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        # the naive one takes long: it is measured in every round, first in one and last in the next
        for way in ways if number % 2 else ways[::-1]:
            found[way].append(once(way))
    naive = found[ways[1]]
    print(f"\n{title}")
    for way in ways:
        wall, cpu, memory = (
            statistics.median(one[key] for one in found[way]) for key in ("wall", "cpu", "memory")
        )
        ratio = statistics.median(
            one["wall"] / other["wall"] for one, other in zip(found[way], naive, strict=True)
        )
        print(f"  {way:26} {wall:7.2f} s  {ratio:5.2f}x  CPU {cpu:5.2f} s  memory +{memory:4.0f} MB")


def collect(folder: Path, rounds: int) -> None:
    """Into the folder of this machine: beside hashing alone, and the bytes that reach the disk."""
    from aml_jupyter import artifacts
    from tests.made_runs import submit, write

    ratios, written = [], []
    for number in range(rounds):
        home = folder.parent / f"home{number}"
        directory = submit(str(home))
        write(directory.started_json, {"format": 1})
        os.makedirs(directory.work + "/outputs", exist_ok=True)
        source = next(folder.iterdir())
        mine = Path(directory.work) / "outputs" / source.name
        source.rename(mine)
        size, inode = mine.stat().st_size, mine.stat().st_ino
        begun = time.perf_counter()
        with mine.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        floor = time.perf_counter() - begun
        before = bytes_written()
        begun = time.perf_counter()
        manifest = artifacts.collect(directory)
        seconds = time.perf_counter() - begun
        written.append((bytes_written() - before) / size)
        ratios.append(seconds / floor)
        kept = Path(str(home), "artifacts", manifest.files[0].key)
        assert kept.stat().st_ino == inode
        kept.rename(source)
    print("\ncollection of one large file into the folder store")
    print(f"  {statistics.median(ratios):.2f}x of hashing it; written: {max(written):.4%} of its bytes")


def bytes_written() -> int:
    """What this process has had written to a disk."""
    text = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("write_bytes")))


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--relay"]:
        relay(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, default=1024, help="MB of the large file")
    parser.add_argument("--files", type=int, default=1000, help="how many files of 100 KB")
    parser.add_argument("--only", default="large,small,collect")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {options.rounds}")
    with tempfile.TemporaryDirectory(prefix="aml-bench-") as scratch:
        measure_all(options, Path(scratch))
    print(f"\nload {os.getloadavg()[0]:.1f}")


def measure_all(options: argparse.Namespace, scratch: Path) -> None:
    """The parts that were asked for."""
    fastest = ["obstore"] if importlib.util.find_spec("obstore") else []
    asked = options.only.split(",")
    if "large" in asked or "collect" in asked:
        large = make_files(scratch / "large", 1, options.size << 20)
    server = Azurite(on_disk=True)
    try:
        if "large" in asked:
            ways = ["ours", "SDK, one at a time", f"SDK, max_concurrency={MANY}", *fastest]
            title = f"one file of {options.size} MB"
            compare(title, ways, options.rounds, lambda way: run(way, large, server, server.endpoint))
            with Relay(server.port) as port:
                far = f"http://127.0.0.1:{port}/{ACCOUNT}"
                title += ", 30 ms to the store and back"
                compare(title, ways, options.rounds, lambda way: run(way, large, server, far))
        if "small" in asked:
            small = make_files(scratch / "small", options.files, 100_000)
            with Relay(server.port) as port:
                endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
                ways = ["ours", "SDK, one at a time", "SDK, pool of 32", *fastest]
                compare(
                    f"{options.files} files of 100 KB, 30 ms to the store and back",
                    ways,
                    options.rounds,
                    lambda way: run(way, small, server, endpoint),
                )
    finally:
        server.close()
    if "collect" in asked:
        collect(large, options.rounds)


class Relay:
    """The process of `relay`."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, "--relay", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main()
