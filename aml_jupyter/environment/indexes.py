"""How this machine's user reaches package indexes: what a solver and a build are told, and never keep.

Read are the settings of uv, where there are any, else those of pip: addresses with their credentials,
certificates, proxies.  They reach a build as variables of single commands and as files that are in no layer.
"""

from __future__ import annotations

import configparser
import netrc
import os
import sys
import tomllib
from urllib.parse import quote, unquote, urlsplit

from aml_jupyter.environment import credentials as addresses
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from aml_jupyter.environment.lock import Lock

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# where systems keep the certificates that they trust, a company's own among them
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_LARGEST = 16 << 20
_LOOPBACK = ("localhost", "127.", "::1")
_HIDDEN = "****"


class Settings(Value):
    """How indexes are reached; `default` None is the public one, `netrc` is text, certificates are paths."""

    default: str | None = None
    extra: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    timeout: str | None = None
    proxies: Mapping[str, str] = {}
    certificates: str | None = None
    client_certificate: str | None = None
    netrc: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, with credentials."""
        return (*([self.default] if self.default else []), *self.extra, *self.find_links)


def of_user(lock: Lock, credentials: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of the calling user, with the indexes that a lock was solved with.

    `credentials` are `user:password` by `scheme://host[:port]`, for the lock's addresses.
    """
    environ = os.environ if environ is None else environ
    pip = _pip_settings(environ)
    chosen = _of_uv(environ) or _of_pip(pip)
    known = {**_credentials(chosen.addresses), **credentials}
    locked = [addresses.insert(one, known) for one in lock.extra_indexes]
    links = [addresses.insert(one, known) for one in lock.find_links]
    default = addresses.insert(lock.index, known) if lock.index else chosen.default
    found = chosen.replace(
        default=default,
        extra=tuple(_once([*chosen.extra, *locked], {default})),
        find_links=tuple(_once([*chosen.find_links, *links], set())),
        trusted_hosts=tuple(_once([*chosen.trusted_hosts, *lock.trusted_hosts], set())),
        proxies=_proxies(environ, pip),
        certificates=_bundle(environ, pip),
        client_certificate=_file(environ.get("SSL_CLIENT_CERT") or pip.get("client-cert")),
    )
    return _without_folders(found).replace(netrc=_netrc(environ, found, lock))


def _once(items: Iterable[str], seen: set[str | None]) -> list[str]:
    found = []
    for item in items:
        if item not in seen:
            seen.add(item)
            found.append(item)
    return found


def _without_folders(settings: Settings) -> Settings:
    """Folders of this machine mean nothing in a container: the files of a lock are brought one by one."""
    default = settings.default
    if default is not None and _is_folder(default):
        extra = [one for one in settings.extra if not _is_folder(one)]
        default, extra = (extra[0], extra[1:]) if extra else (None, extra)
        settings = settings.replace(default=default, extra=tuple(extra), no_index=default is None)
    return settings.replace(
        extra=tuple(one for one in settings.extra if not _is_folder(one)),
        find_links=tuple(one for one in settings.find_links if not _is_folder(one)),
    )


def _is_folder(address: str) -> bool:
    return address.startswith("file:") or "://" not in address


def for_solving(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for uv on this machine, which reads its own settings but not pip's; none where uv has any."""
    if _of_uv(environ) is not None:
        return {}
    pip = _pip_settings(environ)
    settings = _of_pip(pip)
    # pip takes the best version of all its indexes, whichever names it first
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"} if settings.extra or settings.find_links else {}
    if settings.default:
        found["UV_DEFAULT_INDEX"] = settings.default
    if settings.extra:
        found["UV_INDEX"] = " ".join(settings.extra)
    if settings.find_links:
        found["UV_FIND_LINKS"] = ",".join(settings.find_links)
    if settings.no_index:
        found["UV_NO_INDEX"] = "1"
    if settings.trusted_hosts:
        found["UV_INSECURE_HOST"] = " ".join(settings.trusted_hosts)
    if "SSL_CERT_FILE" not in environ and (bundle := _file(environ.get("PIP_CERT") or pip.get("cert"))):
        found["SSL_CERT_FILE"] = bundle
    if proxy := pip.get("proxy"):
        found["ALL_PROXY"] = environ.get("ALL_PROXY") or proxy
    return found


# --- uv ---------------------------------------------------------------------------------------------------


def _of_uv(environ: Mapping[str, str]) -> Settings | None:
    """What uv is told, or None when it is told of no index."""
    tables = _uv_tables(environ)
    named: dict[str, Any] = {}
    for table in tables:
        for key in ("index-url", "extra-index-url", "find-links", "no-index", "allow-insecure-host"):
            if key in table:
                named.setdefault(key, table[key])
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    extra = environ.get("UV_INDEX", "").split() + environ.get("UV_EXTRA_INDEX_URL", "").split()
    for entry in (one for table in tables for one in table.get("index", ())):
        address = f"{entry['name']}={entry['url']}" if entry.get("name") else str(entry.get("url", ""))
        if entry.get("default"):
            default = default or address
        else:
            extra.append(address)
    default = default or named.get("index-url")
    extra += _listed(named.get("extra-index-url"))
    links = [one for one in environ.get("UV_FIND_LINKS", "").split(",") if one]
    links += _listed(named.get("find-links"))
    no_index = _true(environ.get("UV_NO_INDEX")) or bool(named.get("no-index"))
    if not (default or extra or links or no_index):
        return None
    hosts = environ.get("UV_INSECURE_HOST", "").split() or _listed(named.get("allow-insecure-host"))
    return Settings(
        default=_named_index(str(default), environ) if default else None,
        extra=tuple(_named_index(one, environ) for one in extra),
        find_links=tuple(links),
        no_index=no_index,
        trusted_hosts=tuple(hosts),
        timeout=environ.get("UV_HTTP_TIMEOUT"),
    )


def _uv_tables(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Tables of uv's configuration files that may speak of indexes, the one that counts most first."""
    if _true(environ.get("UV_NO_CONFIG")):
        return []
    folder = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    paths = [environ.get("UV_CONFIG_FILE") or f"{folder}/uv/uv.toml", "/etc/uv/uv.toml"]
    found: list[dict[str, Any]] = []
    for path in paths[:1] if environ.get("UV_CONFIG_FILE") else paths:
        try:
            with open(path, "rb") as file:
                document = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError):  # uv itself says what is wrong with its file
            continue
        found += [one for one in (document.get("pip"), document) if isinstance(one, dict)]
    return found


def _named_index(written: str, environ: Mapping[str, str]) -> str:
    """`NAME=ADDRESS` as an address with the credentials that uv keeps in variables of that name."""
    name, sign, address = written.partition("=")
    if not sign or "/" in name or ":" in name:
        return written
    key = "UV_INDEX_" + "".join(one if one.isalnum() else "_" for one in name).upper()
    user, password = environ.get(key + "_USERNAME", ""), environ.get(key + "_PASSWORD", "")
    scheme, _, rest = address.partition("://")
    if not (user or password) or "@" in rest.partition("/")[0]:
        return address
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def _listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def _true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("1", "true", "yes", "on")


# --- pip --------------------------------------------------------------------------------------------------


def _of_pip(pip: Mapping[str, str]) -> Settings:
    return Settings(
        default=pip.get("index-url") or None,
        extra=tuple(pip.get("extra-index-url", "").split()),
        find_links=tuple(pip.get("find-links", "").split()),
        no_index=_true(pip.get("no-index")),
        trusted_hosts=tuple(pip.get("trusted-host", "").split()),
        timeout=pip.get("timeout") or pip.get("default-timeout"),
    )


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options by their long names: files of the system, the user, the environment, then variables."""
    found: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):  # pip itself says what is wrong with it
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def _pip_files(environ: Mapping[str, str]) -> list[str]:
    given = environ.get("PIP_CONFIG_FILE")
    if given == os.devnull:
        return []
    config = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    user = [os.path.expanduser("~/.pip/pip.conf"), f"{config}/pip/pip.conf"]
    system = [f"{one}/pip/pip.conf" for one in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    if sys.platform == "darwin":
        system.append("/Library/Application Support/pip/pip.conf")
        user.append(os.path.expanduser("~/Library/Application Support/pip/pip.conf"))
    return [*system, "/etc/pip.conf", *user, f"{sys.prefix}/pip.conf", *([given] if given else [])]


# --- what both share --------------------------------------------------------------------------------------


def _proxies(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    found = {name: value for name, value in environ.items() if name.lower() in _PROXIES and value}
    if proxy := pip.get("proxy"):
        for name in _PROXIES[:2]:
            found.setdefault(name, proxy)
    return found


def _bundle(environ: Mapping[str, str], pip: Mapping[str, str]) -> str | None:
    for path in (*(environ.get(name) for name in _BUNDLES), pip.get("cert"), *_SYSTEM_BUNDLES):
        if found := _file(path):
            return found
    return None


def _file(path: str | None) -> str | None:
    return path if path and os.path.isfile(path) and os.path.getsize(path) <= _LARGEST else None


def _credentials(written: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for address in written:
        found.update(addresses.separate(address)[1])
    return found


def _netrc(environ: Mapping[str, str], settings: Settings, lock: Lock) -> str | None:
    """The entries of the user's `.netrc` for the hosts that are asked, and no others."""
    path = environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        known = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return None
    asked = {urlsplit(one).hostname for one in (*settings.addresses, *(package.url for package in lock.pip))}
    lines = []
    for host in sorted(one for one in asked if one and one in known.hosts):
        login, _, password = known.hosts[host]
        lines.append(f"machine {host} login {login} password {password}\n")
    return "".join(lines) or None


def for_uv(settings: Settings, folder: str) -> dict[str, str]:
    """Variables for uv; files that were brought lie in `folder`."""
    found = {
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # hashes say what is right, wherever it is found
        "UV_FIND_LINKS": ",".join([*settings.find_links, f"{folder}/files"]),
        "UV_NO_CONFIG": "1",
    }
    if settings.no_index:
        found["UV_NO_INDEX"] = "1"
    if settings.default:
        found["UV_DEFAULT_INDEX"] = settings.default
    if settings.extra:
        found["UV_INDEX"] = " ".join(settings.extra)
    if settings.trusted_hosts:
        found["UV_INSECURE_HOST"] = " ".join(settings.trusted_hosts)
    if settings.timeout:
        found["UV_HTTP_TIMEOUT"] = settings.timeout
    return {**found, **_shared(settings, folder)}


def for_pip(settings: Settings, folder: str) -> dict[str, str]:
    """Variables for pip; files that were brought lie in `folder`."""
    found = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": " ".join([*settings.find_links, f"{folder}/files"]),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    if settings.no_index:
        found["PIP_NO_INDEX"] = "1"
    if settings.default:
        found["PIP_INDEX_URL"] = settings.default
    if settings.extra:
        found["PIP_EXTRA_INDEX_URL"] = " ".join(settings.extra)
    if settings.trusted_hosts:
        found["PIP_TRUSTED_HOST"] = " ".join(settings.trusted_hosts)
    if settings.timeout:
        found["PIP_DEFAULT_TIMEOUT"] = settings.timeout
    if settings.certificates:
        found["PIP_CERT"] = f"{folder}/certificates.pem"
    if settings.client_certificate:
        found["PIP_CLIENT_CERT"] = f"{folder}/client.pem"
    return {**found, **_shared(settings, folder)}


def _shared(settings: Settings, folder: str) -> dict[str, str]:
    found = dict(settings.proxies)
    if settings.certificates:
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
        found.update(dict.fromkeys(names, f"{folder}/certificates.pem"))
    if settings.client_certificate:
        found["SSL_CLIENT_CERT"] = f"{folder}/client.pem"
    if settings.netrc:
        found["NETRC"] = f"{folder}/netrc"
    return found


def files(settings: Settings) -> dict[str, bytes]:
    """Small files that a build reads, by their names in its folder."""
    found = {}
    for name, path in (
        ("certificates.pem", settings.certificates),
        ("client.pem", settings.client_certificate),
    ):
        if path:
            with open(path, "rb") as file:
                found[name] = file.read()
    if settings.netrc:
        found["netrc"] = settings.netrc.encode()
    return found


def is_loopback(settings: Settings) -> bool:
    """Whether something that is asked answers only on this machine's own addresses."""
    asked = [
        *settings.addresses,
        *(value for name, value in settings.proxies.items() if "no_" not in name.lower()),
    ]
    hosts = [urlsplit(one if "://" in one else f"//{one}").hostname or "" for one in asked]
    return any(host.startswith(_LOOPBACK) for host in hosts)


def hidden(settings: Settings, text: str) -> str:
    """A line of output without the credentials of any address."""
    for secret in _secrets(settings):
        text = text.replace(secret, _HIDDEN)
    return addresses.strip(text) if "://" in text else text


def _secrets(settings: Settings) -> set[str]:
    found = set()
    for address in (*settings.addresses, *settings.proxies.values()):
        password = urlsplit(address).password if "@" in address else None
        found |= {password, unquote(password)} if password else set()
    for line in (settings.netrc or "").splitlines():
        found.add(line.partition(" password ")[2])
    return {one for one in found if len(one) > 3}
