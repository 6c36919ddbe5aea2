"""The engine's SDK: opened here and nowhere else, for what is done once for an image."""

from __future__ import annotations

from contextlib import contextmanager

from aml_jupyter.errors import AmlError
from aml_jupyter.executors.docker.engine import Engine, EngineRefused, refusal, unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# seconds without a word from the engine; committing some gigabytes takes minutes
PATIENCE = 1800


def load() -> None:
    """Make the SDK importable: a supervisor starts without the folders of installed packages."""
    try:
        import docker  # noqa: F401
    except ModuleNotFoundError:
        import site

        site.main()


@contextmanager
def client(socket: str) -> Iterator[Any]:
    """The SDK's client of the engine at a socket; its errors become ours.

    Raises TargetUnavailable `engine.unavailable`, EngineRefused.
    """
    load()
    import docker.errors
    from docker import APIClient

    # asked without the SDK, which leaves a socket open where no engine answers
    version = Engine(socket).version()["ApiVersion"]
    opened = None
    try:
        opened = APIClient(base_url=f"unix://{socket}", timeout=PATIENCE, version=version)
        yield opened
    except AmlError:
        raise
    except docker.errors.APIError as error:
        raise refused(error) from error
    except docker.errors.DockerException as error:
        raise unavailable(socket, _innermost(error)) from error
    except Exception as error:
        # not all that the libraries below the SDK raise is an error of the SDK, or even an OSError
        if not _of_the_line(error):
            raise
        raise unavailable(socket, _innermost(error)) from error
    finally:
        if opened is not None:
            opened.close()


def _of_the_line(error: Exception) -> bool:
    library = type(error).__module__.partition(".")[0]
    return library in ("requests", "urllib3") or isinstance(error, (ConnectionError, TimeoutError))


def refused(error: Any) -> EngineRefused:
    """What an answer of the SDK with an HTTP status means for us."""
    return refusal(explanation(error), int(error.status_code or 0))


def explanation(error: Any) -> str:
    """The engine's own words in an error of the SDK."""
    return str(error.explanation or error)


def _innermost(error: BaseException) -> str:
    """The words of the system behind the layers of an HTTP library."""
    seen: BaseException | None = error
    found = str(error)
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            found = str(seen.strerror)
        seen = seen.__cause__ or seen.__context__
    return found


def api_error() -> type[Any]:
    """The class of the SDK's errors that carry an answer of the engine."""
    load()
    import docker.errors

    return docker.errors.APIError  # type: ignore[no-any-return]


def frames(line: Any) -> Iterator[tuple[int, bytes]]:
    """What comes over a line from a container: 1 or 2 for standard output or error, and bytes."""
    from docker.utils.socket import frames_iter

    yield from frames_iter(line, tty=False)


def hang_up(line: Any) -> None:
    """Close a line to a container for good: `close` alone leaves it open as long as its response lives."""
    import socket

    raw = getattr(line, "_sock", line)
    if raw is None:  # it was closed by its reader at the end
        return
    try:
        raw.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        pass
    line.close()
    raw.close()
