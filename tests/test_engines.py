"""The engines that other tests stand on: what they share with an engine of the machine is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import engines
from tests.base_image import BASE_IMAGE, DEFAULT_IMAGE
from tests.engines import Engine, PrivateEngine
from tests.requirements import need
from tests.terminal import environment, until

pytestmark = [pytest.mark.slow]

SLEEP = ("python3", "-c", "import time; print('up', flush=True); time.sleep(600)")


def test_the_engine_of_the_machine_runs_the_base_image(engine: Engine) -> None:
    for name in (BASE_IMAGE, DEFAULT_IMAGE):
        said = engine.docker("run", "--rm", name, "python3", "-c", "import sys; print(sys.version_info[:2])")
        assert said.startswith("(3, ")


def test_what_a_run_leaves_is_listed_by_its_home(engine: Engine, tmp_path: Path) -> None:
    home = str(tmp_path)
    assert engines.leftovers(engine, [home], 0) == []
    mark = engines.home_mark(home)
    name = f"aml-left-{mark}"
    engine.docker("create", "--name", name, "--label=aml.made=1", f"--label=aml.home={mark}", BASE_IMAGE)
    engine.docker("volume", "create", "--label=aml.made=1", f"--label=aml.home={mark}", name)
    try:
        left = engines.leftovers(engine, [home], 0)
        assert [line.split()[0] for line in left] == ["container", "volume"]
        assert engines.leftovers(engine, [home + "/other"], 0) == []
    finally:
        engine.docker("rm", name)
        engine.docker("volume", "rm", name)


@pytest.mark.root
@pytest.mark.faults
@pytest.mark.parametrize("live_restore", [False, True])
def test_a_private_engine_can_be_killed_and_leaves_nothing(engine: Engine, live_restore: bool) -> None:
    own = PrivateEngine(live_restore=live_restore)
    with own:
        own.load_base()
        own.docker("run", "--detach", "--stop-timeout", "1", "--name", "sleeper", BASE_IMAGE, *SLEEP)
        until(lambda: own.docker("logs", "sleeper") == "up")
        assert "sleeper" not in [one["Name"] for one in engine.containers()]
        own.kill()
        assert not own.answers()
        assert own.container_processes()
        assert own.processes() == own.processes("containerd-shim-runc-v2")
        own.start()
        state = own.containers()[0]["State"]
        assert (state["Running"], state["ExitCode"]) == ((True, 0) if live_restore else (False, 137))
        assert own.docker("run", "--rm", BASE_IMAGE, "echo", "again") == "again"
    assert not own.folder.exists()
    assert not Path("/sys/class/net", own.mark).exists()
    assert own.processes() == own.container_processes() == []
    assert own.mark not in Path("/proc/self/mountinfo").read_text()
    assert own.mark not in firewall()
    # the other engine noticed nothing
    assert engine.docker("run", "--rm", BASE_IMAGE, "echo", "here") == "here"


@pytest.mark.root
@pytest.mark.faults
def test_the_disk_of_a_private_engine_can_be_full() -> None:
    with PrivateEngine(disk=500 << 20) as own:
        own.load_base()
        fill = "dd if=/dev/zero of=/x bs=1M 2>&1 || true"
        assert "No space left" in own.docker("run", "--rm", BASE_IMAGE, "sh", "-c", fill)
        assert own.docker("run", "--rm", BASE_IMAGE, "echo", "again") == "again"
    assert str(own.folder) not in Path("/proc/self/mountinfo").read_text()


def firewall() -> str:
    return subprocess.run([need("iptables-save")], capture_output=True, text=True, check=True).stdout


@pytest.mark.root
@pytest.mark.faults
def test_a_private_engine_of_a_killed_process_is_removed_by_the_next() -> None:
    code = (
        "import os; from tests.engines import PrivateEngine; own = PrivateEngine(); own.start();"
        " print(own.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True, timeout=60
    )
    folder = Path(done.stdout.strip())
    mark = json.loads((folder / "state.json").read_text())[0]
    assert Engine(str(folder / "docker.sock")).answers()
    engines.remove_abandoned()
    assert not folder.exists()
    assert mark not in firewall()
