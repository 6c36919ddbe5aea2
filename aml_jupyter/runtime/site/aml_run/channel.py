"""Messages from the user's processes to the run: one datagram each, in order, from any process or thread."""

import _socket
import errno
import os
import sys

LIMIT = 32 * 1024  # bytes of one datagram
# bytes from which one value of a message becomes a file, tried in this order until the message fits
INLINE = (16 * 1024, 1024, 64)

_endpoint = None
_identity = None
_gone = False


def job():
    """The folder of the run's files, or None outside a run."""
    return os.environ.get("AML_JOB") or None


def inside():
    """Whether messages of this process reach a run."""
    return not _gone and bool(os.environ.get("AML_EVENTS"))


def _connect():
    global _endpoint, _identity
    path = os.fsencode(os.environ["AML_EVENTS"])
    endpoint = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    if len(path) <= 100:
        endpoint.connect(path)
    else:  # the address of a socket holds 107 bytes
        folder, name = os.path.split(path)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            endpoint.connect(b"/proc/self/fd/%d/%s" % (fd, name))
        finally:
            os.close(fd)
    _endpoint, _identity = endpoint, os.fstat(endpoint.fileno()).st_ino
    return endpoint


def _usable():
    """The connected socket; a new one where the program closed ours and its number may be another file."""
    if _endpoint is not None:
        try:
            if os.fstat(_endpoint.fileno()).st_ino == _identity:
                return _endpoint
        except OSError:
            pass
        _endpoint.detach()
    return _connect()


def send(kind, payload):
    """Send one datagram, waiting as for a full pipe; False when there is no run (any more) to receive it."""
    global _gone
    if not inside():
        return False
    try:
        endpoint = _usable()
        while True:
            try:
                endpoint.send(kind + payload)
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # macOS says so instead of waiting
                    raise
                import time

                time.sleep(0.001)
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            raise
        _gone = True  # nobody receives any more
        return False


def send_text(kind, data):
    """Send output bytes in pieces that fit; what no run receives goes to the descriptor it was meant for."""
    view, size = memoryview(data), LIMIT - 1
    while view:
        piece = bytes(view[:size])
        try:
            sent = send(kind, piece)
        except OSError:  # the system's limit for a datagram is smaller
            if size <= 256:
                raise
            size //= 2
            continue
        if not sent:
            os.write(1 if kind == b"o" else 2, piece)
        view = view[len(piece) :]


def emit(event):
    """Send a message that becomes an event, after everything printed before it; False outside a run."""
    if not inside():
        return False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # replaced or closed by the program
            pass
    if isinstance(event.get("data"), dict):
        event = dict(event, data={mime: _as_text(value) for mime, value in event["data"].items()})
    for limit in INLINE:
        payload = dumps(_packed(event, limit)).encode("ascii")
        if len(payload) < LIMIT:
            break
    return send(b"j", payload)


def _as_text(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        import binascii

        return binascii.b2a_base64(value, newline=False).decode("ascii")
    return value


def _packed(event, limit):
    packed = dict(event)
    if isinstance(event.get("data"), dict):
        packed["data"] = {mime: _fit(value, limit) for mime, value in event["data"].items()}
    for key in ("metadata", "value"):
        if key in event:
            packed[key] = _fit(event[key], limit)
    return packed


def _fit(value, limit):
    """The value itself, or where its text is: as it would stand in the message, JSON for all but texts."""
    if isinstance(value, (int, float)) or value is None:
        return value
    encoding = "text" if isinstance(value, str) else "json"
    data = value.encode("utf-8", "surrogatepass") if encoding == "text" else dumps(value).encode("ascii")
    if len(data) <= limit:
        return value
    return {"$data": store(data), "size": len(data), "encoding": encoding}


def store(data):
    """Keep bytes beside the run's events and return their SHA-256; raises OSError."""
    import hashlib

    name = hashlib.sha256(data).hexdigest()
    folder = os.path.join(job(), "data")
    path = os.path.join(folder, name)
    if os.path.exists(path):
        return name
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = "%s/.%d-%s" % (folder, os.getpid(), os.urandom(6).hex())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return name


class _Context:
    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: "dict[str, str]" = {}  # noqa: RUF012 - the C scanner of some versions looks for it


def loads(text):
    """Like `json.loads`, without the 6 ms that importing json takes."""
    try:
        import _json

        scan = _json.make_scanner(_Context)  # type: ignore[arg-type]  # whatever has these attributes
        return scan(text.strip(), 0)[0]
    except (ImportError, AttributeError, StopIteration):
        import json

        return json.loads(text)


def dumps(value):
    """JSON in ASCII; what JSON has no form for becomes its repr."""
    try:
        import _json

        encode = _json.make_encoder
    except (ImportError, AttributeError):
        import json

        return json.dumps(value, default=repr)
    text = _json.encode_basestring_ascii
    return "".join(encode({}, repr, text, None, ":", ",", False, True, True)(value, 0))
