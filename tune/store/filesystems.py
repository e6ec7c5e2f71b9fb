"""File systems of other machines, on which the locks of SQLite do not hold.

SQLite keeps writers apart by locks of the file system and, in the mode that the ledger uses, by
memory that processes of one machine share (https://www.sqlite.org/wal.html). On a network file
system both fail without a message, and the database is damaged.
"""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""The table of mounted file systems; proc(5) documents its lines."""

NETWORK_TYPES = frozenset({
    "nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "lustre", "gpfs",
    "beegfs", "panfs", "ceph", "glusterfs", "pvfs2", "orangefs", "fuse.ceph", "fuse.glusterfs",
    "fuse.sshfs", "fuse.s3fs", "fuse.goofys", "fuse.gcsfuse", "fuse.juicefs", "fuse.rclone",
    "fuse.mountpoint-s3", "fuse.beegfs", "fuse.lizardfs", "fuse.moosefs",
})  # fmt: skip
"""Types of file systems, as the kernel names them, whose files lie on other machines."""


def network_type(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network file system that holds a path; None for a disk of this machine.

    path     a file or folder; its nearest parent that exists counts if it does not exist yet
    mounts   content of the table of mounts; None to read that of this process

    Where the table cannot be read, as on systems other than Linux, nothing is known, and the answer
    is None.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_text(errors="surrogateescape")
        except OSError:
            return None
    path = path.resolve()
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = Path(_unescaped(fields[4]))
        # A later line hides an earlier one at the same place.
        if path.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), kinds[0]
    return found[1] if found is not None and found[1] in NETWORK_TYPES else None


def _unescaped(text: str) -> str:
    """A path of the table, in which space, tab, line break and backslash are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
