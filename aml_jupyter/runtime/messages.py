"""What the user's processes send: text, and JSON messages that become events once they are checked."""

import posix
import stat

import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from events import Journal
    from launch import Started
    from masking import Mask
    from pump import Log

MESSAGE_LIMIT = 256 * 1024
NAME_LIMIT = 1024
INLINE_LIMIT = 64 * 1024
DATA_FILES = 10000
DATA_BYTES = 8 << 30
# bytes of a text beside the events in which secrets are looked for; a larger one is not kept in such a run
LARGEST_MASKED = 64 << 20
BLOCK = 1 << 20
FLAGS = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
WRITE_FLAGS = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW | posix.O_CLOEXEC
HEX = frozenset("0123456789abcdef")
# required fields and their types; a type this table does not know passes as it is
FIELDS: "dict[str, dict[str, type]]" = {
    "display": {"data": dict},
    "result": {"data": dict},
    "clear_output": {},
    "error": {"ename": str, "evalue": str, "traceback": list},
    "metric": {"name": str},
    "value": {"name": str, "encoding": str, "file": str},
    "warning": {"code": str, "text": str},
}
RESERVED = ("started", "ended", "stderr")


class BadMessage(Exception):
    """A message that cannot become an event; the code says why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Messages:
    """Takes datagrams apart; `idle` is called between blocks of long work so that pipes never fill up."""

    def __init__(
        self, journal: "Journal", log: "Log", started: "Started", idle: "Callable[[], object]"
    ) -> None:
        self.journal = journal
        self.log = log
        self.idle = idle
        self.folder = started.data
        self.files_left = _limit(started.request.get("data_files"), DATA_FILES)
        self.bytes_left = _limit(started.request.get("data_bytes"), DATA_BYTES)
        self.known: "dict[str, tuple[int, int, int]]" = {}  # ino, size and mtime of what was checked
        self.masked: "dict[str, dict[str, object]]" = {}  # what stands in the place of a text with a secret

    def take(self, data: bytes) -> None:
        """Act upon one datagram; whatever is wrong with it becomes a warning."""
        kind = data[:1]
        if kind in (b"o", b"e"):
            self.log.write(data[1:], kind == b"e", in_message=True)
        elif kind == b"j":
            try:
                self._take_json(data[1:])
            except BadMessage as problem:
                self.journal.warn(problem.code, problem.text)
            except RecursionError:
                self.journal.warn("message.invalid", "a message is nested too deeply")
        else:
            self.journal.warn("message.unknown", "a message of unknown kind %r was ignored" % kind)

    def _take_json(self, data: bytes) -> None:
        message = _parse(data)
        if self.log.mask is not None:
            message = self._without_secrets(self.log.mask.within(message), self.log.mask)
        kind = message.pop("type")
        _check(kind, message)
        at = self.log.offset
        if kind in ("display", "result"):
            message["data"] = self._bundle(message["data"])
            if not isinstance(message.setdefault("metadata", {}), dict):
                raise BadMessage("message.invalid", "a message of type %s has no proper metadata" % kind)
        elif kind == "value":
            self._payload(message["file"])
        self._payloads_within(message)
        if kind == "warning":
            self.journal.warn(message["code"][:100], message["text"][:4000])
        else:
            self.journal.emit(kind, message, at=at)

    def _bundle(self, bundle: "dict[str, Any]") -> "dict[str, Any]":
        """A MIME bundle with long texts moved to files and without the payloads that are not there."""
        kept: "dict[str, Any]" = {}
        for name, value in bundle.items():
            if isinstance(value, str) and len(value) > INLINE_LIMIT:
                kept[name] = self._store(value.encode("utf-8", "surrogatepass"))
            elif _is_reference(value):
                try:
                    kept[name] = {"$data": value["$data"], "size": self._payload(value["$data"])}
                except BadMessage as problem:  # the other representations can still be shown
                    self.journal.warn(problem.code, "%s: %s" % (name[:100], problem.text))
            else:
                kept[name] = value
        if bundle and not kept:
            raise BadMessage("message.empty", "a display lost all its representations")
        return kept

    def _payloads_within(self, value: "Any") -> None:
        if _is_reference(value):
            self._payload(value["$data"])
        elif isinstance(value, dict):
            for one in value.values():
                self._payloads_within(one)
        elif isinstance(value, list):
            for one in value:
                self._payloads_within(one)

    def _without_secrets(self, value: "Any", mask: "Mask") -> "Any":
        """The same message with texts beside it that hold none."""
        if _is_reference(value):
            try:
                return self._masked(value, mask)
            except BadMessage:  # whoever looks at the payload next tells of it
                return value
        if isinstance(value, dict):
            return {name: self._without_secrets(one, mask) for name, one in value.items()}
        if isinstance(value, list):
            return [self._without_secrets(one, mask) for one in value]
        return value

    def _masked(self, reference: "dict[str, Any]", mask: "Mask") -> "dict[str, Any]":
        digest, encoding = reference["$data"], reference.get("encoding")
        if encoding not in ("text", "json"):
            return reference
        if digest not in self.masked:  # else it may be here again, or just have gone
            size = self._payload(digest)
            if size > LARGEST_MASKED:
                self._discard(digest)
                raise BadMessage("data.limit", "a text of %d bytes is too large to look for secrets" % size)
            data = self._read(digest)
            text = mask.text(data, plain.dumps if encoding == "json" else None)
            if text == data:
                return reference
            self.masked[digest] = self._store(text)
        self._discard(digest)
        return dict(reference, **self.masked[digest])

    def _read(self, digest: str) -> bytes:
        try:
            fd = posix.open(digest, FLAGS, dir_fd=self.folder)
        except OSError as error:
            raise BadMessage("data.missing", "payload %s: %s" % (digest[:12], error.strerror)) from None
        try:
            blocks: "list[bytes]" = []
            while True:
                block = posix.read(fd, BLOCK)
                if not block:
                    return b"".join(blocks)
                blocks.append(block)
                self.idle()
        finally:
            posix.close(fd)

    def _store(self, data: bytes) -> "dict[str, object]":
        import hashlib

        digest = hashlib.sha256(data).hexdigest()
        try:
            fd = posix.open("." + digest, WRITE_FLAGS, 0o600, dir_fd=self.folder)
            try:
                view = memoryview(data)
                while view:
                    view = view[posix.write(fd, view) :]
            finally:
                posix.close(fd)
            posix.rename("." + digest, digest, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError as error:
            raise BadMessage("data.lost", "a payload could not be kept: %s" % error.strerror) from None
        return {"$data": digest, "size": self._payload(digest)}

    def _payload(self, digest: object) -> int:
        """The size of `data/<digest>`, once it is a regular file that holds what its name says."""
        if not isinstance(digest, str) or len(digest) != 64 or not HEX.issuperset(digest):
            raise BadMessage("data.name", "a payload's name %s is not a SHA-256" % repr(digest)[:100])
        try:
            fd = posix.open(digest, FLAGS, dir_fd=self.folder)
        except OSError as error:
            raise BadMessage("data.missing", "payload %s: %s" % (digest[:12], error.strerror)) from None
        try:
            return self._check_open(fd, digest)
        finally:
            posix.close(fd)

    def _check_open(self, fd: int, digest: str) -> int:
        found = posix.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise BadMessage("data.not_regular", "payload %s is not a regular file" % digest[:12])
        identity = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self.known.get(digest) == identity:
            return found.st_size
        if self.files_left <= 0 or found.st_size > self.bytes_left:
            self._discard(digest)
            raise BadMessage("data.limit", "payload %s is over the job's limit for data" % digest[:12])
        if self._hash(fd) != digest:
            self._discard(digest)
            raise BadMessage("data.damaged", "payload %s does not hold what its name says" % digest[:12])
        self.files_left -= 1
        self.bytes_left -= found.st_size
        self.known[digest] = identity
        return found.st_size

    def _discard(self, digest: str) -> None:
        try:
            posix.unlink(digest, dir_fd=self.folder)
        except OSError:  # somebody else was faster
            pass

    def _hash(self, fd: int) -> str:
        import hashlib

        digest = hashlib.sha256()
        while True:
            block = posix.read(fd, BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)
            self.idle()


def _parse(data: bytes) -> "dict[str, Any]":
    try:
        message = plain.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise BadMessage("message.invalid", "a message is not JSON: %s" % str(error)[:200]) from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadMessage("message.invalid", "a message is not an object with a type")
    return message


def _check(kind: str, message: "dict[str, Any]") -> None:
    plain_name = kind.isascii() and kind.replace("_", "").replace(".", "").isalnum()
    if kind in RESERVED or not plain_name or len(kind) > 40:
        raise BadMessage("message.type", "a message of type %r was ignored" % kind[:40])
    for field, wanted in FIELDS.get(kind, {}).items():
        if not isinstance(message.get(field), wanted):
            raise BadMessage("message.invalid", "a message of type %s has no proper %s" % (kind, field))
    name = message.get("name")
    if isinstance(name, str) and len(name) > NAME_LIMIT:
        raise BadMessage("message.invalid", "a %s has a name of %d characters" % (kind, len(name)))
    if kind == "error" and not all(isinstance(line, str) for line in message["traceback"]):
        raise BadMessage("message.invalid", "an error's traceback is not a list of texts")


def _is_reference(value: object) -> bool:
    return isinstance(value, dict) and "$data" in value


def _limit(value: object, default: int) -> int:
    return value if isinstance(value, int) and value >= 0 else default
