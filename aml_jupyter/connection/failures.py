"""What ssh says when it fails, as errors that name what to do: all of its failures are exit status 255."""

from __future__ import annotations

import re

from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.frozen import Value
from aml_jupyter.printable import safe_text

TYPE_CHECKING = False

_FINGERPRINT = r"(?:SHA256:[\w+/=]+)"
_NO_GREETING = (
    r"kex_exchange_identification|Connection (?:closed|reset) by|Exceeded MaxStartups"
    r"|Not allowed at this time|Connection to \S+ closed by"
)
_NO_WAY = (
    r"Could not resolve hostname[^\n]*|Connection refused|Connection timed out|No route to host"
    r"|Network is unreachable|Operation timed out|Host is down|Connection to \S+ timed out"
    r"|no matching [\w ]+ found\.[^\n]*|Timeout, server \S+ not responding"
)
_MISCONFIGURED = r"(?:Bad owner or permissions on|Bad configuration option|[^\n]*terminating, \d+ bad)[^\n]*"


class Whom(Value):
    """Who is called, in words for messages: the target's name and the machine."""

    name: str
    host: str
    port: int | None = None
    username: str | None = None

    @property
    def address(self) -> str:
        """`user@host:port`, as far as they are known."""
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return (f"{self.username}@" if self.username else "") + host + (f":{self.port}" if self.port else "")

    @property
    def by_hand(self) -> str:
        """The command with which a person tries the same."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{self.username + '@' if self.username else ''}{self.host}"


class Busy(TargetUnavailable):
    """The machine takes no more connections or sessions at the moment."""

    code = "target.busy"


class Refused(TargetUnavailable):
    """Nobody listens there at the moment, as while sshd is started again."""

    code = "target.unreachable"


def login_failure(said: str, whom: Whom) -> TargetUnavailable:
    """The error for a connection that ssh, asked to say what it does (DEBUG1), could not make."""
    for translate in (_host_key, _authentication, _no_way, _no_greeting, _misconfigured):
        error = translate(said, whom)
        if error is not None:
            return error
    return TargetUnavailable(f"ssh to {whom.address} failed: {last_words(said)}", hint=f"Try: {whom.by_hand}")


def last_words(said: str) -> str:
    """The last line that is not a note of how ssh works."""
    lines = [line.strip() for line in safe_text(said, colour=False).splitlines()]
    lines = [line for line in lines if line and not line.startswith("debug")]
    return lines[-1] if lines else "it said nothing"


def _host_key(said: str, whom: Whom) -> TargetUnavailable | None:
    seen = re.findall(rf"Server host key: (\S+) ({_FINGERPRINT})", said)
    key = " ".join(seen[-1]) if seen else ", ".join(re.findall(_FINGERPRINT, said)) or "(not shown)"
    if "REVOKED HOST KEY DETECTED" in said:
        return TargetUnavailable(
            f"{whom.address} shows the host key {key}, which is marked as revoked",
            code="target.hostkey_changed",
            hint="Do not connect. Ask whoever runs that machine for its new key.",
        )
    changed = re.search(r"Host key for (\S+) has changed", said)
    if changed or "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        place = re.search(r"Offending .* in (.+:\d+)", said)
        known = f" (the one that is known stands in {place[1]})" if place else ""
        return TargetUnavailable(
            f"the host key of {_of(changed, whom)} has changed: it is now {key}{known}; nothing was sent",
            code="target.hostkey_changed",
            hint="Somebody may be in between, or the machine was set up again. Compare the fingerprint"
            f" with its owner's; then: {_trusting(whom, seen, changed, ' --replace')}",
        )
    unknown = re.search(r"No \S+ host key is known for (\S+)", said)
    if unknown or "Host key verification failed" in said:
        return TargetUnavailable(
            f"the host key of {_of(unknown, whom)} is not known here: {key}; nothing was sent",
            code="target.hostkey_unknown",
            hint=f"Compare the fingerprint with its owner's; then: {_trusting(whom, seen, unknown, '')}",
        )
    return None


def _of(found: re.Match[str] | None, whom: Whom) -> str:
    return found[1] if found else whom.address


def _trusting(whom: Whom, seen: object, found: re.Match[str] | None, option: str) -> str:
    if seen or not found:
        return f"aml targets trust {whom.name}{option}"
    # ssh never came to speak with the target: it is a machine on the way whose key is in question
    return f"connect to {found[1]}, which stands between, once with ssh itself"


def _authentication(said: str, whom: Whom) -> TargetUnavailable | None:
    allowed = re.search(r"Permission denied \(([^)]*)\)", said)
    if not allowed and "Too many authentication failures" not in said:
        return None
    ways = allowed[1].split(",") if allowed else []
    takes = f" The machine takes: {', '.join(ways)}." if ways else ""
    tried = "; ".join(_tried(said)) or "nothing, there is no key here"
    return TargetUnavailable(
        f"{whom.address} refused the login; tried: {safe_text(tried, colour=False)}",
        code="target.auth_failed",
        hint=f"{_remedy(said, ways)}{takes} To see it by hand: {whom.by_hand}",
    )


def _tried(said: str) -> list[str]:
    """Each key with its fingerprint, and each other way, in order."""
    found: list[str] = []
    accepted = set(re.findall(rf"Server accepts key: .*?({_FINGERPRINT})", said))
    pattern = (
        rf"Offering public key: (?P<key>.+?) (?P<type>\S+) (?P<print>{_FINGERPRINT})"
        r"|Trying private key: (?P<private>.+)|Next authentication method: "
        r"(?P<way>password|keyboard-interactive|gss\S*)"
    )
    for match in re.finditer(pattern, said):
        if match["key"]:
            end = (
                "accepted, but its private half could not be used"
                if match["print"] in accepted
                else "refused"
            )
            found.append(f"key {match['key']} ({match['type']} {match['print']}), {end}")
        elif match["private"]:
            found.append(f"key {match['private'].strip()}, not usable")
        else:
            found.append(match["way"])
    return list(dict.fromkeys(found))


def _remedy(said: str, ways: list[str]) -> str:
    if "Server accepts key" in said:
        return "A key with a passphrase must be in the agent: ssh-add, then try again."
    if re.search(r"Offering public key: .* \S+-CERT ", said):
        return "A certificate is refused when its dates have passed: ssh-keygen -L -f shows them."
    if "Too many authentication failures" in said:
        return "The agent holds more keys than the machine lets one try: name one with privateKey."
    if re.search(r"Next authentication method: (?:password|keyboard)", said):
        return "Check user name and password."
    if ways == ["password"]:
        return "Give a password."
    return "Add a public key of yours to ~/.ssh/authorized_keys there."


def _no_way(said: str, whom: Whom) -> TargetUnavailable | None:
    # a machine with several addresses may refuse at one of them: that is a note, not the end
    found = re.findall(_NO_WAY, re.sub(r"(?m)^debug.*", "", said))
    if not found:
        return None
    kind = Refused if found[-1] == "Connection refused" else TargetUnavailable
    return kind(
        f"{whom.address} cannot be reached: {safe_text(found[-1], colour=False)}",
        code="target.unreachable",
        hint=f"Check address and port, and whether the machine is on. To see it by hand: {whom.by_hand}",
    )


def _no_greeting(said: str, whom: Whom) -> TargetUnavailable | None:
    if not re.search(_NO_GREETING, said):
        return None
    return Busy(
        f"{whom.address} closes connections before the login: {last_words(said)}",
        hint="Too many logins at once there (MaxStartups), or it lets this address not in. Try again later.",
    )


def _misconfigured(said: str, whom: Whom) -> TargetUnavailable | None:
    found = re.search(_MISCONFIGURED, said)
    if not found:
        return None
    return TargetUnavailable(
        f"ssh does not accept its configuration: {safe_text(found[0], colour=False).strip()}",
        code="ssh.config",
        hint=f"Mend ~/.ssh/config, or what it includes, until this works: {whom.by_hand}",
    )
