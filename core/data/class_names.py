"""Names for the classes of a data set in place of those of its files: `data.class_names`."""

import re
from collections.abc import Sequence
from dataclasses import replace

from core.data.dataset import Category, Dataset
from core.errors import DataError
from core.text import listed, many

_NUMBERED = re.compile(r"(\d+)=(.*)")


def name_classes(dataset: Dataset, names: str) -> Dataset:
    """The data set with other names of its classes.

    names   a value of `data.class_names` in its one form: a name for each class, or `ID=NAME` for
            some of them, commas between; the empty text keeps all names

    The fingerprint stays, since images and annotations are the same. Raises DataError, without a
    place, for another number of names, an id that no class has, and a name that two classes would
    have.
    """
    if not names:
        return dataset
    parts = names.split(",")
    numbered = [match for part in parts if (match := _NUMBERED.fullmatch(part))]
    if numbered:
        classes = _by_id(dataset.classes, {int(match[1]): match[2] for match in numbered})
    elif len(parts) == len(dataset.classes):
        classes = [
            replace(one, name=name) for one, name in zip(dataset.classes, parts, strict=True)
        ]
    else:
        raise DataError(
            f"must name the {many(len(dataset.classes), 'class')} of {dataset.name}"
            f" ({_ids(dataset.classes)}), and names {len(parts)}: {', '.join(parts)}; name each, or"
            " some by their ids, such as 1=epithelium"
        )
    taken = [one.name for one in classes]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"must give each class a name of its own, and gives {twice!r} to two")
    return replace(dataset, classes=tuple(classes))


def _by_id(classes: Sequence[Category], names: dict[int, str]) -> list[Category]:
    unknown = sorted(names.keys() - {one.id for one in classes})
    if unknown:
        raise DataError(
            f"must name classes of the data set ({_ids(classes)}), and names id {unknown[0]}; leave"
            " it out"
        )
    return [replace(one, name=names.get(one.id, one.name)) for one in classes]


def _ids(classes: Sequence[Category]) -> str:
    """Ids and names, as a sentence lists them: `1 class1, 2 class2 and 3 class3`."""
    shown = [f"{one.id} {one.name}" for one in classes[:10]]
    return listed([*shown, "others"] if len(classes) > 10 else shown)
