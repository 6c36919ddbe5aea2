"""Machines reached by ssh, against a real sshd: what works, what is told, what is never done."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aml_jupyter.config import Secret, Target
from aml_jupyter.connection import Connection, KeyFound, accept, connection_to, fingerprints, quote, trust
from aml_jupyter.errors import ConfigError, TargetUnavailable
from tests.requirements import need
from tests.sshd import QUICK, Sshd, make_key, silence, user

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def shared_sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture(scope="module")
def there(shared_sshd: Sshd) -> Connection:
    """One connection for all tests that do it no harm."""
    return shared_sshd.connect("there")


@pytest.fixture
def mine(shared_sshd: Sshd) -> Connection:
    """A connection that a test may break."""
    return shared_sshd.connect(secrets.token_hex(3))


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


def code_of(connection: Connection, command: str = "true", timeout: float = 20) -> TargetUnavailable:
    with pytest.raises(TargetUnavailable) as raised:
        connection.run(command, timeout=timeout)
    return raised.value


def master_of(connection: Connection) -> int:
    """The pid of the process that holds the connection."""
    pattern = f"-M -N -f -T -S {connection._master.path} "
    answer = subprocess.run([need("pgrep"), "-f", "--", pattern], capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[0])


def cut(connection: Connection) -> None:
    """Kill the process that holds the connection, and wait until it is no more."""
    os.kill(master_of(connection), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while connection.is_connected():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# --- commands


def test_a_command_gives_its_output_its_complaints_and_its_exit_code(there: Connection) -> None:
    answer = there.run("echo out; echo wrong >&2; exit 7", timeout=20)
    assert (answer.code, answer.out, answer.err) == (7, b"out\n", b"wrong\n")
    assert answer.complaint == "wrong"


@pytest.mark.parametrize(
    "text", ["", "a'b", 'a"b', "a\\nb", "a\nb\n\nc", "$HOME `id` !x #", "ü €", "\t ", "-n", "%s%%", "a\\"]
)
def test_a_command_arrives_byte_for_byte(there: Connection, text: str) -> None:
    assert there.run(f"printf %s {quote(text)}", timeout=20).out == text.encode()


def test_input_and_output_may_hold_any_bytes(there: Connection) -> None:
    data = bytes(range(256)) * 20_000 + b"\n"
    assert there.run("cat", input=data, timeout=60).out == data


def test_a_long_command_is_no_matter(there: Connection) -> None:
    text = "x" * 300_000
    assert there.run(f"t={text}; echo ${{#t}}", timeout=60).out == b"300000\n"


def test_a_command_that_exits_255_is_no_broken_connection(there: Connection) -> None:
    assert there.run("exit 255", timeout=20).code == 255


def test_a_command_that_is_no_shell_is_an_exit_code(there: Connection) -> None:
    answer = there.run("if then (", timeout=20)
    assert answer.code != 0
    assert answer.err


def test_a_command_killed_by_a_signal_has_the_shells_code_for_it(there: Connection) -> None:
    assert there.run("sh -c 'kill -9 $$'", timeout=20).code == 128 + 9


def test_a_daemon_that_keeps_the_output_open_does_not_keep_the_answer(there: Connection) -> None:
    answer = there.run("sleep 300 & echo $!", timeout=60)
    assert there.run(f"kill {int(answer.out)}", timeout=20).code == 0


def test_a_command_need_not_read_its_input(there: Connection) -> None:
    assert there.run("exit 4", input=b"x" * 5_000_000, timeout=20).code == 4


def test_an_answer_that_is_late_is_given_up(there: Connection) -> None:
    error = code_of(there, "sleep 30", timeout=0.5)
    assert error.code == "target.unreachable"
    assert "0.5 s" in error.message


def test_R14_more_output_than_was_asked_for_is_cut_off(there: Connection) -> None:
    with pytest.raises(TargetUnavailable) as raised:
        there.run("yes", timeout=60, limit=1_000_000)
    assert raised.value.code == "budget.bytes"


def test_stderr_is_kept_up_to_a_limit(there: Connection) -> None:
    answer = there.run("head -c 3000000 /dev/zero >&2; echo end", timeout=60)
    assert len(answer.err) == 1024 * 1024
    assert answer.out == b"end\n"


def test_a_stream_goes_both_ways_without_being_kept(there: Connection) -> None:
    received = 0

    def count(data: bytes) -> None:
        nonlocal received
        received += len(data)

    answer = there.stream("cat", (b"a" * 65536 for _ in range(160)), sink=count)
    assert (answer.code, answer.out, received) == (0, b"", 160 * 65536)


def test_what_a_source_raises_comes_through(there: Connection) -> None:
    def source() -> Iterator[bytes]:
        yield b"x"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        there.stream("cat >/dev/null", source())


def test_locale_and_home_are_those_that_are_promised(
    there: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert there.run('printf %s "$LC_ALL"', timeout=20).out == b"C"
    assert there.home() == os.path.expanduser("~root" if os.geteuid() == 0 else "~")


# --- files


def test_a_file_is_written_whole_and_read_by_position(there: Connection, tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "it's" / "file"
    there.put(str(path), [b"abc", b"def"], 6, mode=0o640)
    assert path.read_bytes() == b"abcdef"
    assert path.stat().st_mode & 0o777 == 0o640
    assert there.read(str(path), 2, 3) == b"cde"
    assert there.read(str(path), 6) == b""
    assert there.read(str(path), 60) == b""
    assert there.read(str(tmp_path / "none")) is None


def test_R3_a_file_of_which_a_part_is_missing_is_not_written(there: Connection, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(TargetUnavailable, match="not all of it came"):
        there.put(str(path), [b"abc"], 6)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.glob("file*")] == ["file"]


def test_R3_a_line_that_is_cut_while_a_file_is_sent_leaves_what_was_there(
    mine: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    master = 0

    def source() -> Iterator[bytes]:
        for piece in range(80):
            if piece == 40:
                os.kill(master, signal.SIGKILL)
            yield b"a" * 65536

    mine.run("true", timeout=20)
    master = master_of(mine)
    with pytest.raises(TargetUnavailable) as raised:
        mine.put(str(path), source(), 80 * 65536)
    assert raised.value.code == "target.unreachable"
    deadline = time.monotonic() + 10
    while list(tmp_path.glob("file.part*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert path.read_text() == "before"
    mine.put(str(path), [b"a" * 65536] * 80, 80 * 65536)
    assert path.stat().st_size == 80 * 65536


@pytest.mark.root
def test_R8_a_full_disk_is_named_with_its_machine(there: Connection, tmp_path: Path) -> None:
    need("root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(TargetUnavailable) as raised:
            there.put(f"{small}/file", [b"a" * 200_000], 200_000)
        assert raised.value.code == "store.no_space"
        assert "127.0.0.1" in raised.value.message
        assert str(small) in raised.value.message
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- sockets


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[str]:
    """A socket that answers each connection with `hello`."""
    path = str(tmp_path / "echo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def ask(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        return client.recv(100)


def test_a_socket_there_is_a_socket_here(there: Connection, echo: str) -> None:
    local = there.forward(echo)
    assert ask(local) == b"hello"
    assert os.stat(local).st_mode & 0o077 == 0
    assert there.forward(echo) == local
    assert ask(local) == b"hello"


def test_a_socket_is_led_here_again_when_the_connection_has_died(mine: Connection, echo: str) -> None:
    mine.forward(echo)
    cut(mine)
    assert ask(mine.forward(echo)) == b"hello"


def test_a_socket_that_nobody_serves_closes_at_once(there: Connection, tmp_path: Path) -> None:
    assert ask(there.forward(str(tmp_path / "nobody"))) == b""


@pytest.mark.parametrize("path", ["relative", "/with:colon", ""])
def test_what_is_no_path_of_a_socket_is_refused(there: Connection, path: str) -> None:
    with pytest.raises(ConfigError):
        there.forward(path)


# --- one connection for all


def test_the_constructor_touches_nothing(tmp_path: Path) -> None:
    Connection("machine.invalid", folder=str(tmp_path / "folder"), username="somebody")
    assert not (tmp_path / "folder").exists()


def test_processes_share_a_connection_and_the_last_one_ends_it(sshd: Sshd) -> None:
    one, two = sshd.connect(), sshd.connect()
    one.run("true", timeout=20)
    two.run("true", timeout=20)
    assert master_of(one) == master_of(two)
    one.close()
    assert two.is_connected()
    two.run("true", timeout=20)
    two.close()
    assert not two.is_connected()
    assert not one.is_connected()
    assert list((sshd.folder / "c").iterdir()) == []
    assert one.run("echo again", timeout=20).out == b"again\n"


def test_many_who_connect_at_once_make_one_connection(sshd: Sshd) -> None:
    connections = [sshd.connect() for _ in range(6)]
    threads = [
        threading.Thread(target=each.run, args=("true",), kwargs={"timeout": 30}) for each in connections
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sshd.log.read_text().count("Accepted publickey") == 1


def test_those_who_come_while_others_leave_get_their_answers(sshd: Sshd) -> None:
    def come_and_go(_: int) -> None:
        for _ in range(4):
            connection = sshd.connect()
            assert connection.run("echo ok", timeout=30).out == b"ok\n"
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(come_and_go, range(4))) == [None] * 4
    assert list((sshd.folder / "c").iterdir()) == []


def test_an_idle_connection_ends_by_itself(sshd: Sshd) -> None:
    there = sshd.connect(timing=QUICK.replace(persist=1))
    there.run("true", timeout=20)
    deadline = time.monotonic() + 15
    while there.is_connected():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert there.run("echo again", timeout=20).out == b"again\n"


def test_a_folder_with_a_long_or_odd_name_is_no_matter(shared_sshd: Sshd, tmp_path: Path) -> None:
    for name in ("x" * 120, "with space", "per%cent"):
        there = shared_sshd.connect(str(tmp_path / name))
        assert there.run("echo ok", timeout=20).out == b"ok\n"
        folder = there._master.folder
        assert folder != str(tmp_path / name)
        assert os.stat(folder).st_mode & 0o077 == 0
        there.close()
        assert not os.path.exists(folder)


def test_a_folder_that_others_may_enter_is_refused(sshd: Sshd) -> None:
    (sshd.folder / "open").mkdir()
    (sshd.folder / "open").chmod(0o755)
    with pytest.raises(ConfigError, match="nobody else"):
        sshd.connect("open").run("true", timeout=5)


# --- lines that break


def test_a_connection_whose_process_is_killed_is_made_again(mine: Connection) -> None:
    mine.run("true", timeout=20)
    first = master_of(mine)
    cut(mine)
    assert mine.run("echo again", timeout=20).out == b"again\n"
    assert master_of(mine) != first


@pytest.mark.slow
def test_a_command_whose_connection_is_killed_is_told_and_not_run_again(
    mine: Connection, tmp_path: Path
) -> None:
    mine.run("true", timeout=20)
    killer = threading.Timer(0.5, os.kill, (master_of(mine), signal.SIGKILL))
    killer.start()
    error = code_of(mine, f"echo x >>{tmp_path}/count; sleep 3; echo x >>{tmp_path}/count", timeout=20)
    killer.join()
    assert error.code == "target.unreachable"
    assert "broke while a command ran" in error.message
    deadline = time.monotonic() + 10
    # the command itself goes on, and only once
    while (tmp_path / "count").read_text() != "x\nx\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.root
@pytest.mark.slow
def test_R4_a_line_that_is_dropped_without_a_word_is_noticed_and_made_again(sshd: Sshd) -> None:
    there = sshd.connect(timing=QUICK.replace(login=3))
    there.run("true", timeout=20)
    with silence(sshd.port):
        error = code_of(there, "echo unheard", timeout=60)
        assert error.code == "target.unreachable"
        assert code_of(there).code == "target.unreachable"
    assert there.run("echo back", timeout=30).out == b"back\n"


# --- host keys


def test_R1_an_unknown_host_key_is_refused_with_its_fingerprint(sshd: Sshd) -> None:
    Path(sshd.known_hosts).write_text("")
    error = code_of(sshd.connect())
    assert error.code == "target.hostkey_unknown"
    (key,) = fingerprints("127.0.0.1", sshd.port, options=sshd.options)
    assert key.fingerprint in error.message
    assert "aml targets trust box" in error.hint
    assert "--replace" not in error.hint
    assert Path(sshd.known_hosts).read_text() == ""
    assert "Accepted" not in sshd.log.read_text()


def test_R2_a_changed_host_key_is_refused_with_both_places(sshd: Sshd) -> None:
    other = make_key(sshd.folder / "other").with_suffix(".pub").read_text()
    sshd.write_known_hosts(other)
    error = code_of(sshd.connect())
    assert error.code == "target.hostkey_changed"
    (key,) = fingerprints("127.0.0.1", sshd.port, options=sshd.options)
    assert key.fingerprint in error.message
    assert f"{sshd.known_hosts}:1" in error.message
    assert "aml targets trust box --replace" in error.hint


def test_R2_no_option_and_no_configuration_lets_a_changed_key_pass(sshd: Sshd) -> None:
    sshd.write_known_hosts(make_key(sshd.folder / "other").with_suffix(".pub").read_text())
    there = sshd.connect(options=(*sshd.options, "StrictHostKeyChecking=no"))
    assert code_of(there).code == "target.hostkey_changed"


def test_R2_a_revoked_host_key_is_refused_for_good(sshd: Sshd) -> None:
    Path(sshd.known_hosts).write_text("@revoked " + Path(sshd.known_hosts).read_text())
    error = code_of(sshd.connect())
    assert error.code == "target.hostkey_changed"
    assert "revoked" in error.message
    assert "trust" not in error.hint


def test_R1_keys_are_shown_before_they_are_written_down(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "ssh" / "known_hosts"
    shown: list[str] = []

    def refuse(keys: list[KeyFound]) -> bool:
        shown.extend(key.fingerprint for key in keys)
        return False

    refused = trust(
        "127.0.0.1",
        sshd.port,
        confirm=refuse,
        known_hosts=str(known),
    )
    public = sshd.host_key.with_suffix(".pub")
    answer = subprocess.run([need("ssh-keygen"), "-l", "-f", str(public)], capture_output=True, text=True)
    assert shown == [answer.stdout.split()[1]]
    assert refused == []
    assert not known.exists()
    (key,) = trust("127.0.0.1", sshd.port, confirm=lambda _: True, known_hosts=str(known))
    assert key.type == "ED25519"
    assert known.stat().st_mode & 0o777 == 0o600
    assert trust("127.0.0.1", sshd.port, confirm=lambda _: True, known_hosts=str(known)) == []
    assert known.read_text().count("\n") == 1
    there = sshd.connect(options=(f"UserKnownHostsFile={known}", *sshd.options[1:]))
    assert there.run("echo in", timeout=20).out == b"in\n"


@pytest.mark.parametrize("hashed", [False, True])
def test_R2_another_key_is_replaced_only_when_that_is_said(sshd: Sshd, hashed: bool) -> None:
    other = make_key(sshd.folder / "other").with_suffix(".pub").read_text()
    sshd.write_known_hosts(other)
    known = Path(sshd.known_hosts)
    known.write_text(
        known.read_text() + "example.org ssh-ed25519 " + other.split()[1]
    )  # no new line at the end
    if hashed:
        subprocess.run([need("ssh-keygen"), "-q", "-H", "-f", str(known)], capture_output=True, check=True)
    before = known.read_text()
    keys = fingerprints("127.0.0.1", sshd.port, options=sshd.options)
    with pytest.raises(TargetUnavailable) as raised:
        accept(keys, "127.0.0.1", sshd.port, known_hosts=str(known))
    assert raised.value.code == "target.hostkey_changed"
    assert known.read_text() == before
    accept(keys, "127.0.0.1", sshd.port, replace=True, known_hosts=str(known))
    assert len(known.read_text().splitlines()) == 2
    assert sshd.connect().run("echo in", timeout=20).out == b"in\n"


def test_the_keys_of_nobody_are_an_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with pytest.raises(TargetUnavailable) as raised:
        fingerprints("127.0.0.1", port, timing=QUICK)
    assert raised.value.code == "target.unreachable"


# --- logins


def test_R13_a_refused_key_is_named(sshd: Sshd, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    error = code_of(sshd.connect(identity=str(stranger)))
    assert error.code == "target.auth_failed"
    fingerprint = subprocess.run(
        [need("ssh-keygen"), "-l", "-f", str(stranger)], capture_output=True, text=True
    )
    assert str(stranger) in error.message
    assert fingerprint.stdout.split()[1] in error.message
    assert "refused" in error.message


def test_R13_a_key_with_a_passphrase_is_named_and_nobody_is_asked(sshd: Sshd, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="not told")
    shutil.copy(f"{locked}.pub", sshd.folder / "authorized_keys")
    error = code_of(sshd.connect(identity=str(locked)))
    assert error.code == "target.auth_failed"
    assert f"{locked} " in error.message
    assert "private half could not be used" in error.message
    assert "ssh-add" in error.hint


def test_R13_a_passphrase_that_is_given_opens_the_key(sshd: Sshd, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="pass phrase")
    shutil.copy(f"{locked}.pub", sshd.folder / "authorized_keys")
    there = sshd.connect(identity=str(locked), password=Secret("pass phrase"))
    assert there.run("echo in", timeout=20).out == b"in\n"


def test_R13_a_certificate_that_has_expired_is_named(sshd: Sshd, tmp_path: Path) -> None:
    authority = make_key(tmp_path / "authority")
    mine = make_key(tmp_path / "mine")
    me = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    sign = [need("ssh-keygen"), "-q", "-s", str(authority), "-I", "test", "-n", me]
    subprocess.run([*sign, "-V", "20200101:20200201", f"{mine}.pub"], check=True)
    line = "cert-authority " + Path(f"{authority}.pub").read_text()
    (sshd.folder / "authorized_keys").write_text(line)
    error = code_of(sshd.connect(identity=str(mine)))
    assert error.code == "target.auth_failed"
    assert "ED25519-CERT" in error.message
    assert "ssh-keygen -L" in error.hint


def test_R13_the_agent_is_used_and_never_forwarded(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = subprocess.Popen(
        [need("ssh-agent"), "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL, text=True
    )
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        deadline = time.monotonic() + 10
        while not (tmp_path / "agent").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        subprocess.run([need("ssh-add"), "-q", sshd.user_key], check=True, capture_output=True)
        options = tuple(option for option in sshd.options if not option.startswith("IdentityAgent"))
        there = sshd.connect(identity=None, options=(*options, "ForwardAgent=yes"))
        assert there.run('echo "[$SSH_AUTH_SOCK]"', timeout=20).out == b"[]\n"
    finally:
        started.kill()
        started.wait()


@pytest.fixture(scope="module")
def login() -> Iterator[tuple[str, str]]:
    with user() as found:
        yield found


@pytest.mark.root
def test_a_password_lets_in_and_is_nowhere_to_be_read(login: tuple[str, str]) -> None:
    name, password = login
    with Sshd(PasswordAuthentication="yes") as sshd:
        there = sshd.connect(username=name, password=Secret(password), identity=None)
        assert there.run("id -un", timeout=20).out.decode().strip() == name
        assert there.home() == f"/home/{name}"
        environ = Path(f"/proc/{master_of(there)}/environ").read_bytes()
        command = Path(f"/proc/{master_of(there)}/cmdline").read_bytes()
        assert password.encode() not in environ + command
        kept = [path for path in (sshd.folder / "c").rglob("*") if path.is_file() or path.is_fifo()]
        assert {path.suffix for path in kept} <= {".lock", ".users"}
        assert not any(password.encode() in path.read_bytes() for path in kept)


@pytest.mark.root
def test_a_wrong_password_is_told_and_tried_once(login: tuple[str, str]) -> None:
    name, _ = login
    with Sshd(PasswordAuthentication="yes") as sshd:
        there = sshd.connect(username=name, password=Secret("mistaken"), identity=None)
        error = code_of(there)
        assert error.code == "target.auth_failed"
        assert "tried: password" in error.message
        assert "password" in error.hint
        assert "mistaken" not in str(error)
        assert sshd.log.read_text().count("Failed password") == 1


@pytest.mark.root
def test_a_machine_on_the_way_does_not_get_the_password(login: tuple[str, str]) -> None:
    name, password = login
    jumps = Sshd(PasswordAuthentication="yes")
    with jumps as jump, Sshd(PasswordAuthentication="yes") as sshd, user(password=password) as (other, _):
        lines = Path(sshd.known_hosts).read_text() + Path(jump.known_hosts).read_text()
        Path(sshd.known_hosts).write_text(lines)
        # the way leads through a login of another user, whose password happens to be the same
        via = f"ssh -F none -o UserKnownHostsFile={sshd.known_hosts} -o PreferredAuthentications=password"
        proxy = f"ProxyCommand={via} -W %h:%p -p {jump.port} {other}@127.0.0.1"
        there = sshd.connect(
            username=name,
            password=Secret(password),
            identity=None,
            options=(*sshd.options, proxy),
        )
        assert code_of(there).code in ("target.auth_failed", "target.busy", "target.unreachable")
        assert "Failed password" in jump.log.read_text()
        assert "Accepted" not in jump.log.read_text()


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "", "a;b", "$(id)", "h\nx", "a/b"])
def test_what_is_no_machine_is_refused_before_ssh_sees_it(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Connection(host, folder=str(tmp_path))


@pytest.mark.parametrize("name", ["-l", "a b", "", "a;b", "$(id)", "a\n", "a@b"])
def test_what_is_no_user_is_refused_before_ssh_sees_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Connection("host", username=name, folder=str(tmp_path))


def test_a_target_gives_its_connection(tmp_path: Path) -> None:
    target = Target(
        name="box", kind="remotedocker", address="[::1]:2222", username="me", password=Secret("p")
    )
    assert connection_to(target, str(tmp_path)).whom.address == "me@[::1]:2222"
    with pytest.raises(ConfigError, match="address"):
        connection_to(Target(name="box", kind="remotedocker"), str(tmp_path))


# --- machines that cannot be reached


def test_a_port_where_nobody_listens_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        there = Connection("127.0.0.1", port=probe.getsockname()[1], folder=str(tmp_path / "c"), timing=QUICK)
    error = code_of(there)
    assert error.code == "target.unreachable"
    assert "Connection refused" in error.message


def test_a_name_that_is_nobodys_is_told(tmp_path: Path) -> None:
    error = code_of(Connection("no-such-machine.invalid", folder=str(tmp_path / "c"), timing=QUICK))
    assert error.code == "target.unreachable"
    assert "Could not resolve hostname" in error.message


def test_a_listener_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        timing = QUICK.replace(connect=1)
        port = listener.getsockname()[1]
        error = code_of(Connection("127.0.0.1", port=port, folder=str(tmp_path / "c"), timing=timing))
    assert error.code == "target.unreachable"


def test_a_computer_without_ssh_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = code_of(Connection("127.0.0.1", folder=str(tmp_path / "c")))
    assert error.code == "ssh.missing"


@pytest.mark.slow
def test_R6_sessions_beyond_the_limit_are_tried_again_and_then_told(tmp_path: Path) -> None:
    with Sshd(MaxSessions=1) as sshd:
        there = sshd.connect(timing=QUICK.replace(attempts=20))
        there.run("true", timeout=20)
        first = threading.Thread(target=there.run, args=("sleep 0.3",), kwargs={"timeout": 20})
        first.start()
        time.sleep(0.1)
        assert there.run("echo waited", timeout=20).out == b"waited\n"
        first.join()
        long = threading.Thread(
            target=there.run, args=(f"touch {tmp_path}/began; sleep 2",), kwargs={"timeout": 20}
        )
        long.start()
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        taken: list[int] = []

        def source() -> Iterator[bytes]:
            taken.append(1)
            yield b"x"

        impatient = sshd.connect(timing=QUICK.replace(attempts=20))
        impatient._timing = QUICK.replace(attempts=2)
        with pytest.raises(TargetUnavailable) as raised:
            impatient.stream("cat", source())
        assert raised.value.code == "target.busy"
        # nothing was taken from a source that was never sent
        assert taken == []
        long.join()


def test_R6_too_many_logins_at_once_are_told() -> None:
    with Sshd(MaxStartups="1:100:1") as sshd:
        with socket.create_connection(("127.0.0.1", sshd.port)) as idle:
            idle.recv(10)
            error = code_of(sshd.connect())
            assert error.code == "target.busy"
            assert "MaxStartups" in error.hint
        assert sshd.connect().run("echo in", timeout=20).out == b"in\n"


@pytest.mark.slow
def test_R6_an_sshd_that_is_restarted_is_found_again(sshd: Sshd) -> None:
    there = sshd.connect(timing=QUICK.replace(attempts=6, pause=0.2))
    there.run("true", timeout=20)
    sshd.stop()
    starter = threading.Timer(0.6, sshd.start)
    starter.start()
    deadline = time.monotonic() + 10
    while there.is_connected():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert there.run("echo back", timeout=20).out == b"back\n"
    starter.join()


# --- login shells and what they print


NOISE = "printf 'Welcome!\\n\\nyou have mail\\033[31m\\n'; echo 'stty: not a tty' >&2"


def test_R10_text_around_a_forced_command_is_no_output(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\n{NOISE}\nsh -c "$SSH_ORIGINAL_COMMAND"\ncode=$?\n{NOISE}\nexit $code\n')
    wrapper.chmod(0o755)
    banner = tmp_path / "banner"
    banner.write_text("*** this machine is watched ***\n")
    with Sshd(ForceCommand=wrapper, Banner=banner) as sshd:
        there = sshd.connect()
        answer = there.run("cat; echo complaint >&2; exit 9", input=b"\0\xff\n", timeout=20)
        assert (answer.code, answer.out, answer.err) == (9, b"\0\xff\n", b"complaint\n")


def test_R10_noise_without_end_is_given_up() -> None:
    with Sshd(ForceCommand="yes welcome") as sshd:
        assert code_of(sshd.connect(), timeout=1).code == "target.unreachable"


def test_R10_a_login_without_a_shell_is_told_with_what_it_says() -> None:
    with Sshd(ForceCommand="echo 'This account is closed.'; exit 1") as sshd:
        error = code_of(sshd.connect())
    assert error.code == "target.no_shell"
    assert "This account is closed." in error.message


@pytest.mark.root
@pytest.mark.parametrize("shell", ["bash", "dash", "fish", "tcsh", "zsh"])
def test_R10_the_login_shell_and_its_profile_do_not_matter(shell: str) -> None:
    program = need(shell)
    with Sshd() as sshd, user(program) as (name, _):
        home = Path("/home") / name
        for profile in (".bashrc", ".bash_profile", ".zshenv", ".cshrc", ".profile"):
            (home / profile).write_text("echo Welcome\n")
        (home / ".config/fish").mkdir(parents=True)
        (home / ".config/fish/config.fish").write_text("echo Welcome\n")
        subprocess.run(["chown", "-R", name, str(home)], check=True)
        there = sshd.connect(username=name)
        assert there.home() == str(home)
        text = "it's !1 \\n $HOME\n\tü\\"
        answer = there.run(f"printf %s {quote(text)}; cat; exit 5", input=b"\0more", timeout=30)
        assert (answer.code, answer.out) == (5, text.encode() + b"\0more")


# --- cost


def test_importing_it_loads_nothing_slow() -> None:
    slow = {
        "subprocess",
        "socket",
        "dataclasses",
        "typing",
        "pathlib",
        "hashlib",
        "tempfile",
        "docker",
        "yaml",
    }
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport aml_jupyter.connection\nprint(*sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-S", "-E", "-s", "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not slow & set(answer.stdout.split())
