"""A data format of another package: a study trains on images that only its reader can read."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from core.data import synthetic
from tests import toys
from tests.extensions.tiny_study import run_python, search

ARRAYS = '''
"""A toy format: one archive of NumPy arrays an image."""

from pathlib import Path

import numpy as np

from core.data.dataset import Category, Inspection, Problem, assemble
from core.data.readers import Reader
from core.sample import Sample


def read(where):
    samples, problems = [], []
    for path in sorted(Path(where).glob("*.npz")):
        arrays = np.load(path)
        if "labels" not in arrays:
            problems.append(Problem(str(path), "the archive holds no labels; add them"))
            continue
        crowd = np.zeros(len(arrays["labels"]), bool)
        samples.append(Sample(path.stem, arrays["image"], arrays["maps"], arrays["labels"], crowd))
    classes = [Category(number, f"kind{number}") for number in range(1, 5)]
    return Inspection(assemble("arrays", classes, samples), tuple(problems))


READER = Reader(sees=lambda where: any(Path(where).glob("*.npz")), read=read)
'''


def test_a_study_trains_on_a_format_of_another_package(tmp_path: Path) -> None:
    site = toys.install(tmp_path / "site", ARRAYS, {"cell_tune.readers": "arrays = toy:READER"})
    (tmp_path / "cells").mkdir()
    for sample in synthetic.make(images=5, side=64).samples:
        np.savez(
            tmp_path / "cells" / f"{sample.name}.npz",
            image=sample.image,
            maps=sample.label_maps,
            labels=sample.labels_N,
        )
    row, _ = search(tmp_path, site, "cells", {"optim.learning_rate": 1e-4})
    assert row["state"] == "COMPLETE"
    described = (tmp_path / "results/toy/study.json").read_text()
    assert "kind4" in described

    np.savez(tmp_path / "cells/zero.npz", image=np.zeros((64, 64, 3), np.uint8))
    checked = run_python(tmp_path, site, "-m", "core.check", "cells")
    assert "cells/zero.npz: the archive holds no labels; add them" in checked.stdout
    alone = subprocess.run(
        [sys.executable, "-m", "core.check", "cells"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the folder holds no annotated image (seen: 6 .npz)" in alone.stdout + alone.stderr
