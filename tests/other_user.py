"""Another user of the machine, who runs the product: nobody's privileges, a home of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.requirements import need
from tests.terminal import ROOT

UID = 65534
# mounted where this user may look: interpreter, installed packages, sources
_START = """
mount --make-rprivate / &&
mount --bind "$1" python && mount --bind "$2" packages && mount --bind "$3" source &&
cd "$4" && shift 4 && exec "$@"
"""


class OtherUser:
    """A user without privileges and with a folder of their own, who may be in more groups; needs root.

    Interpreter and packages of this process may lie where only root looks: the user sees them through mounts
    of a namespace that ends with its last process.
    """

    # a group that nobody else is in
    GROUP = 54321
    uid = UID

    def __init__(self, *groups: int) -> None:
        need("root")
        for program in ("unshare", "mount", "setpriv"):
            need(program)
        self.groups = groups
        self.folder = Path(tempfile.mkdtemp(prefix="aml-user-"))
        self.folder.chmod(0o755)
        for name in ("python", "packages", "source", "home"):
            (self.folder / name).mkdir()
        self.home = self.folder / "home"
        os.chown(self.home, UID, UID)

    def write(self, name: str, content: str) -> Path:
        """A file of this user's below their home."""
        path = self.home / name
        for folder in reversed([one for one in path.parents if one.is_relative_to(self.home)]):
            if not folder.exists():
                folder.mkdir()
                os.chown(folder, UID, UID)
        path.write_text(content)
        os.chown(path, UID, UID)
        return path

    def run(self, *command: str, cwd: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, below their home, to its end."""
        groups = ",".join(map(str, self.groups))
        privileges = ["--groups", groups] if groups else ["--clear-groups"]
        start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _START, "sh"]
        sources = [sys.base_prefix, sysconfig.get_path("purelib"), ROOT, str(self.home / cwd)]
        reduced = ["setpriv", "--reuid", str(UID), "--regid", str(UID), *privileges, "--no-new-privs"]
        return subprocess.run(
            [*start, *sources, *reduced, *command],
            cwd=self.folder,
            env=self._environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "USER": "somebody",
            "PYTHONPATH": f"{self.folder}/source:{self.folder}/packages",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }

    @property
    def python(self) -> str:
        """The interpreter of this process as that user reaches it."""
        return f"{self.folder}/python/bin/{Path(os.path.realpath(sys.executable)).name}"

    @property
    def aml_home(self) -> str:
        """Where the product keeps what is this user's."""
        return str(self.home / ".azureml")

    def aml(self, *words: str, cwd: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command `aml` as this user."""
        return self.run(self.python, "-P", "-m", "aml_jupyter.cli", *words, cwd=cwd, **variables)

    def remove(self) -> None:
        """Remove what this user had."""
        shutil.rmtree(self.folder, ignore_errors=True)
