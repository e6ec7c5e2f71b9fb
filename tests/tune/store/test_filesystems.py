"""Laws of recognising the file system that holds a path."""

from pathlib import Path

import pytest

from tune.store.filesystems import MOUNTS, network_type

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2
31 30 0:27 / /home/me/scratch rw - xfs /dev/sdb1 rw
32 22 0:28 / /my\\040share rw master:3 propagate_from:2 - cifs //server/share rw
33 22 0:29 / /over rw - lustre mds:/fs rw
34 33 0:30 / /over rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/study.db", None),
        ("/home/me/results/study.db", "nfs4"),
        ("/home", "nfs4"),
        ("/homeless/study.db", None),
        ("/home/me/scratch/study.db", None),
        ("/my share/study.db", "cifs"),
        ("/over/study.db", None),
    ],
)
def test_the_innermost_and_last_mount_tells_what_holds_a_path(path: str, kind: str | None) -> None:
    assert network_type(Path(path), TABLE) == kind


def test_a_link_is_followed_to_where_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/home/me")
    assert network_type(tmp_path / "link" / "study.db", TABLE) == "nfs4"


@pytest.mark.skipif(not MOUNTS.exists(), reason="this system has no table of mounts")
def test_the_table_of_this_machine_is_read() -> None:
    assert network_type(Path("/proc/self")) is None
    damaged = "no table\n" + TABLE + "22 1 8:1 / - \n"
    assert network_type(Path("/home/x"), damaged) == "nfs4"
