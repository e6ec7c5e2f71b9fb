"""Laws of trials' files at a URL. The URL is a real S3 server's; here it is moto's on loopback."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import BadRequest, ProcessLost, StorageError, StudyError
from tests.object_store import running_s3
from tune.store import url as url_module
from tune.store.carried import CarriedShelf
from tune.store.keeper import Keeper
from tune.store.names import PIECE_BYTES
from tune.store.trial_files import Copied
from tune.store.url import Collection, UrlShelf, UrlStore, checked_store

KEY = "trials/7"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty folder in a bucket, up to the name of the study."""
    with running_s3(tmp_path_factory.mktemp("s3")) as s3:
        os.environ |= s3.environment
        yield s3.url
        for name in s3.environment:
            del os.environ[name]


@pytest.fixture
def store(server: str, request: pytest.FixtureRequest) -> UrlStore:
    """A store of a study of its own."""
    return UrlStore(server, f"study{abs(hash(request.node.name))}", pauses=())


def copied(store: UrlStore, study: Path, folder: Path, attempt: int = 1) -> Copied:
    """The files of an attempt on a node, whose keeper writes in `study`."""
    keeper = Keeper(str(study))
    notes = CarriedShelf(lambda operation, *rest: getattr(keeper, operation)(*rest), KEY, attempt)
    notes.enter(study)
    folder.mkdir()
    return Copied(folder, UrlShelf(store, KEY, notes))


def test_a_trial_goes_on_from_what_is_at_the_url_and_the_driver_has_what_it_reads(
    store: UrlStore, tmp_path: Path
) -> None:
    first = copied(store, tmp_path / "study", tmp_path / "one")
    (first.folder / "matches").mkdir()
    files = {
        "matches/epoch-0001.npz": b"table", "best-0001.safetensors": b"best", "empty.csv": b"",
        "last.safetensors": os.urandom(PIECE_BYTES + 1),
    }  # fmt: skip
    for name, data in files.items():
        (first.folder / name).write_bytes(data)
    first.hand_over()
    assert {name: size for name, (size, _) in store.files(KEY).items()} == {
        name: len(data) for name, data in files.items()
    }
    second = copied(store, tmp_path / "elsewhere", tmp_path / "two", attempt=2)
    there = {path.name: path.read_bytes() for path in second.folder.iterdir()}
    assert there == {name: data for name, data in files.items() if "/" not in name}

    collection, folder = Collection(store), tmp_path / "driver"
    collection.collect(folder, KEY, lambda name: not name.endswith(".safetensors"))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"matches/epoch-0001.npz", "empty.csv"}
    (second.folder / "empty.csv").write_bytes(b"1")
    second.hand_over()
    collection.collect(folder, KEY, lambda name: name.endswith(".csv"))
    assert (folder / "empty.csv").read_bytes() == b"1"
    collection.remove(KEY, lambda name: name.startswith("last."))
    assert set(store.files(KEY)) == files.keys() - {"last.safetensors"}


def test_an_attempt_that_was_given_up_writes_nothing_at_the_url(
    store: UrlStore, tmp_path: Path
) -> None:
    keeper = Keeper(str(tmp_path / "study"))

    def attempt(number: int) -> UrlShelf:
        notes = CarriedShelf(lambda name, *rest: getattr(keeper, name)(*rest), KEY, number)
        notes.enter(tmp_path)
        return UrlShelf(store, KEY, notes)

    source = tmp_path / "source"
    source.write_bytes(b"old")
    first = attempt(1)
    attempt(2)
    for deed in (lambda: first.write("last.json", source), lambda: first.remove("last.json")):
        with pytest.raises(ProcessLost):
            deed()
    assert store.files(KEY) == {}


def test_a_url_belongs_to_one_study(store: UrlStore) -> None:
    store.claim("this")
    store.claim("this")
    with pytest.raises(StudyError, match="another study that is called"):
        store.claim("that")


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    "place", ["s3://me:hush@bucket/folder?region=us-east-1&", "gs://anonymous@bucket/folder?"]
)
def test_a_url_that_does_not_answer_is_named_soon_and_without_its_secrets(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_module, "GS_SECONDS", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    url = f"{place}endpoint_override=127.0.0.1:{port}&scheme=http"
    store = UrlStore(url, "study", pauses=(0.0,))
    with pytest.raises(StorageError, match="see that every node reaches it") as raised:
        store.files(KEY)
    assert "hush" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["/shared/results", "file:///shared", "http://x/y", "s3://", "s3:"])
def test_what_is_no_url_of_an_object_store_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match=r"--store must be s3://.*--results"):
        checked_store(url)


def test_what_a_person_put_beside_a_trials_files_stops_nothing(store: UrlStore) -> None:
    store.put(f"{KEY}/last.json", b"[1]")
    store.put(f"{KEY}/my notes (1).txt", b"good one")
    assert set(store.files(KEY)) == {"last.json"}


def test_a_full_disk_of_this_machine_is_not_blamed_on_the_url_nor_waited_for(
    store: UrlStore,
) -> None:
    store.put(f"{KEY}/last.json", b"[1]")
    with pytest.raises(OSError, match="No space left") as raised:
        UrlStore(store.url, store.study, pauses=(1000.0,)).fetch(
            KEY, "last.json", Path("/dev/full")
        )
    assert raised.value.filename == "/dev/full"
