"""The files that predictions are written to, for people and for other programs.

    results.json, results.images.json   COCO results and the images that their ids name
    labels/NAME.tif                     label images
    cells.csv                           a row for each cell
    geojson/NAME.geojson                polygons
    overlays/NAME.png                   pictures

Files of one image are written as soon as it is predicted. Tables grow under hidden names and take
their own at the end. What is unfinished of an image is removed again, so that a prediction that is
interrupted, or refused by the disk, leaves whole files of the same images. One that is killed
outright leaves whole files of single images, and tables only under their hidden names.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from core.data.dataset import Category, TestImage
from core.data.images import IMAGE_SUFFIXES
from core.data.pixel_size import PixelSize
from core.files import GrowingFile, write_atomically, write_json_atomically
from core.labels.outlines import Ring, polygons_of
from core.prediction.cells import CellMask, Cells, Extent, cells_of, extent_of
from core.prediction.overlay import draw_overlay, palette, png
from core.prediction.submission import results_of
from core.sample import Detections
from core.text import inert
from core.values import as_number


@dataclass(frozen=True)
class Predicted:
    """One image with all that is written of it.

    image         the image as it is listed
    name          name of its files without suffix
    pixels        uint8 [H, W, 3], RGB
    found         its detections
    least_score   least score of a cell
    pixel_size    size of a pixel; None where it is not known
    classes       class number c is `classes[c - 1]`
    warning       a sentence on what is wrong with the model; empty if nothing is
    """

    image: TestImage
    name: str
    pixels: NDArray[np.uint8]
    found: Detections
    least_score: float
    pixel_size: PixelSize | None
    classes: Sequence[Category]
    warning: str = ""

    @cached_property
    def cells(self) -> Cells:
        """The detections of `least_score` or more, without overlaps."""
        return cells_of(self.found, self.image.height, self.image.width, self.least_score)


def label_tiff(seen: Predicted) -> bytes:
    """The label image as a TIFF file without loss, with the size of a pixel where it is known."""
    stream = io.BytesIO()
    size = seen.pixel_size
    tifffile.imwrite(
        stream,
        seen.cells.label_image,
        photometric="minisblack",
        compression="zlib",
        metadata=None,
        resolution=None if size is None else (1e4 / size.x, 1e4 / size.y),
        resolutionunit=None if size is None else "CENTIMETER",
        software=False,
    )
    return stream.getvalue()


def overlay_png(seen: Predicted) -> bytes:
    """The image beside its predictions as a PNG file."""
    return png(
        draw_overlay(
            seen.pixels,
            seen.found,
            seen.classes,
            min_score=seen.least_score,
            warning=seen.warning,
        )
    )


def geojson(seen: Predicted) -> bytes:
    """The cells as a GeoJSON FeatureCollection in pixels of the image, as QuPath writes its own.

    Each piece of a cell is a polygon of its own, since napari's plugin refuses a whole file for one
    MultiPolygon; pieces of one cell have its number as their name. Measurements are a list of names
    and values, which QuPath reads in all its versions and that plugin only so.
    """
    features = [feature for cell in seen.cells.found for feature in _features(seen, cell)]
    content = {"type": "FeatureCollection", "features": features}
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _features(seen: Predicted, cell: CellMask) -> list[dict[str, Any]]:
    category = seen.classes[cell.label - 1]
    colour = palette(len(seen.classes))[cell.label - 1, 0].tolist()
    polygons = polygons_of(cell.mask.pixels)
    measured = {"score": round(cell.score, 6), "cell": cell.number, "pieces": len(polygons)}
    return [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring, cell.mask.x0, cell.mask.y0) for ring in polygon],
            },
            "properties": {
                "objectType": "annotation",
                "name": str(cell.number),
                "classification": {"name": category.name, "color": colour},
                "measurements": [
                    {"name": name, "value": value} for name, value in measured.items()
                ],
            },
        }
        for polygon in polygons
    ]


def _closed(ring: Ring, x0: int, y0: int) -> list[tuple[int, int]]:
    """A ring in pixels of the image, its first corner repeated at the end as GeoJSON wants."""
    return [(x + x0, y + y0) for x, y in [*ring, ring[0]]]


CELL_COLUMNS = (
    "image", "file", "cell", "class", "class_id", "score",
    "area_px", "centroid_x_px", "centroid_y_px", "x0_px", "y0_px", "x1_px", "y1_px",
    "equivalent_diameter_px",
    "area_um2", "centroid_x_um", "centroid_y_um", "x0_um", "y0_um", "x1_um", "y1_um",
    "equivalent_diameter_um", "pixel_width_um", "pixel_height_um",
)  # fmt: skip
"""Columns of cells.csv. Those in micrometres are empty where the size of a pixel is not known."""
DIGITS = 7
"""Significant digits of numbers in cells.csv that are not whole, as many as float32 has."""


def csv_rows(seen: Predicted) -> str:
    """The rows of an image's cells in cells.csv."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for cell in seen.cells.found:
        category, extent = seen.classes[cell.label - 1], extent_of(cell.mask)
        image, file, name = map(inert, (seen.image.file_name, seen.name, category.name))
        numbers = [cell.score, *asdict(extent).values(), *_in_micrometres(extent, seen.pixel_size)]
        written = [n if isinstance(n, int) else as_number(n, DIGITS) for n in numbers]
        missing = [""] * (len(CELL_COLUMNS) - len(written) - 5)
        writer.writerow([image, file, cell.number, name, category.id, *written, *missing])
    return stream.getvalue()


def _in_micrometres(extent: Extent, size: PixelSize | None) -> list[float]:
    """The values of the columns in micrometres; none where the size of a pixel is not known."""
    if size is None:
        return []
    sides = [size.x, size.y]
    area = extent.area * size.x * size.y
    lengths = [extent.centroid_x, extent.centroid_y, extent.x0, extent.y0, extent.x1, extent.y1]
    scaled = [length * side for length, side in zip(lengths, sides * 3, strict=True)]
    return [area, *scaled, 2 * math.sqrt(area / math.pi), *sides]


def coco_rows(seen: Predicted) -> str:
    """The detections of an image as COCO results, one JSON object a line, commas between them."""
    image = seen.image
    results = results_of(seen.found, image.id, image.height, image.width, seen.classes)
    return ",\n".join(json.dumps(result, allow_nan=False) for result in results)


@dataclass(frozen=True)
class PerImage:
    """An output of one file for each image.

    folder, suffix   place and suffix of these files
    content          function that makes the bytes of one
    """

    folder: str
    suffix: str
    content: Callable[[Predicted], bytes]


@dataclass(frozen=True)
class TableFile:
    """An output of one file for all images.

    name         name of the file
    rows         function that makes the text of one image; empty where it has none
    head, tail   text before the first and after the last image
    between      text between those of two images
    """

    name: str
    rows: Callable[[Predicted], str]
    head: str = ""
    tail: str = ""
    between: str = ""


OUTPUTS: Mapping[str, PerImage | TableFile] = {
    "labels": PerImage("labels", ".tif", label_tiff),
    "csv": TableFile("cells.csv", csv_rows, ",".join(CELL_COLUMNS) + "\n"),
    "geojson": PerImage("geojson", ".geojson", geojson),
    "overlays": PerImage("overlays", ".png", overlay_png),
    "coco": TableFile("results.json", coco_rows, "[\n", "\n]\n", ",\n"),
}
"""All outputs by the names that `--write` gives them."""


class Files:
    """The files of one prediction, in a folder that is made with the first of them."""

    def __init__(self, folder: Path, outputs: Sequence[str], results: str = "") -> None:
        """Nothing is written yet.

        outputs   names in OUTPUTS
        results   name of the file of COCO results in place of its own
        """
        self._folder = folder
        chosen = {name: OUTPUTS[name] for name in outputs}
        self._per_image = [one for one in chosen.values() if isinstance(one, PerImage)]
        self._tables = [
            (one, GrowingFile(folder / (results if results and name == "coco" else one.name)))
            for name, one in chosen.items()
            if isinstance(one, TableFile)
        ]

    def add(self, seen: Predicted) -> None:
        """Write what concerns one image: all of it, or nothing of it.

        Raises OSError where the disk refuses.
        """
        made: list[Path] = []
        self._folder.mkdir(exist_ok=True)
        try:
            for output in self._per_image:
                path = self._folder / output.folder / f"{seen.name}{output.suffix}"
                path.parent.mkdir(exist_ok=True)
                made.append(path)
                write_atomically(path, output.content(seen))
            for table, file in self._tables:
                if rows := table.rows(seen):
                    file.add((table.between if file.begun else table.head) + rows)
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        for _, file in self._tables:
            file.keep()

    def finish(self, images: Sequence[TestImage], classes: Sequence[Category]) -> None:
        """Give the tables their names, with the images that were added.

        Beside COCO results an `.images.json` lists these images with their ids, and the categories.
        A table that cannot be finished keeps no other from it; then the first OSError is raised.
        """
        refusals: list[OSError] = []
        for table, file in self._tables:
            try:
                if table.rows is coco_rows:
                    write_json_atomically(listing_beside(file.path), _listing(images, classes))
                file.finish(("" if file.begun else table.head) + table.tail)
            except OSError as error:
                file.drop()
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def drop(self) -> None:
        """Remove the tables without a trace, where no image was added."""
        for _, file in self._tables:
            file.drop()


def listing_beside(results: Path) -> Path:
    """The path of the file of images and ids beside COCO results."""
    return results.with_suffix(".images.json")


def _listing(images: Sequence[TestImage], classes: Sequence[Category]) -> dict[str, Any]:
    """The images and categories to which the ids in the results refer, as COCO has them."""
    return {
        "images": [
            {
                "id": image.id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
            }
            for image in images
        ],
        "annotations": [],
        "categories": [asdict(category) for category in classes],
    }


def file_names(names: Sequence[str]) -> list[str]:
    """A name without suffix for the files of each image, in their order; no two are alike.

    names   names of image files, perhaps with folders and suffixes
    """
    taken: dict[str, None] = {}
    for name in names:
        # A file on Linux may be called `\a.png`; what is written of it stays inside its folder.
        path = Path(name.replace("\\", "/").lstrip("/") or "image")
        stem = "_".join(
            path.with_suffix("").parts if path.suffix.lower() in IMAGE_SUFFIXES else path.parts
        )
        stem = stem.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")
        candidate, number = stem, 1
        while candidate in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken[candidate] = None
    return list(taken)


LONGEST_NAME = 200
"""Largest length, in bytes, of a name of an image's files without suffixes: file systems allow 255
in all."""
