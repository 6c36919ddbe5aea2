"""Looking into an image: one short container without a network, which takes nothing for granted but `sh`."""

from __future__ import annotations

import secrets

from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors.docker import sdk
from aml_jupyter.executors.docker.containers import labels
from aml_jupyter.executors.docker.engine import NO_SPACE, Engine
from aml_jupyter.executors.docker.images import Probe, missing
from aml_jupyter.printable import safe_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from aml_jupyter.executors import Tell

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MARK = "aml:"
# as engines and kernels name machines -> as uname does
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l"}
_PLATFORMS = {"x86_64": "linux-64", "i686": "linux-32"}

# for any Python from 2.7 on, with the paths that a user's process has
_PYTHON = """
import os, sys
def say(key, value):
    sys.stdout.write("aml:%s\\t%s\\n" % (key, value))
say("python", sys.executable or "")
say("version", ".".join(map(str, sys.version_info[:3])))
try:
    import ensurepip, venv
    say("venv", "1")
except ImportError:
    pass
seen = set()
for folder in sys.path:
    try:
        names = os.listdir(folder) if folder else []
    except OSError:
        continue
    for name in sorted(names):
        stem, ending = os.path.splitext(name)
        if ending in (".dist-info", ".egg-info"):
            package, _, version = stem.partition("-")
            package = package.lower().replace("_", "-")
            if package not in seen:
                seen.add(package)
                say("package", "%s\\t%s" % (package, version.partition("-py")[0]))
try:
    from importlib.util import find_spec
    for name in ("IPython", "pyspark"):
        if find_spec(name) is not None:
            say("module", name)
except Exception:
    pass
"""

# words that every sh has built in, but for those whose failure does no harm
_SCRIPT = r"""
export LC_ALL=C
say() { printf 'aml:%s\t%s\n' "$1" "$2"; }
for one in /lib/ld-musl-*.so.1; do [ -e "$one" ] && say libc musl; done
for one in /lib64/ld-linux*.so.* /lib/ld-linux*.so.* /lib/*/ld-linux*.so.* /lib64/ld64.so.*; do
  [ -e "$one" ] && say libc glibc
done
say libc_version "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say machine "$(uname -m 2>/dev/null)"
for name in uv java spark-submit; do
  say "$name" "$(command -v "$name" 2>/dev/null)"
done
[ -x "$JAVA_HOME/bin/java" ] && say java "$JAVA_HOME/bin/java"
[ -x "$SPARK_HOME/bin/spark-submit" ] && say spark-submit "$SPARK_HOME/bin/spark-submit"
for name in python3 python; do
  found=$(command -v "$name" 2>/dev/null)
  case $found in
    /*) "$found" -B -c "$1" </dev/null && break ;;
  esac
done
say done 1
"""


def command() -> list[str]:
    """The command that looks; its answer is for `parse`."""
    return ["/bin/sh", "-c", _SCRIPT, "probe", _PYTHON]


def look_into(socket: str, image: str, tell: Tell) -> Probe:
    """What is in an image.

    Raises TargetUnavailable `engine.unavailable`, `image.missing`, `image.unusable`.
    """
    sdk.load()
    import docker.errors

    with sdk.client(socket) as client:
        try:
            found = client.inspect_image(image)
        except docker.errors.ImageNotFound:
            raise missing(image, "it is no longer in that engine") from None
        name = next(iter(found.get("RepoTags") or []), image)
        tell(f"looking into {name}")
        try:
            out, err = _answer(client, Engine(socket), image)
        except docker.errors.APIError as error:
            refused = sdk.refused(error)
            raise refused if refused.code == NO_SPACE else _unusable(name, sdk.explanation(error)) from error
    if f"{_MARK}done" not in out:
        raise _unusable(name, err.strip() or out.strip() or "nothing was answered")
    return parse(image, out.splitlines(), found)


def _answer(client: Any, engine: Engine, image: str) -> tuple[str, str]:
    """What the script says to standard output and standard error."""
    made = client.create_container(
        image,
        entrypoint=command(),
        name=f"aml-probe-{secrets.token_hex(6)}",
        labels=labels("probe"),
        working_dir="/",
        host_config=client.create_host_config(network_mode="none", auto_remove=True),
    )
    try:
        line = client.attach_socket(made["Id"], params={"stdout": 1, "stderr": 1, "stream": 1})
        try:
            client.start(made["Id"])
            parts: dict[int, bytes] = {}
            for number, data in sdk.frames(line):
                parts[number] = parts.get(number, b"") + data
        finally:
            sdk.hang_up(line)
    except BaseException:
        engine.remove(made["Id"])
        raise
    out, err = (parts.get(number, b"").decode(errors="replace") for number in (1, 2))
    return out, err


def _unusable(name: str, why: str) -> TargetUnavailable:
    if "exec format error" in why:
        hint = f"It is made for another kind of machine: docker pull --platform ... {name}, or another image."
    else:
        hint = "A base image needs /bin/sh. Use another one."
    return TargetUnavailable(
        f"nothing can be run in the image {name}: {safe_name(why)[-500:]}", code="image.unusable", hint=hint
    )


def parse(image: str, lines: Iterable[str], found: Mapping[str, Any]) -> Probe:
    """What the script said; `found` is what the engine knows of the image."""
    said: dict[str, str] = {}
    packages: dict[str, str] = {}
    modules: list[str] = []
    for line in lines:
        if not line.startswith(_MARK):
            continue
        key, _, value = line.removeprefix(_MARK).partition("\t")
        if key == "package":
            package, _, version = value.partition("\t")
            packages[package] = version
        elif key == "module":
            modules.append(value)
        elif value:
            said[key] = value
    config = found.get("Config") or {}
    machine = said.get("machine") or _machine(str(found.get("Architecture") or ""))
    return Probe(
        image=image,
        machine=machine,
        platform=_PLATFORMS.get(machine, f"linux-{machine}"),
        libc=said.get("libc", ""),
        libc_version=said.get("libc_version", "").rpartition(" ")[2],
        python=said.get("python"),
        version=said.get("version") if said.get("python") else None,
        venv="venv" in said,
        uv=_path(said, "uv"),
        java=_path(said, "java"),
        spark_submit=_path(said, "spark-submit"),
        user=str(config.get("User") or ""),
        packages=packages,
        modules=tuple(modules),
        variables=variables(config),
    )


def variables(config: Mapping[str, Any]) -> dict[str, str]:
    """The environment that an image or container sets, by name."""
    return dict(one.partition("=")[::2] for one in config.get("Env") or ())


def _machine(architecture: str) -> str:
    return _MACHINES.get(architecture, architecture)


def _path(said: Mapping[str, str], name: str) -> str | None:
    found = said.get(name, "")
    return found if found.startswith("/") else None
