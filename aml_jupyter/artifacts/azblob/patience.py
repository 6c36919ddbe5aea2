"""How long a store is waited for: limits for one answer, and one budget for all tries of a request."""

from __future__ import annotations

import time

from aml_jupyter.artifacts.azblob.faults import understand
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Event
    from typing import TypeVar

    from azure.storage.blob import ContainerClient

    from aml_jupyter.artifacts.azblob.account import Account

    T = TypeVar("T")

VARIABLE = "AML_STORE_PATIENCE"
DEFAULT = 60.0


class Patience(Value):
    """Seconds: to connect, without a byte, and for all tries of one request together."""

    connect: float = 10.0
    read: float = 30.0
    budget: float = DEFAULT


def patience_of(environ: Mapping[str, str]) -> Patience:
    """The budget that AML_STORE_PATIENCE names in seconds, 60 where it names none."""
    try:
        budget = min(86_400.0, max(0.1, float(environ.get(VARIABLE, ""))))
    except ValueError:
        budget = DEFAULT
    return Patience(connect=min(10.0, budget), read=min(30.0, budget), budget=budget)


def persist(
    account: Account, key: str, operation: Callable[[ContainerClient], T], stop: Event | None = None
) -> T:
    """Ask until there is an answer or the budget is used up; refused credentials are looked for once more.

    Raises ArtifactError.  Once `stop` is set, because nobody waits for the answer, nothing is tried again.
    """
    from azure.core.exceptions import AzureError

    begun = time.monotonic()
    tries = 0
    renewed = False
    while True:
        client = account.client()
        tries += 1
        try:
            return operation(client)
        except AzureError as error:
            fault = understand(error, key, account)
        if fault.renewable and not renewed:
            renewed = True
            if account.renew(client):
                continue
        if not fault.passing:
            raise fault.error
        pause = _pause(tries, fault.after)
        spent = time.monotonic() - begun
        if spent + pause > account.patience.budget:
            raise fault.given_up(tries, spent)
        if stop is None:
            time.sleep(pause)
        elif stop.wait(pause):
            raise fault.given_up(tries, spent)


def _pause(tries: int, asked: float) -> float:
    """Seconds until the next try: what the store asks for, else doubling from a quarter, never in step."""
    import random

    return max(asked, min(20.0, 0.125 * 2.0**tries) * (0.75 + random.random() / 2))  # noqa: S311
