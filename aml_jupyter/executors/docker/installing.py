"""What happens in the container of a build: an environment is installed, compiled and looked at."""

from __future__ import annotations

import os
import sys
from urllib.parse import unquote, urlsplit

from aml_jupyter.config import aml_home
from aml_jupyter.confined import make_root, remove_tree
from aml_jupyter.environment import building, indexes
from aml_jupyter.environment import credentials as addresses
from aml_jupyter.environment.lock import requirements
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.executors.docker import probing, sdk
from aml_jupyter.executors.docker.containers import labels
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.executors.docker.images import PREFIX
from aml_jupyter.executors.docker.packing import Packer, archive
from aml_jupyter.printable import safe_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from aml_jupyter.environment.indexes import Settings
    from aml_jupyter.environment.lock import Lock
    from aml_jupyter.executors import Tell
    from aml_jupyter.executors.docker.images import Probe

# a volume without a name: gone with the container, and in no image
FOLDER = "/run/aml-build"
PYTHON = f"{PREFIX}/bin/python"
# the oldest Python that uv makes environments of
_OLDEST_FOR_UV = (3, 8)
# exit status of a process that got SIGKILL
_KILLED = 128 + 9
# lines of output that an error repeats
_LAST_LINES = 20
# bytes that the output of one command may take in memory, and what a line takes besides its own
LARGEST_OUTPUT = 64 << 20
_LINE = 64

# by the environment's own Python: everybody may read it, its modules are compiled (whoever runs in it may not
# write), and no address in it has credentials
_FINISH = r"""
import json, os, re, stat, sys, time
from importlib.util import cache_from_source

def finish(prefix):
    sources = []
    for folder, folders, names in os.walk(prefix):
        for name in [".", *names]:
            path = os.path.join(folder, name)
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if os.path.islink(path):
                continue
            wanted = mode | 0o444 | (0o111 if name == "." or mode & 0o100 else 0)
            if wanted != mode:
                os.chmod(path, wanted)
            if name == "direct_url.json":
                strip(path)
            if name.endswith(".py") and "/lib/python" in folder:
                if not os.path.exists(cache_from_source(path)):
                    sources.append(path)
    return sources

def strip(path):
    with open(path) as file:
        text = file.read()
    try:
        found = json.loads(text)
        url = str(found["url"])
    except (ValueError, KeyError, TypeError):
        return
    clean = re.sub(r"(https?://)[^/@]*@", r"\1", url).partition("?")[0]
    if clean != url:
        with open(path, "w") as file:
            json.dump(dict(found, url=clean), file)

def compile_one(path):
    import compileall
    compileall.compile_file(path, quiet=2)

if __name__ == "__main__":
    began = time.time()
    sources = finish(sys.argv[1])
    if sources:
        try:
            from concurrent.futures import ProcessPoolExecutor
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(compile_one, sources, chunksize=25))
        except (ImportError, OSError):
            list(map(compile_one, sources))
        print("compiled %d modules in %.1f s" % (len(sources), time.time() - began))
"""

# a small image may lack a library of uv's that the environment has
_LOOK = r"""
[ -w "$1/cache/uv" ] && echo cache
for one in "$1/uv" "$2"; do
  [ -x "$one" ] || continue
  "$one" --version >/dev/null 2>&1 && echo "uv=$one" && break
  LD_LIBRARY_PATH=$3/lib "$one" --version >/dev/null 2>&1 || continue
  echo "uv=$one" && echo "libraries=$3/lib" && break
done
:
"""


class Installation:
    """The steps that turn a container of a base image into one with an environment."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        lock: Lock,
        base: Probe,
        *,
        user: str,
        local: bool,
        credentials: Mapping[str, str],
        tell: Tell,
    ) -> None:
        self.client = client
        self.engine = engine
        self.lock = lock
        self.base = base
        self.user = user
        self.local = local
        # whether an environment is there already that lacks some of the packages
        self.extends = False
        self.credentials = credentials
        self.settings: Settings = indexes.of_user(lock, credentials)
        if lock.pip and len(self._files()) >= len(lock.pip):
            # all of it lies on this machine: no index has to answer
            self.settings = self.settings.replace(no_index=True, default=None, extra=(), find_links=())
        self.uv = self._uv_here()
        self._tell = tell
        if not lock.owns_python and not base.python:
            raise _failed(
                "the base image has no Python, and the environment brings none",
                "Write python=3.11 into aml_config/conda_dependencies.yml, or use another base image.",
            )

    # before the container

    @property
    def needs_host_network(self) -> bool:
        """Whether an index or proxy answers only on this machine's own addresses."""
        return self.local and indexes.is_loopback(self.settings)

    def mounts(self) -> list[Any]:
        """The volume for files of the build; some of this machine's files where the engine sees them."""
        from docker.types import Mount

        marks = labels("build")
        found = [Mount(target=FOLDER, source=None, type="volume", labels=marks)]
        if self.local:
            for name in ("uv", "pip"):
                make_root(f"{aml_home()}/cache/{name}")
                found.append(_bind(f"{aml_home()}/cache/{name}", f"cache/{name}"))
            if self.uv:
                found.append(_bind(self.uv, "uv", read_only=True))
            found += [_bind(path, f"files/{name}", read_only=True) for name, path in self._files().items()]
        return found

    def _uv_here(self) -> str | None:
        """This machine's uv, where the container is of the same kind of machine."""
        from aml_jupyter.environment.pip_packages import find_uv

        if not sys.platform.startswith("linux") or os.uname().machine != self.base.machine:
            return None
        try:
            return os.path.realpath(find_uv())
        except EnvironmentFailed:
            return None

    def _files(self) -> dict[str, str]:
        """Distributions that lie on this machine, by name; the first that fits of each package."""
        found = {}
        for package in self.lock.pip:
            for url, _ in package.files or [(package.url, "")]:
                path = unquote(urlsplit(url).path) if url.startswith("file:") else ""
                if path and os.path.isfile(path):
                    found[os.path.basename(path)] = path
                    break
        return found

    # in the container

    def run(self, container: str, scratch: str) -> Probe:
        """Install everything; what is in the container afterwards.  `scratch` is a folder to be made here.

        Raises EnvironmentFailed `environment.build_failed`, TargetUnavailable.
        """
        self._bring(container)
        if self.lock.conda and not self.extends:
            self._install_conda(container, scratch)
        found = self._look(container)
        if "uv" in found:
            self._with_uv(container, found)
        else:
            self._with_pip(container)
        self._step(container, [PYTHON, "-B", f"{FOLDER}/finish.py", PREFIX], self._environ())
        return self._probe(container)

    def _bring(self, container: str) -> None:
        """Files of the build into its volume, and the folder that the environment will be in."""
        root, own = Packer("0:0"), Packer(self.user)
        parts = [own.folder(f"{FOLDER}/{name}", 0o700) for name in ("home", "scratch")]
        hashed, unhashed = self._requirements(self.lock)
        small = {
            **indexes.files(self.settings),
            "finish.py": _FINISH.encode(),
            "requirements.txt": hashed.encode(),
            "unhashed.txt": unhashed.encode(),
        }
        parts += [own.data(f"{FOLDER}/{name}", data, 0o600) for name, data in small.items()]
        if not self.local:
            self._tell("sending what the build needs to the engine's machine")
            if self.uv:
                parts.append(root.file(f"{FOLDER}/uv", self.uv, 0o755))
            parts += [root.file(f"{FOLDER}/files/{name}", path) for name, path in self._files().items()]
        parts.append(root.folder(f"{FOLDER}/files"))
        if not self.extends:
            parts += [root.folder(PREFIX.rpartition("/")[0]), own.folder(PREFIX)]
        self.engine.put_archive(container, "/", archive(*parts))

    def _requirements(self, lock: Lock) -> tuple[str, str]:
        """The pip packages, those with hashes apart: beside them pip takes none without."""
        clean = lock.replace(packages=tuple(one for one in lock.pip if _has_hash(one)))
        other = lock.replace(packages=tuple(one for one in lock.pip if not _has_hash(one)))
        texts = []
        for part in (clean, other):
            text = addresses.insert(requirements(part), self.credentials)
            for package in part.pip:
                if package.source == "url" and package.url.startswith("file:"):
                    name = package.url.rpartition("/")[2]
                    text = text.replace(package.url, f"file://{FOLDER}/files/{name}")
            texts.append(text)
        return texts[0], texts[1]

    def _install_conda(self, container: str, scratch: str) -> None:
        from aml_jupyter.environment.conda_packages import install_conda

        make_root(scratch)
        here = f"{scratch}/prefix"
        install_conda(self.lock, here, PREFIX, self._tell, credentials=self.credentials)
        self._tell(f"{len(self.lock.conda)} conda packages into the container")
        self.engine.put_archive(container, "/", archive(Packer(self.user).tree(PREFIX, here)))
        remove_tree(scratch)

    def _look(self, container: str) -> dict[str, str]:
        """Which uv runs there (`uv`), with which `libraries`; `cache` when the cache may be written."""
        command = ["/bin/sh", "-c", _LOOK, "look", FOLDER, self.base.uv or "", PREFIX]
        code, lines = self._exec(container, command, self._environ(), quiet=True)
        found = dict(line.partition("=")[::2] for line in lines) if code == 0 else {}
        version = tuple(int(one) for one in (self.base.version or "0").split(".")[:2] if one.isdigit())
        if not self.lock.owns_python and version < _OLDEST_FOR_UV:
            found.pop("uv", None)
        return found

    def _with_uv(self, container: str, found: Mapping[str, str]) -> None:
        from aml_jupyter.environment.pip_packages import install_command

        uv = found["uv"]
        environ = {
            **self._environ(),
            "UV_CACHE_DIR": f"{self._cache() if 'cache' in found else FOLDER + '/scratch'}/uv",
            "UV_LINK_MODE": "copy",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_BREAK_SYSTEM_PACKAGES": "1",
        }
        if "libraries" in found:
            environ["LD_LIBRARY_PATH"] = found["libraries"]
        if not self.extends and not self.lock.owns_python:
            python = str(self.base.python)
            self._step(
                container,
                [uv, "venv", "--no-config", "--no-project", "--allow-existing", "--python", python, PREFIX],
                environ,
            )
        environ = {**environ, **indexes.for_uv(self.settings, FOLDER)}

        def command(path: str) -> list[str]:
            return install_command(uv, PYTHON, path, self.lock)

        self._install(container, command, environ)

    def _with_pip(self, container: str) -> None:
        """As with uv, but slower: for images of another machine or C library, and very old Pythons."""
        environ = {**self._environ(), "PIP_CACHE_DIR": f"{self._cache()}/pip"}
        pip = [PYTHON, "-m", "pip"]
        if not self.lock.owns_python:
            python = str(self.base.python)
            if self.base.venv:
                command = [python, "-m", "venv", PREFIX]
            elif self.base.pip:
                command = [python, "-m", "venv", "--without-pip", PREFIX]
                pip = [python, "-m", "pip", "--python", PYTHON]
            else:
                raise _failed(
                    f"uv does not run in the base image, and {python} has neither pip nor ensurepip",
                    "Add python3-pip and python3-venv to the base image, or use another one.",
                )
            if not self.extends:
                self._step(container, command, environ)
        elif not any(package.name == "pip" for package in self.lock.packages):
            self._step(container, [PYTHON, "-m", "ensurepip"], environ)
        environ = {**environ, **indexes.for_pip(self.settings, FOLDER)}
        options = [*pip, "install", "--no-deps", "--no-color", "--progress-bar", "off", *self.lock.options]
        self._install(container, lambda path: [*options, "-r", path], environ)

    def _install(
        self, container: str, command: Callable[[str], list[str]], environ: Mapping[str, str]
    ) -> None:
        """Install the pip packages by the command for a file of requirements.

        Raises EnvironmentFailed, which names every package that cannot be built.
        """
        for name, text in zip(("requirements", "unhashed"), self._requirements(self.lock), strict=True):
            if not text:
                continue
            words = command(f"{FOLDER}/{name}.txt")
            words += ["--require-hashes"] if name == "requirements" else []
            code, lines = self._exec(container, words, environ)
            if code:
                building.raise_for(
                    self.lock, lines, lambda part: self._try(container, part, command, environ)
                )
            self._check(words, code, lines)

    def _try(
        self,
        container: str,
        part: Lock,
        command: Callable[[str], list[str]],
        environ: Mapping[str, str],
    ) -> list[str]:
        """What the installation of a part says; the container is given up afterwards."""
        path = f"{FOLDER}/scratch/{part.digest}.txt"
        text = "".join(self._requirements(part))
        self.engine.put_archive(container, "/", archive(Packer(self.user).data(path, text.encode(), 0o600)))
        return self._exec(container, command(path), environ, quiet=True)[1]

    def _cache(self) -> str:
        """The folder of caches; one that nobody keeps where an address is signed."""
        return f"{FOLDER}/{'scratch' if addresses.are_signed(self.credentials) else 'cache'}"

    def _probe(self, container: str) -> Probe:
        path = self.base.variables.get("PATH") or probing.DEFAULT_PATH
        variables = {**self.base.variables, "PATH": f"{PREFIX}/bin:{path}"}
        code, lines = self._exec(container, probing.command(), {"PATH": variables["PATH"]}, quiet=True)
        if code is None or code == _KILLED:
            raise ended()
        seen = probing.parse("", lines, {})
        if code != 0 or not (seen.python or "").startswith(PREFIX):
            raise _failed("the Python of the environment does not start", "", lines)
        return seen.replace(
            machine=self.base.machine,
            platform=self.base.platform,
            user=self.base.user,
            variables=variables,
        )

    def _environ(self) -> dict[str, str]:
        """Variables of every command: nothing is written outside the environment and the volume."""
        return {"HOME": f"{FOLDER}/home", "TMPDIR": f"{FOLDER}/scratch", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}

    def _step(self, container: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Run a command and tell what it says.  Raises EnvironmentFailed when it fails."""
        code, lines = self._exec(container, command, environ)
        self._check(command, code, lines)

    def _check(self, command: Sequence[str], code: int | None, lines: Sequence[str]) -> None:
        if code is None or code == _KILLED:
            raise ended()
        if code != 0:
            hint = "Nothing is left of the build; it can be repeated."
            raise _failed(f"{_words(command)}: exit status {code}", hint, lines)

    def _exec(
        self, container: str, command: Sequence[str], environ: Mapping[str, str], *, quiet: bool = False
    ) -> tuple[int | None, list[str]]:
        """Exit status and lines of a command; None when the container did not outlive it.

        Raises EnvironmentFailed `environment.build_failed` for one that says more than can be kept: it may
        never end, and goes with the container.
        """
        try:
            made = self.client.exec_create(
                container, list(command), environment=dict(environ), user=self.user, workdir="/"
            )
            lines = []
            connected = self.client.exec_start(made["Id"], socket=True)
            try:
                blocks = (data for _, data in sdk.frames(connected))
                for line in lines_of(blocks, _words(command)):
                    text = indexes.hidden(self.settings, safe_text(line, colour=False))
                    lines.append(text)
                    if not quiet and text.strip():
                        self._tell(text)
            finally:
                sdk.hang_up(connected)
            found = self.engine.container(container)
            if found is None or not found["State"].get("Running"):
                return None, lines
            return self.client.exec_inspect(made["Id"])["ExitCode"], lines
        except sdk.api_error() as error:
            if error.status_code not in (404, 409):
                raise
            return None, [sdk.explanation(error)]


def _words(command: Sequence[str]) -> str:
    """A command for people."""
    return " ".join([os.path.basename(command[0]), *command[1:3]]).strip()


def lines_of(blocks: Iterable[bytes], what: str) -> Iterator[str]:
    """The lines in what a command says, to `LARGEST_OUTPUT`; `what` names it.  Raises EnvironmentFailed."""
    parts: list[bytes] = []
    taken = 0
    for block in blocks:
        *whole, rest = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        taken += len(block) + _LINE * (len(whole) + 1)
        if taken > LARGEST_OUTPUT:
            raise _failed(
                f"{what}: its output does not end; {LARGEST_OUTPUT >> 20} MiB of memory are full of it",
                "A package that is built or starts there prints it; its last lines: aml logs RUN --control.",
            )
        for line in whole:
            yield (b"".join(parts) + line).decode(errors="replace")
            parts = []
        parts.append(rest)
    if last := b"".join(parts):
        yield last.decode(errors="replace")


def _has_hash(package: Any) -> bool:
    return package.source != "git" and bool(package.sha256 or any(digest for _, digest in package.files))


def _bind(source: str, name: str, *, read_only: bool = False) -> Any:
    from docker.types import Mount

    return Mount(target=f"{FOLDER}/{name}", source=os.path.realpath(source), type="bind", read_only=read_only)


def ended() -> EnvironmentFailed:
    """The error for a build whose container, or what ran in it, was killed."""
    return EnvironmentFailed(
        "the environment image cannot be built: the build was ended from outside (docker kill, docker rm, a"
        " restart of the engine), or for lack of memory",
        code="environment.build_failed",
        hint="Nothing is left of it, and it can be repeated.",
    )


def _failed(what: str, hint: str, lines: Sequence[str] = ()) -> EnvironmentFailed:
    said = "".join(f"\n    {line}" for line in [one for one in lines if one.strip()][-_LAST_LINES:])
    return EnvironmentFailed(
        f"the environment image cannot be built: {what}{said}", code="environment.build_failed", hint=hint
    )
