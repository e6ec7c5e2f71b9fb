"""Images and their annotations: one reader per format, all of them ending in a `Dataset`."""

from dataclasses import replace
from pathlib import Path

from core.config import DataConfig
from core.data import coco, hw3, synthetic
from core.data.dataset import Category, Dataset, Inspection, Problem, TestImage, first_of
from core.data.listing import SYNTHETIC_TEST_IMAGES, list_images
from core.errors import DataError

__all__ = ["Category", "Dataset", "Inspection", "Problem", "TestImage", "inspect", "list_images", "load"]

STRICT = DataConfig()
"""A data set is refused for whatever is wrong with it."""


def load(where: str, config: DataConfig = STRICT) -> Dataset:
    """Read a data set: the word `synthetic`, or a folder in the HW3 or COCO layout.

    config   of it, the settings of reading count: skip_bad, allow_suspicious, split_components

    Raises DataError with the first problem, and says how many more there are. Images without instances are fine.
    """
    inspection = inspect(where, config)
    if inspection.problems:
        problems = first_of(inspection.problems)
        if any(problem.skippable for problem in inspection.problems):
            problems += "; `--set data.skip_bad=true` skips and counts annotations and images that cannot be used"
        lists = f"; `python -m core.check {where}` lists all" if len(inspection.problems) > 1 else ""
        raise DataError(f"{problems}{lists}")
    assert inspection.dataset is not None, "a reader found neither images nor a problem"
    return inspection.dataset


def inspect(where: str, config: DataConfig = STRICT) -> Inspection:
    """Read as much of a data set as can be read, and collect every problem on the way."""
    found = _read(where)
    return _without_bad(found) if config.skip_bad else found


def _without_bad(found: Inspection) -> Inspection:
    """The same with one note in place of the problems that concern one annotation or one image alone."""
    bad = [problem for problem in found.problems if problem.skippable]
    if not bad or found.dataset is None:
        return found
    note = f"data.skip_bad: {len(bad):,} skipped; {first_of(bad)}"
    dataset = replace(found.dataset, notes=(*found.dataset.notes, note))
    return Inspection(dataset, tuple(problem for problem in found.problems if not problem.skippable))


def _read(where: str) -> Inspection:
    if where == "synthetic":
        return Inspection(synthetic.make(test=SYNTHETIC_TEST_IMAGES), ())
    folder = Path(where)
    if not folder.exists():
        return Inspection(None, (Problem(where, f"there is no such folder; {_where_to_put(where)}"),))
    if not folder.is_dir():
        return Inspection(None, (Problem(where, f"a folder is expected, and this is a file; {_where_to_put(where)}"),))
    try:
        if coco.annotation_file(folder) is not None:
            return coco.read(folder)
        if hw3.images_folder(folder) is not None:
            return hw3.read(folder)
    except DataError as error:
        return Inspection(None, (Problem.of(error, folder / "annotations"),))
    except OSError as error:
        return Inspection(None, (Problem(str(error.filename), f"the folder cannot be read: {error.strerror}"),))
    return Inspection(None, (Problem(where, f"the folder holds no annotated image; {_where_to_put(where)}"),))


def _where_to_put(where: str) -> str:
    return (
        f"put one folder an image there, {where}/train/NAME/image.tif with its masks class1.tif, class2.tif, ... "
        f"beside it (the HW3 layout; {where}/NAME/image.tif is read too), or COCO annotations as {where}/train.json "
        f"with the images in {where}/train/, or name another folder with --data"
    )
