"""Threads that work beside the caller's own, and give their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

_Result = TypeVar("_Result")

AHEAD = 2
"""Number of tasks for each helper that may wait, run, or have a result that nobody has taken, which
bounds the memory that they hold."""


class Helpers:
    """Threads that run tasks while the caller's thread prepares the next ones.

    count   number of threads; with 0 the caller's thread runs each task when it is its turn

    Results do not depend on `count`. When the block is left, also by an exception or Ctrl-C, tasks
    that have not begun are dropped, and those that have are waited for.
    """

    def __init__(self, count: int) -> None:
        assert count >= 0
        self._pool = ThreadPoolExecutor(count, "helper") if count else None
        self._most = AHEAD * count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, tasks: Iterable[Callable[[], _Result]]) -> Iterator[_Result]:
        """Yield the results of tasks, in the order of the tasks.

        The tasks are taken one by one in the caller's thread while earlier ones run, no further
        ahead than AHEAD for each helper. An exception of a task is raised in the place of its
        result.
        """
        if self._pool is None:
            for task in tasks:
                yield task()
            return
        ahead: deque[Future[_Result]] = deque()
        for task in tasks:
            ahead.append(self._pool.submit(task))
            while ahead and (len(ahead) >= self._most or ahead[0].done()):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
