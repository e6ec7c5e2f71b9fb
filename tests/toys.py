"""A package as another project would install it beside ours: one module and its entry points."""

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, source: str, parts: Mapping[str, str], name: str = "toy") -> Path:
    """Install a package of one module in a folder, and return the folder.

    parts   entry points by group: {"cell_tune.samplers": "toy = toy:Toy"}
    """
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = "".join(f"[{group}]\n{part}\n\n" for group, part in parts.items())
    (about / "entry_points.txt").write_text(groups)
    return folder
