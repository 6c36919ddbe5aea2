"""Every row of the fault matrix has a test that carries its id, or says here what it waits for.

The rows are the faults that configuration (C), snapshots (S), local runs (L), containers (D), remote
machines (R), logs (G), the history (H), artifacts (A), kernel and magics (K), the command (Z) and everything
together (X)
must survive.  A test of a row is named `test_<id>_...`, or `test_<id>_<id>_...` when it shows several.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROWS = {
    "C1": "tags in YAML",
    "C2": "an alias bomb",
    "C3": "deep nesting, huge files",
    "C4": "repeated keys, tabs, byte order mark, CRLF, more documents, nothing",
    "C5": "values that YAML reads otherwise than they were written",
    "C6": "misspelt keys",
    "C7": "the share on Docker without sharedVolumes",
    "C8": "the share on a cluster",
    "C9": "names of account, workspace and project that are no folder names",
    "C10": "a file that is replaced, unreadable, a FIFO, a link to a device",
    "C11": "an address that is an option of ssh",
    "C12": "passwords in clear",
    "S1": "more than 25 MiB, sparse and growing files",
    "S2": "more than 100,000 files",
    "S3": "a file that changes while it is read",
    "S4": "files and folders that vanish",
    "S5": "files and links that swap places",
    "S6": "links out of the project",
    "S7": "links inside, loops, dangling links",
    "S8": "FIFOs, sockets, devices",
    "S9": "unreadable files and folders",
    "S10": "odd names and deep paths",
    "S11": "names that other systems cannot hold or tell apart",
    "S12": "no space, quota, no inodes",
    "S13": "read errors",
    "S14": "killed at any call",
    "S15": "secrets in the project",
    "S16": "hard links, setuid, holes, old times",
    "S17": "abuse of ignore files",
    "S18": "a project that is /, HOME or holds the store",
    "S19": "exFAT, FUSE, slow disks",
    "L1": "the kernel is killed, restarted, shut down, interrupted",
    "L2": "the runtime is killed",
    "L2b": "the supervisor is killed",
    "L3": "every ending of a process, stopped ones",
    "L4": "the machine restarts, power fails",
    "L5": "scripts that leave daemons",
    "L6": "scripts that ignore signals or fork without end",
    "L7": "a cancel that races with the end",
    "L8": "outputs/ removed, replaced, unreadable",
    "L9": "a script that edits or deletes its run folder",
    "L10": "no memory, limits, full disk caused by the script",
    "L11": "no interpreter",
    "L12": "many submits at once",
    "L13": "a pid that is used again",
    "L14": "a clock that jumps",
    "D1": "no engine, or no permission to use it",
    "D2": "an image that cannot be had",
    "D3": "what an engine refuses to start",
    "D4": "every ending of a container, memory",
    "D5": "an engine that is stopped, killed, restarted",
    "D6": "an engine that goes away while a log is followed",
    "D7": "containers and images that others remove, pause, stop, rename, prune",
    "D8": "containerd and shims that are killed",
    "D9": "a full disk of the engine",
    "D10": "whose the files of a container are",
    "D11": "archives that are compressed, or put into a container that runs",
    "D12": "hostile members of an archive",
    "D13": "outputs/ that is a link",
    "D14": "a supervisor that is killed around the start of a container",
    "D15": "wrong clocks and other time zones in containers",
    "R1": "an unknown host key",
    "R2": "a changed host key",
    "R3": "a line that is cut while files are sent or brought",
    "R4": "a line that falls silent during the run",
    "R5": "an answer that is lost, a supervisor that is killed",
    "R6": "an sshd that restarts, limits of sessions and logins",
    "R7": "a slow line",
    "R8": "a full or closed disk there",
    "R9": "no engine there, or none for that user",
    "R10": "banners, noisy profiles, fish and csh, locale C",
    "R11": "two who use one machine",
    "R12": "a machine or an engine that restarts",
    "R13": "agent forwarding, keys with a passphrase, expired certificates",
    "R14": "a machine that lies",
    "G1": "a gigabyte of lines",
    "G2": "one long line",
    "G3": "control characters, bytes that are no text",
    "G4": "a log that is truncated while it is read",
    "G5": "no space for the log",
    "G6": "a script that closes its output",
    "G7": "viewers that are slow, many, gone",
    "G8": "secrets that a script prints",
    "H1": "killed at any call of a change of state",
    "H2": "power cut",
    "H3": "a hundred writers, a long reader, a stuck writer",
    "H4": "full disk",
    "H5": "damaged bytes",
    "H6": "wrong rows",
    "H7": "network and foreign file systems",
    "H8": "older and newer formats",
    "H9": "an SQLite whose write-ahead log loses data",
    "H10": "a file system that is read-only",
    "H11": "hostile text in names",
    "H12": "two that end the same run",
    "A1": "links among the outputs",
    "A2": "hard links",
    "A3": "FIFOs, sockets, devices, holes, odd modes",
    "A4": "files that are still written",
    "A5": "files that vanish",
    "A6": "names of any kind",
    "A7": "downloads that lead elsewhere",
    "A8": "a store that is busy",
    "A9": "credentials that expire",
    "A10": "cuts before and after the store has it",
    "A11": "lost parts, a lost commit",
    "A12": "flipped bits, truncated answers, altered blobs",
    "A13": "a store that says nothing",
    "A14": "a pusher that is killed in the middle",
    "A15": "a wrong clock",
    "A16": "missing containers, names, rights, policies, leases",
    "A17": "too many and too large files",
    "A18": "a full disk while files are fetched",
    "A19": "blobs that somebody removed or changed later",
    "A20": "names that cross containers",
    "K1": "cells of any text",
    "K2": "lines of any words",
    "K3": "an interrupt in every phase",
    "K4": "a kernel that dies while it submits",
    "K5": "the same cell twice, two kernels",
    "K6": "a notebook that is unsaved, renamed, moved",
    "K7": "output after a restart of the kernel",
    "K8": "packages that cannot be imported",
    "Z1": "closed, full and odd standard streams",
    "Z2": "hostile names in files and on the terminal",
    "Z3": "unknown, ambiguous, damaged runs",
    "Z4": "two that clean up at once, during a run",
    "Z5": "secrets on the command line",
    "X1": "another user of the machine",
    "X2": "the whole environment",
    "X3": "logins in addresses",
    "X4": "dependencies that are too old",
    "X5": "a week of runs",
    "X6": "a hostile project",
}
# rows without a test: what they wait for, and where the test will live
WAITING: dict[str, str] = {}
# rows whose tests show a part: what else there is to show, and what it waits for
PARTLY = {
    "C8": "a real run on a cluster, which waits for its executor (tests/executors/test_cluster.py)",
    "G7": "a stalled WebSocket, which waits for the server extension (tests/test_server.py)",
    "H2": "cell.py and request.json are not synced: a cut within milliseconds of the submit, or of a short"
    " run, can leave them empty; record, snapshot, log and artifacts are whole (tests/faults/power_cut.py)",
    "H7": "NFS and SMB, which this kernel lacks, and a warning by the kind of disk, which is not built",
    "K6": "a warning of unsaved changes, which only the page knows: the JupyterLab extension (ui-tests)",
    "K7": "output that comes back through a comm in a browser: the JupyterLab extension (ui-tests)",
    "K8": "a target that names its missing package, which waits for Docker and Azure (tests/executors)",
    "S12": "a quota (EDQUOT), which needs a file system with quotas",
    "X4": "`doctor`, which is not built: floors are those of pyproject.toml (tests/test_cli.py)",
    "X5": "eight hours and a disk that fills slowly: AML_SOAK_RUNS=100000 make soak",
}

_NAME = re.compile(r"test_((?:[A-Z]{1,2}\d+b?_)+)")


def rows_with_tests() -> dict[str, list[str]]:
    """Names of test functions by the row ids they carry."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (named := _NAME.match(node.name)):
                for row in named[1].rstrip("_").split("_"):
                    found.setdefault(row, []).append(node.name)
    return found


def test_every_row_has_a_test_or_says_what_it_waits_for() -> None:
    missing = ROWS.keys() - rows_with_tests().keys() - WAITING.keys()
    assert not missing, {row: ROWS[row] for row in missing}


def test_no_row_that_has_a_test_is_said_to_wait() -> None:
    tested = rows_with_tests()
    assert not {row: tested[row] for row in WAITING.keys() & tested.keys()}
    assert PARTLY.keys() <= tested.keys()


def test_only_rows_that_exist_wait() -> None:
    assert WAITING.keys() | PARTLY.keys() <= ROWS.keys()
    assert not WAITING.keys() & PARTLY.keys()
