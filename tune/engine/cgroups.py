"""What this process's control groups let it use of the machine: a container, a job or a service has less than all.

Linux counts in two ways (cgroups(7)): in version 1 a hierarchy for each controller, in version 2 one for all; a machine
may mount both. Limits hold for all groups beneath, so along the path of a process the smallest of each kind wins.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 2**60
"""Bytes from which version 1 means no limit: it writes the largest multiple of a page that 63 bits hold."""


@dataclass(frozen=True)
class Allowed:
    """What one process may use.

    cpus     processors, at least 1; a part of one is left out, because a trial that fills it would be slowed down
    memory   bytes
    """

    cpus: int
    memory: int


def allowed(root: Path = Path("/")) -> Allowed:
    """Processors and memory of this process: by its affinity, the machine's memory, and its control groups.

    root   the folder that holds `proc` and the control groups' files; a test gives another
    """
    cpus: list[float] = [float(len(os.sched_getaffinity(0)))]
    memory: list[float] = [memory_of_the_machine()]
    for group in _groups(root):
        cpus += _numbers(_cpu_limit(group))
        memory += _numbers(_memory_limit(group))
    return Allowed(max(1, int(min(cpus) + 1e-6)), int(min(memory)))


def memory_of_the_machine() -> int:
    """All of it, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _numbers(limit: float | None) -> list[float]:
    return [] if limit is None else [limit]


def _cpu_limit(group: Path) -> float | None:
    """Processors' worth of time that a group may use, by version 2 or 1; None for all."""
    quota, _, period = (_read(group / "cpu.max") or "").partition(" ")
    if not period:
        quota, period = _read(group / "cpu.cfs_quota_us") or "", _read(group / "cpu.cfs_period_us") or ""
    if not (quota.isdigit() and period.isdigit()) or not int(quota) or not int(period):
        return None  # "max", or -1
    return int(quota) / int(period)


def _memory_limit(group: Path) -> int | None:
    """Bytes that a group may use, by version 2 or 1; None for all."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _read(group / name)
        if text and text.isdigit() and 0 < int(text) < _UNLIMITED:
            return int(text)
    return None


def _groups(root: Path) -> Iterator[Path]:
    """The folder of each group that this process is in, in every hierarchy, and of those above it that can be seen."""
    mine = _my_groups(root)
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw: root in the file system, mount point, options
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(" "), after.split(" ") or [""]
        if kind not in ("cgroup", "cgroup2") or len(fields) < 5 or len(rest) < 2:
            continue
        controllers = "" if kind == "cgroup2" else rest[1]
        group = next((path for name, path in mine.items() if _same_hierarchy(name, controllers)), None)
        if group is None:
            continue
        seen, mount = PurePosixPath(_unescaped(fields[3])), _unescaped(fields[4])
        inside = group.relative_to(seen) if group.is_relative_to(seen) else PurePosixPath()
        if ".." in inside.parts:  # a group outside of what this namespace shows
            inside = PurePosixPath()
        folder = root / mount.lstrip("/")
        for part in (inside, *inside.parents) if inside.parts else (inside,):
            yield folder / part


def _my_groups(root: Path) -> Mapping[str, PurePosixPath]:
    """The path of this process's group by the hierarchy's controllers, "" for version 2: `4:cpu,cpuacct:/jobs/7`."""
    lines = [line.split(":", 2) for line in (_read(root / "proc/self/cgroup") or "").splitlines()]
    return {line[1]: PurePosixPath(line[2]) for line in lines if len(line) == 3}


def _same_hierarchy(controllers: str, options: str) -> bool:
    """Whether controllers of a process's group are those that a mount of version 1 names among its options."""
    if not controllers or not options:
        return controllers == options
    return set(controllers.split(",")) <= set(options.split(","))


def _unescaped(path: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        path = path.replace(code, character)
    return path


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
