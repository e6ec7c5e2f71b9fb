"""Laws of files that are there whole or not at all, and of what is said of those that the system
refuses.
"""

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core import files
from core.files import (
    GrowingFile,
    encoded,
    parse_json,
    read_json,
    recover,
    refused,
    replaced,
    way_out,
    write_atomically,
    write_json_atomically,
    write_once,
)

ROOT = Path(__file__).parents[2]


def test_a_file_is_written_once_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_once(path, b"first")
    write_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_that_a_killed_process_left_is_written(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch()
    write_once(path, b"first")
    assert path.read_bytes() == b"first"


def _write_own(path: Path, seen: Path) -> None:
    write_once(path, str(os.getpid()).encode())
    (seen / str(os.getpid())).write_bytes(path.read_bytes())


@pytest.mark.parametrize("left", [False, True], ids=["nothing", "an empty file"])
def test_of_several_writers_at_once_all_find_what_one_wrote(tmp_path: Path, left: bool) -> None:
    path, seen = tmp_path / "token", tmp_path / "seen"
    seen.mkdir()
    if left:
        path.touch()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_own, args=(path, seen)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert {one.read_bytes() for one in seen.iterdir()} == {path.read_bytes()}


@pytest.mark.parametrize("write", ["write_once", "write_atomically"])
def test_a_writer_that_is_killed_leaves_no_file_or_the_old_one_and_the_next_writes_it(
    tmp_path: Path, write: str
) -> None:
    path = tmp_path / "token"
    program = (
        f"from pathlib import Path; from core.files import {write}; {write}(Path({str(path)!r}),"
        " b'new')"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "CELL_TUNE_KILL": "writing token"},
        check=False,
    )
    assert killed.returncode == -9
    assert not path.exists()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_only_what_the_disk_refuses_is_called_the_disk(number: int) -> None:
    said = refused(OSError(number, os.strerror(number), "/study/file"))
    assert said.startswith(f"/study/file cannot be used ({os.strerror(number)}): ")
    of_the_disk = {errno.ENOSPC, errno.EROFS, errno.EIO}
    assert ("disk" in said.partition("): ")[2]) == (number in of_the_disk)


def test_an_error_that_names_neither_file_nor_number_is_told_in_its_own_words(
    tmp_path: Path,
) -> None:
    assert (
        refused(TimeoutError("no answer"), "the lock")
        == "the lock cannot be used (no answer): see to it"
    )
    assert way_out(OSError("odd")) == ""
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none" / "file", b"")
    assert refused(caught.value).startswith(str(tmp_path / "none"))


def test_what_was_written_as_json_is_read_again(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, True], "ü": {"b": "c"}}
    write_json_atomically(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", ValueError) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "the file is not JSON"),
        (b"\xff", "the file is not JSON"),
        (b"[" * 100_000, "the file is not JSON"),
        (b'{"a": 1, "a": 2}', "must hold a key once, and one holds 'a' twice"),
        (None, "the file cannot be read: No such file"),
    ],
)
def test_a_damaged_json_file_is_one_sentence_with_its_name_and_the_way_out(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyError) as caught:
        read_json(path, KeyError, "bring it back")
    (sentence,) = caught.value.args
    assert sentence.startswith(f"{path}: ")
    assert told in sentence
    assert sentence.endswith("; bring it back")


@pytest.mark.parametrize("text", ["{", "", b"\xff", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_json_that_is_damaged_or_has_a_key_twice_is_refused(text: str | bytes) -> None:
    assert parse_json('{"a": [1, {"a": null}]}') == {"a": [1, {"a": None}]}
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_table_that_outgrows_the_disk_is_finished_with_what_was_kept(tmp_path: Path) -> None:
    """The limit on the size of a file stands for a full disk: it cuts a write short, then refuses."""
    table = GrowingFile(tmp_path / "cells.csv")
    table.add("kept\n" * 20)
    table.keep()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        with pytest.raises(OSError, match="too large") as refused:
            table.add("lost\n" * 20)
        table.finish("end\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.filename == str(tmp_path / "cells.csv")
    assert (tmp_path / "cells.csv").read_text() == "kept\n" * 20 + "end\n"
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]


def test_bytes_of_a_name_that_are_no_text_are_escaped() -> None:
    assert encoded("donn\udce9es, \u03bcm") == b"donn\\udce9es, \xce\xbcm"


def test_a_file_that_cannot_be_written_has_its_own_name_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, b"")
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanged", "renamed"])
def test_a_folder_is_replaced_as_a_whole_or_stays(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)  # as some file systems

    def content() -> list[str]:
        return sorted(path.name for path in (tmp_path / "best").iterdir())

    def write(name: str, seconds: int = 1) -> None:
        with replaced(tmp_path / "best") as new:
            (new / name).touch()
            assert 1 / seconds

    for name in ("first", "second"):
        write(name)
        assert content() == [name]
    with pytest.raises(ZeroDivisionError):
        write("third", seconds=0)
    assert content() == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_that_was_away_when_its_writer_died_is_brought_back(tmp_path: Path) -> None:
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "whole").touch()
    recover(tmp_path / "best")
    assert (tmp_path / "best" / "whole").exists()
    recover(tmp_path / "best")
    assert (tmp_path / "best" / "whole").exists()
