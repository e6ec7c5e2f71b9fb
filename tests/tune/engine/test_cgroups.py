"""Laws of what a container or a job may use: trees of control groups as Linux shows them, both
versions, nested.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tune.engine.cgroups import Allowed, allowed_resources, memory_available
from tune.engine.resources import Machine

HERE = len(os.sched_getaffinity(0))
GIB = 2**30
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "31 23 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "32 23 0:28 {root} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory"
ROOT = "20 1 8:1 / / rw,relatime - ext4 /dev/root rw"

Tree = tuple[str, list[str], Mapping[str, str], int | None, int | None]
TREES: dict[str, Tree] = {
    "no control groups": ("", [ROOT], {}, None, None),
    "version 2, no limit": (
        "0::/user.slice",
        [ROOT, V2],
        {
            "sys/fs/cgroup/user.slice/cpu.max": "max 100000",
            "sys/fs/cgroup/user.slice/memory.max": "max",
        },
        None,
        None,
    ),
    "version 2, a container that sees its own group as the root": (
        "0::/",
        [ROOT, V2],
        {"sys/fs/cgroup/cpu.max": "100000 100000", "sys/fs/cgroup/memory.max": str(GIB)},
        1,
        GIB,
    ),
    "version 2, the limit of the parent is smaller": (
        "0::/slurm/job_7/step_0",
        [ROOT, V2],
        {
            "sys/fs/cgroup/slurm/job_7/step_0/cpu.max": "max 100000",
            "sys/fs/cgroup/slurm/job_7/step_0/memory.max": str(3 * GIB),
            "sys/fs/cgroup/slurm/job_7/cpu.max": "100000 100000",
            "sys/fs/cgroup/slurm/job_7/memory.max": str(2 * GIB),
        },
        1,
        2 * GIB,
    ),
    "version 2, less than one processor": (
        "0::/",
        [ROOT, V2],
        {"sys/fs/cgroup/cpu.max": "20000 100000"},
        1,
        None,
    ),
    "version 2, one processor and a half": (
        "0::/",
        [ROOT, V2],
        {"sys/fs/cgroup/cpu.max": "150000 100000"},
        1,
        None,
    ),
    "version 2, a group outside of what is shown": (
        "0::/../other",
        [ROOT, V2],
        {"sys/fs/cgroup/cpu.max": "100000 100000"},
        1,
        None,
    ),
    "version 1, no limit": (
        "4:memory:/\n3:cpu,cpuacct:/",
        [ROOT, V1_CPU.format(root="/"), V1_MEMORY.format(root="/")],
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
        None,
        None,
    ),
    "version 1, a container whose mount shows its own group": (
        "4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f",
        [ROOT, V1_CPU.format(root="/docker/1f"), V1_MEMORY.format(root="/docker/1f")],
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        },
        1,
        GIB,
    ),
    "version 1, nested, the smallest on the path": (
        "4:memory:/a/b/c\n3:cpu,cpuacct:/a/b",
        [ROOT, V1_CPU.format(root="/"), V1_MEMORY.format(root="/")],
        {
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/a/b/c/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(GIB // 2),
        },
        1,
        GIB // 2,
    ),
    "version 1 with version 2 mounted beside it": (
        "4:memory:/job\n0::/job",
        [ROOT, V1_MEMORY.format(root="/"), V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")],
        {
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/unified/job/cpu.max": "100000 100000",
        },
        1,
        GIB,
    ),
    "a mount with a space in its name": (
        "0::/",
        [ROOT, V2.replace("/sys/fs/cgroup", r"/control\040groups")],
        {"control groups/memory.max": str(GIB)},
        None,
        GIB,
    ),
    "files that are no numbers": (
        "nonsense\n0::/",
        [ROOT, "nonsense", V2],
        {"sys/fs/cgroup/cpu.max": "many few", "sys/fs/cgroup/memory.max": "\x00"},
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_the_smallest_limit_along_the_path_of_the_process_wins(name: str, tmp_path: Path) -> None:
    groups, mounts, files, cpus, memory = TREES[name]
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups + "\n")
    (proc / "mountinfo").write_text("\n".join(mounts) + "\n")
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content + "\n")
    found = allowed_resources(tmp_path)
    assert found.cpus == min(HERE, HERE if cpus is None else cpus)
    assert found.memory == min(MEMORY, MEMORY if memory is None else memory)


def test_affinity_counts() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]);"
        " from tune.engine.cgroups import allowed_resources; print(allowed_resources().cpus)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "1\n"
    )


def test_a_machine_has_what_its_control_groups_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tune.engine.cgroups.allowed_resources", lambda: Allowed(cpus=3, memory=5 * GIB)
    )
    (node,) = Machine.here().nodes
    assert (node.cpus, node.memory) == (3, 5 * GIB)
    assert Machine.here().share("auto", 0, None).parallel == 3


@contextmanager
def real_groups() -> Iterator[list[Path]]:
    """A group of this machine's own with half of 2 GiB and one processor, of whichever version
    it has.
    """
    made: list[Path] = []
    limits = {
        "memory.max": GIB, "memory.limit_in_bytes": GIB, "cpu.max": "100000 100000",
        "cpu.cfs_quota_us": 100000,
    }  # fmt: skip
    try:
        for parent in (
            Path("/sys/fs/cgroup"),
            Path("/sys/fs/cgroup/memory"),
            Path("/sys/fs/cgroup/cpu"),
        ):
            if not (parent / "cgroup.procs").exists():
                continue
            group = parent / f"cell-tune-test-{os.getpid()}"
            group.mkdir()
            made.append(group)
            for name, value in limits.items():
                if (group / name).exists():
                    (group / name).write_text(str(value))
    except OSError as error:
        for group in made:
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield made
    finally:
        for group in made:
            group.rmdir()


@pytest.mark.fault
def test_a_real_group_limits_what_a_process_in_it_takes_itself_to_have() -> None:
    with real_groups() as groups:
        names = {path.name for group in groups for path in group.iterdir()}
        if not names & {"memory.max", "memory.limit_in_bytes"}:
            pytest.skip("no controller of memory is here")
        code = (
            "import os, sys\n"
            "for group in sys.argv[1:]:\n"
            "    open(group + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
            "from tune.engine.cgroups import allowed_resources\n"
            "print(allowed_resources().cpus, allowed_resources().memory)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, groups)],
            capture_output=True,
            text=True,
            check=True,
        )
        cpus, memory = map(int, done.stdout.split())
        assert memory == GIB
        if names & {"cpu.max", "cpu.cfs_quota_us"}:
            assert cpus == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable:     512 kB\n", 512 * 1024),
        ("MemTotal: 9 kB\n", 0),
        (None, 0),
    ],
)
def test_the_memory_that_is_available_is_what_the_kernel_says(
    tmp_path: Path, content: str | None, expected: int
) -> None:
    (tmp_path / "proc").mkdir()
    if content is not None:
        (tmp_path / "proc/meminfo").write_text(content)
    assert memory_available(tmp_path) == expected
    assert 0 < memory_available() < MEMORY
