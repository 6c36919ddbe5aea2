"""Many requests to a store side by side, a few ahead of whoever takes their answers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future
    from typing import TypeVar

    Asked = TypeVar("Asked")
    Answer = TypeVar("Answer")


def in_order(
    work: Callable[[Asked], Answer], items: Iterable[Asked], workers: int
) -> Generator[tuple[Asked, Callable[[], Answer]]]:
    """Each item with what gives its answer, or raises its error; at most 2 * `workers` are asked for ahead.

    Who leaves early closes it (`contextlib.closing`): what nobody has begun is not asked for any more.
    """
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    remaining = iter(items)
    asked: deque[tuple[Asked, Future[Answer]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="aml-ahead")
    try:
        while True:
            while len(asked) < 2 * workers:
                try:
                    item = next(remaining)
                except StopIteration:
                    break
                asked.append((item, pool.submit(work, item)))
            if not asked:
                return
            item, future = asked.popleft()
            yield item, future.result
            del future  # with its answer, which may be large
    finally:
        pool.shutdown(cancel_futures=True)


__all__ = ["in_order"]
