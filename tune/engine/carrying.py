"""Trials' files on a cluster: read and written in place, or carried by Ray to the driver's machine.

A keeper (`tune.store.keeper`) runs as an actor on the driver's node. The worker of each attempt
first finds out whether it sees the study's folder. If so, it writes there by itself. If not, it
works in a temporary folder of its node and sends the keeper what changed, in pieces that go through
Ray's object store.
"""

import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from core.errors import ProcessLost, ResourceError, StorageError
from core.text import first_line, many
from tune.engine import scratch
from tune.engine.messages import Assignment
from tune.engine.session import living_nodes
from tune.store.carried import CarriedShelf
from tune.store.keeper import Keeper
from tune.store.names import key_of
from tune.store.probe import forget_mark, leave_mark, sees_folder
from tune.store.trial_files import Copied, TrialFiles, opened_here
from tune.store.url import UrlShelf, UrlStore

PROBE_SECONDS = 120.0
"""Seconds in which a node must have found out whether it sees the study's folder; otherwise its
trials' files are carried."""


def start_keeper(folder: Path) -> Any:
    """Start the keeper of a study's folder on the node of this process, and return its handle."""
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(Keeper).options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    )
    return actor.remote(str(folder.absolute()))


@dataclass(frozen=True)
class _Asking:
    """Calls operations of the keeper, from any process of the cluster."""

    keeper: Any

    def __call__(self, operation: str, *arguments: Any) -> Any:
        """The result of an operation. Raises what the keeper raised, StorageError if it has ended,
        and ProcessLost if Ray loses the answer.
        """
        try:
            return ray.get(getattr(self.keeper, operation).remote(*arguments))
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise StorageError(
                f"the process that keeps trials' files on the driver's machine has ended"
                f" ({first_line(error)}); run the same command again: it continues"
            ) from None
        except RayError as error:  # such as a piece that did not arrive
            raise ProcessLost(
                "Ray brought no answer from the process that keeps trials' files on the driver's"
                f" machine ({first_line(error)})"
            ) from None


@dataclass(frozen=True)
class ClusterFiles:
    """Opens the files of attempts on any node of a cluster (an `OpenFiles`).

    ask      calls operations of the keeper
    folder   the study's folder, by its path on the driver's machine
    mark     the text of the folder's mark (`tune.store.probe`)
    store    the URL through which all trials' files go; None if they are in the study's folder
    """

    ask: Callable[..., Any]
    folder: Path
    mark: str
    store: UrlStore | None = None

    @contextlib.contextmanager
    def __call__(self, assignment: Assignment) -> Iterator[TrialFiles]:
        """The files of an attempt for the time of the block: in place if this node sees them.

        A copy lies in a temporary folder, which is removed at the end. Raises filelock.Timeout,
        StorageError, ProcessLost and OSError.
        """
        place = Path(assignment.folder)
        shelf = CarriedShelf(self.ask, key_of(place), assignment.attempt)
        if self.store is None and self.seen:
            shelf.enter(place, direct=True)
            with opened_here(place, assignment.attempt) as files:
                yield files
            return
        with contextlib.ExitStack() as stack:
            try:
                temporary = stack.enter_context(scratch.folder())
            except ResourceError as error:  # the next trial would fail there too
                raise StorageError(f"on {socket.gethostname()}, {error}") from None
            shelf.enter(place)
            try:
                copy = temporary / "trial"
                copy.mkdir()
                yield Copied(
                    copy, UrlShelf(self.store, key_of(place), shelf) if self.store else shelf
                )
            finally:
                shelf.leave()

    @property
    def seen(self) -> bool:
        """Whether this node sees the study's folder, and the driver what is written here."""
        return sees_folder(self.folder, self.mark, lambda name: self.ask("content", name))


@contextlib.contextmanager
def files_on_cluster(
    folder: Path, store: UrlStore | None, say: Callable[[str], object]
) -> Iterator[ClusterFiles]:
    """Start the keeper of a study's folder, and find out which nodes see the folder or the store.

    folder   the study's folder on the driver's machine
    store    the URL through which all trials' files go; None if none was asked for
    say      takes a sentence for the user

    Raises StorageError if the keeper, which Ray starts, does not see the folder itself, and if a
    node does not reach the store.
    """
    keeper = start_keeper(folder)
    try:
        files = ClusterFiles(_Asking(keeper), folder.absolute(), leave_mark(folder), store)
        _check_keeper(files)
        if store is not None:
            _check_store(store)
            yield files
            return
        seeing = _seeing(files)
        if not all(seeing):
            do = "does" if seeing.count(False) == 1 else "do"
            say(
                f"{seeing.count(False)} of {many(len(seeing), 'node')} of the cluster {do} not see"
                f" {files.folder}, so the files of trials there are carried here through Ray after"
                " each epoch"
            )
        yield files
    finally:
        forget_mark(folder)
        with contextlib.suppress(RayError, RuntimeError):  # where Ray has ended, so has the keeper
            ray.kill(keeper)


def _check_keeper(files: ClusterFiles) -> None:
    """Raise StorageError if the processes that Ray starts here do not see the study's folder."""
    name = ".driver"
    path = files.folder / name
    path.write_text(files.mark)
    try:
        if files.ask("content", name) != files.mark.encode():
            raise StorageError(
                f"the processes of the cluster's node on this machine must see {files.folder}, and"
                " do not: start the search where that node runs (`ray job submit` does), or name a"
                " folder that both see, --results DIR"
            )
    finally:
        path.unlink(missing_ok=True)


def _check_store(store: UrlStore) -> None:
    """Raise StorageError unless each node reads at the URL what the driver and another node wrote.

    The driver reads what each node wrote, too.
    """
    nodes = [str(node["NodeID"]) for node in living_nodes()]
    name, text = "probe/{}".format, secrets.token_hex(16)
    once = replace(store, pauses=())  # what fails now would fail a minute later
    try:
        once.put(name("driver"), text.encode())
        _on_each(nodes, once, [name("driver")] * len(nodes), text, [*map(name, nodes)])
        for node in nodes:
            if once.read(name(node)) != text.encode():
                raise StorageError(f"this machine does not read what node {node} wrote")
        _on_each(nodes, once, [name(node) for node in (*nodes[1:], *nodes[:1])], text, None)
    except StorageError as error:
        raise StorageError(
            f"--store must be a URL that every node can read and write: {error}; or leave --store"
            " out when you start another study: its trials' files are then carried to this machine"
        ) from None
    finally:
        with contextlib.suppress(StorageError):
            for one in ("driver", *nodes):
                once.forget(name(one))


def _on_node(function: Callable[..., Any], node: str) -> Any:
    """A function that Ray runs on the node with this id, or nowhere."""
    return ray.remote(function).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )


def _on_each(
    nodes: Sequence[str],
    store: UrlStore,
    reads: Sequence[str],
    text: str,
    writes: Sequence[str] | None,
) -> None:
    """On each node, read a text from the store and perhaps write it. Raises StorageError."""
    calls = {
        node: _on_node(_reads_and_writes, node).remote(
            store, reads[place], text, None if writes is None else writes[place]
        )
        for place, node in enumerate(nodes)
    }
    for node, call in calls.items():
        try:
            trouble = ray.get(call, timeout=PROBE_SECONDS)
        except RayError as error:
            trouble = f"it has not answered ({first_line(error)})"
        if trouble:
            raise StorageError(f"node {node}: {trouble}")


def _reads_and_writes(store: UrlStore, read: str, text: str, write: str | None) -> str:
    """Read a text from the store and perhaps write it; returns what is wrong, or nothing."""
    try:
        if store.read(read) != text.encode():
            return "it does not read what another machine wrote"
        if write is not None:
            store.put(write, text.encode())
    except StorageError as error:
        return str(error)
    return ""


def _seeing(files: ClusterFiles) -> list[bool]:
    """For each node, whether it sees the study's folder; False where it gave no answer in time."""
    calls = [_on_node(_sees, node["NodeID"]).remote(files) for node in living_nodes()]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=PROBE_SECONDS)
    return [call in done and _is_true(call) for call in calls]


def _is_true(call: Any) -> bool:
    """The answer of a node; False if it died or could not run the task."""
    try:
        return bool(ray.get(call))
    except RayError:
        return False


def _sees(files: ClusterFiles) -> bool:
    """Whether the node of this task sees the study's folder."""
    return files.seen
