"""Laws of the store of trials' files: what arrives is what was sent, whole, in its place, bounded."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ProcessLost, StorageError
from core.files import write_atomically
from tune.store import carried, keeper, names, trial_files
from tune.store.carried import CarriedShelf
from tune.store.keeper import Keeper
from tune.store.names import checked_key, checked_name, names_in
from tune.store.probe import PLACE_FILE, leave_mark, sees_folder
from tune.store.trial_files import Copied, opened_here, seconds_of_lost_epoch

KEY = "trials/7"


@dataclass
class Line:
    """A keeper that is called as Ray calls it, and the calls so far."""

    keeper: Keeper
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    before: Callable[[str, tuple[Any, ...]], None] = lambda *_: None

    def __call__(self, operation: str, *arguments: Any) -> Any:
        self.before(operation, arguments)
        self.calls.append((operation, *arguments))
        return getattr(self.keeper, operation)(*arguments)

    def sent(self) -> list[str]:
        """Names of the files whose last piece was sent, and of those removed, in their order."""
        return [
            f"{'-' if call[0] == 'remove' else ''}{call[3]}"
            for call in self.calls
            if call[0] == "remove" or (call[0] == "write" and call[4] + len(call[5]) == call[6])
        ]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of five bytes, so that small files have several."""
    for module in (names, keeper, trial_files):
        monkeypatch.setattr(module, "PIECE_BYTES", 5)
    monkeypatch.setattr(trial_files.pieces_of, "__defaults__", (5,))
    return 5


def line_to(study: Path) -> Line:
    return Line(Keeper(str(study)))


def copy_of(line: Line, folder: Path, attempt: int = 1) -> Copied:
    """The files of an attempt on a node that does not see the study's folder."""
    shelf = CarriedShelf(line, KEY, attempt)
    shelf.enter(folder)
    folder.mkdir(parents=True)
    return Copied(folder, shelf)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


def save(folder: Path, **files: bytes) -> None:
    """Write files as a trial does, each whole; `__` in a name is a slash and `_` a dot."""
    for key, data in files.items():
        path = folder / key.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        time.sleep(0.001)


def test_what_arrives_is_what_was_sent(tmp_path: Path, small_pieces: int) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    sizes = range(4 * small_pieces)
    for size in sizes:
        save(files.folder, **{f"size{size}_bin": os.urandom(size)})
    save(files.folder, matches__epoch1_npz=b"table", last_json=b"[1]")
    files.hand_over()
    assert content(tmp_path / "study" / KEY) == content(files.folder)
    assert len(content(files.folder)) == len(sizes) + 2
    pieces = [call[5] for call in line.calls if call[0] == "write"]
    assert max(map(len, pieces)) == small_pieces


def test_only_what_changed_is_sent_and_the_checkpoint_after_the_files_that_it_names(
    tmp_path: Path,
) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    save(files.folder, matches__epoch1_npz=b"1", best1_bin=b"b", last_json=b"[1]", epochs_csv=b"1")
    files.hand_over()
    assert line.sent() == ["matches/epoch1.npz", "best1.bin", "epochs.csv", "last.json"]
    line.calls.clear()
    files.hand_over()
    assert line.sent() == []
    save(files.folder, matches__epoch2_npz=b"2", best2_bin=b"B", last_json=b"[2]")
    (files.folder / "best1.bin").unlink()
    files.hand_over()
    assert line.sent() == ["matches/epoch2.npz", "best2.bin", "last.json", "-best1.bin"]
    assert content(tmp_path / "study" / KEY) == content(files.folder)


def test_another_node_goes_on_with_the_checkpoint_and_without_the_match_tables(
    tmp_path: Path,
) -> None:
    line = line_to(tmp_path / "study")
    first = copy_of(line, tmp_path / "one")
    save(first.folder, matches__epoch1_npz=b"1", best1_bin=b"b", last_json=b"[1]")
    first.hand_over()
    second = copy_of(line, tmp_path / "two", attempt=2)
    assert content(second.folder) == {"best1.bin": b"b", "last.json": b"[1]"}
    line.calls.clear()
    second.hand_over()
    assert line.sent() == []  # what was fetched is not sent back, and no match table is removed
    assert "matches/epoch1.npz" in content(tmp_path / "study" / KEY)


def test_an_attempt_that_was_given_up_and_lives_on_changes_nothing(tmp_path: Path) -> None:
    line = line_to(tmp_path / "study")
    first, second = copy_of(line, tmp_path / "one"), copy_of(line, tmp_path / "two", attempt=2)
    save(second.folder, last_json=b"new")
    second.hand_over()
    save(first.folder, last_json=b"old")
    with pytest.raises(ProcessLost, match=r"attempt 1 of trials/7 .* attempt 2"):
        first.hand_over()
    with pytest.raises(ProcessLost):
        first.epoch_begins()
    with pytest.raises(ProcessLost):
        CarriedShelf(line, KEY, 1).enter(tmp_path)
    assert content(tmp_path / "study" / KEY) == {"last.json": b"new"}


def test_a_worker_that_sees_the_folder_and_one_that_does_not_are_never_in_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carried, "LOCK_SECONDS", 0)
    study = tmp_path / "study"
    line = line_to(study)
    with opened_here(study / KEY, 1), pytest.raises(filelock.Timeout):
        copy_of(line, tmp_path / "node", attempt=2)
    copy_of(line, tmp_path / "node", attempt=2)
    lock = filelock.FileLock(study / KEY / ".lock", timeout=0)
    with pytest.raises(filelock.Timeout):
        lock.acquire()
    CarriedShelf(line, KEY, 3).enter(study / KEY, direct=True)  # attempt 2 was lost
    with opened_here(study / KEY, 3), pytest.raises(ProcessLost):
        CarriedShelf(line, KEY, 2).write("last.json", study / KEY / ".lock")


@pytest.mark.parametrize("missing", [1, 2])
def test_a_file_is_whole_or_not_there_wherever_the_sender_dies(
    tmp_path: Path, small_pieces: int, missing: int
) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    save(files.folder, last_json=b"old")
    files.hand_over()

    def die(operation: str, arguments: tuple[Any, ...]) -> None:
        if operation == "write" and arguments[3] == missing * small_pieces:
            raise KeyboardInterrupt

    line.before = die
    save(files.folder, last_json=b"n" * 4 * small_pieces)
    with pytest.raises(KeyboardInterrupt):
        files.hand_over()
    assert content(tmp_path / "study" / KEY) == {"last.json": b"old"}
    line.before = lambda *_: None
    copy_of(line, tmp_path / "other", attempt=2)
    assert not list((tmp_path / "study" / KEY).glob("**/.*.part"))


def test_a_keeper_that_was_started_anew_is_sent_the_file_again(
    tmp_path: Path, small_pieces: int
) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    begun = 0

    def restart(operation: str, arguments: tuple[Any, ...]) -> None:
        nonlocal begun
        if operation == "write" and arguments[3] == small_pieces and begun < 2:
            begun += 1
            line.keeper._attempts[KEY].leave()  # as the end of its process does
            line.keeper = Keeper(str(tmp_path / "study"))

    line.before = restart
    save(files.folder, last_json=b"n" * 3 * small_pieces)
    files.hand_over()
    assert begun == 2
    assert content(tmp_path / "study" / KEY) == {"last.json": b"n" * 3 * small_pieces}


def test_a_full_disk_at_the_driver_is_told_to_the_worker_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    save(files.folder, last_json=b"old")
    files.hand_over()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keeper.os, "fsync", full)
    (files.folder / "last.json").write_bytes(b"new")
    with pytest.raises(OSError, match="No space left") as raised:
        files.hand_over()
    assert raised.value.filename == str(tmp_path / "study" / KEY / "last.json")
    assert content(tmp_path / "study" / KEY) == {"last.json": b"old"}


@given(name=st.text(max_size=20) | st.from_regex(r"(\.|/|a|\.\.){1,8}", fullmatch=True))
def test_no_name_leaves_the_trials_folder(name: str) -> None:
    folder = Path("/study/trials/7")
    try:
        checked_name(name)
    except StorageError:
        return
    inside = Path(os.path.normpath(folder / name))
    assert inside.is_relative_to(folder)
    assert inside != folder
    assert not any(part.startswith(".") for part in inside.relative_to(folder).parts)


@pytest.mark.parametrize(
    "name", ["../best.bin", "/etc/passwd", "a/../../b", ".lock", "a/.lock", "", "a//b", "a\n", "é"]
)
def test_a_name_that_leaves_the_folder_or_is_hidden_is_refused_by_the_keeper(
    tmp_path: Path, name: str
) -> None:
    line = line_to(tmp_path / "study")
    copy_of(line, tmp_path / "node")
    shelf = CarriedShelf(line, KEY, 1)
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for deed in (
        lambda: shelf.write(name, source),
        lambda: shelf.remove(name),
        lambda: shelf.fetch(name, tmp_path / "there"),
    ):
        with pytest.raises(StorageError, match="must be a relative path"):
            deed()


@pytest.mark.parametrize("key", ["trials/..", "../study", "trials/7/x", "best", "trials/-1", ""])
def test_a_place_that_is_no_trials_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(StorageError, match="trials/NUMBER"):
        checked_key(key)
    with pytest.raises(StorageError):
        Keeper(str(tmp_path)).enter(key, 1)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    with pytest.raises(StorageError, match="a piece of a trial's file"):
        line.keeper.write(KEY, 1, "a", 0, bytes(names.PIECE_BYTES + 1), names.PIECE_BYTES + 1)
    with pytest.raises(StorageError, match="a piece of a trial's file"):
        line.keeper.write(KEY, 1, "a", 2, b"four", 5)
    with pytest.raises(StorageError, match="at most"):
        line.keeper.write(KEY, 1, "a", 0, b"", names.LARGEST_FILE + 1)
    monkeypatch.setattr(names, "LARGEST_FILE", 3)
    save(files.folder, last_json=b"four")
    with pytest.raises(StorageError, match=r"at most 3 bytes, and last\.json has 4"):
        files.hand_over()
    monkeypatch.setattr(names, "MOST_FILES_OF_A_TRIAL", 2)
    save(files.folder, a=b"", b=b"")
    with pytest.raises(StorageError, match="at most 2 files"):
        files.hand_over()
    assert content(tmp_path / "study" / KEY) == {}


def test_hidden_files_and_links_stay_on_the_node(tmp_path: Path) -> None:
    line = line_to(tmp_path / "study")
    files = copy_of(line, tmp_path / "node")
    secret = tmp_path / "secret"
    secret.write_text("x")
    (files.folder / "link").symlink_to(secret)
    (files.folder / ".last.json.1.part").write_text("half")
    save(files.folder, last_json=b"[1]")
    files.hand_over()
    assert line.sent() == ["last.json"]


def test_the_epoch_in_which_a_carried_trial_died_is_counted_by_the_drivers_clock(
    tmp_path: Path,
) -> None:
    study = tmp_path / "study"
    files = copy_of(line_to(study), tmp_path / "node")
    files.epoch_begins()
    begun = study / KEY / trial_files.EPOCH_FILE
    os.utime(begun, (time.time() - 60,) * 2)
    assert seconds_of_lost_epoch(study / KEY, 1) == pytest.approx(60, abs=5)
    assert seconds_of_lost_epoch(study / KEY, 2) == 0
    files.epoch_ended()
    assert seconds_of_lost_epoch(study / KEY, 1) == 0


def test_a_folder_is_shared_only_if_each_side_reads_what_the_other_wrote(tmp_path: Path) -> None:
    study, image = tmp_path / "study", tmp_path / "image"
    study.mkdir()
    image.mkdir()
    (study / ".seen-by-a-node-that-died").touch()
    text = leave_mark(study)
    there = Keeper(str(study)).content
    assert sees_folder(study, text, there)
    (image / PLACE_FILE).write_text(text)  # a copy of the driver's disk
    assert not sees_folder(image, text, there)
    assert not sees_folder(tmp_path / "nowhere", text, there)
    assert not sees_folder(study, leave_mark(image), there)
    assert [path.name for path in study.iterdir()] == [PLACE_FILE]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["study.json", "../.place", ".place/../study.json"])
def test_the_probe_reads_nothing_but_its_own_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="probe"):
        Keeper(str(tmp_path)).content(name)


def test_after_a_new_start_of_the_keeper_the_later_of_two_attempts_writes(tmp_path: Path) -> None:
    line = line_to(tmp_path / "study")
    first = copy_of(line, tmp_path / "one")
    second = copy_of(line, tmp_path / "two", attempt=2)
    line.keeper._attempts[KEY].leave()  # as the end of its process does
    line.keeper = Keeper(str(tmp_path / "study"))
    first.epoch_begins()  # it was given up, and speaks first
    save(second.folder, last_json=b"new")
    second.hand_over()
    with pytest.raises(ProcessLost):
        first.epoch_ended()
    assert content(tmp_path / "study" / KEY) == {"last.json": b"new"}


def test_what_a_person_put_into_a_trials_folder_stays_there_and_stops_no_trial(
    tmp_path: Path,
) -> None:
    line, there = line_to(tmp_path / "study"), tmp_path / "study" / KEY
    save(there.parent, x=b"")
    save(there, last_json=b"[1]")
    (there / "my notes (1).txt").write_text("good one")
    files = copy_of(line, tmp_path / "node")
    assert content(files.folder) == {"last.json": b"[1]"}
    save(files.folder, last_json=b"[2]")
    files.hand_over()
    assert (there / "last.json").read_bytes() == b"[2]"
    assert (there / "my notes (1).txt").read_text() == "good one"


def test_a_full_disk_of_the_node_is_named_by_its_file(tmp_path: Path) -> None:
    line = line_to(tmp_path / "study")
    save(tmp_path / "study" / KEY, last_json=b"[1]")
    shelf = CarriedShelf(line, KEY, 1)
    shelf.enter(tmp_path)
    with pytest.raises(OSError, match="No space left") as raised:
        shelf.fetch("last.json", Path("/dev/full"))
    assert raised.value.filename == "/dev/full"
