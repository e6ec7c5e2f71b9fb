"""The processors and memory that this process may use inside a container or a scheduler's job.

Linux limits them by control groups, of which it has two versions (cgroups(7)): version 1 has a
hierarchy of groups for each controller, version 2 one for all; a machine may mount both. A limit
holds for all groups beneath it, so the smallest limit on the path from the root to a process's
group counts.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 2**60
"""Bytes from which on a limit means no limit: version 1 then shows the largest multiple of a page
that fits in 63 bits."""


@dataclass(frozen=True)
class Allowed:
    """The processors and memory that one process may use.

    cpus     whole processors, at least 1; a fraction is rounded down, because a trial with one
             thread more than it has processors would be slowed down
    memory   bytes
    """

    cpus: int
    memory: int


def allowed_resources(root: Path = Path("/")) -> Allowed:
    """The resources of this process, by CPU affinity, the machine's memory and control groups.

    root   the folder that holds `proc` and the control groups' files; tests give another than `/`
    """
    cpus: list[float] = [float(len(os.sched_getaffinity(0)))]
    memory: list[float] = [memory_of_the_machine()]
    for group in _group_folders(root):
        cpus += _as_list(_cpu_limit(group))
        memory += _as_list(_memory_limit(group))
    return Allowed(max(1, int(min(cpus) + 1e-6)), int(min(memory)))


def memory_of_the_machine() -> int:
    """The whole memory of the machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_available(root: Path = Path("/")) -> int:
    """Bytes that processes may still take before the machine swaps; 0 if that is not known."""
    for line in (_text_of(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _as_list(limit: float | None) -> list[float]:
    """A limit as a list, which is empty where there is none."""
    return [] if limit is None else [limit]


def _cpu_limit(group: Path) -> float | None:
    """Processors that a group may use, perhaps a fraction; None for no limit. Both versions."""
    quota, _, period = (_text_of(group / "cpu.max") or "").partition(" ")
    if not period:
        quota, period = (
            _text_of(group / "cpu.cfs_quota_us") or "",
            _text_of(group / "cpu.cfs_period_us") or "",
        )
    if not (quota.isdigit() and period.isdigit()) or not int(quota) or not int(period):
        return None  # "max", or -1
    return int(quota) / int(period)


def _memory_limit(group: Path) -> int | None:
    """Bytes that a group may use; None for no limit. Both versions."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _text_of(group / name)
        if text and text.isdigit() and 0 < int(text) < _UNLIMITED:
            return int(text)
    return None


def _group_folders(root: Path) -> Iterator[Path]:
    """The visible folders of this process's groups in every hierarchy, and of all groups above."""
    mine = _my_groups(root)
    for line in (_text_of(root / "proc/self/mountinfo") or "").splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw: root in the file system,
        # mount point, options
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(" "), after.split(" ") or [""]
        if kind not in ("cgroup", "cgroup2") or len(fields) < 5 or len(rest) < 2:
            continue
        controllers = "" if kind == "cgroup2" else rest[1]
        group = next(
            (path for name, path in mine.items() if _same_hierarchy(name, controllers)), None
        )
        if group is None:
            continue
        seen, mount = PurePosixPath(_unescaped(fields[3])), _unescaped(fields[4])
        inside = group.relative_to(seen) if group.is_relative_to(seen) else PurePosixPath()
        if ".." in inside.parts:  # the group lies outside of what this namespace shows
            inside = PurePosixPath()
        folder = root / mount.lstrip("/")
        for part in (inside, *inside.parents) if inside.parts else (inside,):
            yield folder / part


def _my_groups(root: Path) -> Mapping[str, PurePosixPath]:
    """The path of this process's group in each hierarchy, by the hierarchy's controllers.

    The controllers are "" in version 2. A line of /proc/self/cgroup is `4:cpu,cpuacct:/jobs/7`.
    """
    lines = [
        line.split(":", 2) for line in (_text_of(root / "proc/self/cgroup") or "").splitlines()
    ]
    return {line[1]: PurePosixPath(line[2]) for line in lines if len(line) == 3}


def _same_hierarchy(controllers: str, options: str) -> bool:
    """Whether a group's controllers are those of a mount, whose options name them in version 1.

    Both are empty in version 2.
    """
    if not controllers or not options:
        return controllers == options
    return set(controllers.split(",")) <= set(options.split(","))


def _unescaped(path: str) -> str:
    """A path of /proc/self/mountinfo, in which the kernel writes white space as octal escapes."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        path = path.replace(code, character)
    return path


def _text_of(path: Path) -> str | None:
    """The text of a file without white space around it; None if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
