"""The protocol of a figure of the report, and the table of figures.

A figure is a function that is given the content of a report. It returns what is to be drawn, or
None where the study has nothing to show there. A figure of another package is such a function, and
an entry point whose name becomes the name of the figure's file:

    [project.entry-points."cell_tune.figures"]
    speed = "my_package.speed:speed"
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from core.extensions import Parts
from core.svg import Drawing, DrawnFigure, draw_figure
from tune.report.content import ReportContent


@dataclass(frozen=True)
class PngPicture:
    """A picture.

    png   content of a PNG file
    alt   a description for readers who cannot see it
    """

    png: bytes
    alt: str

    @property
    def uri(self) -> str:
        """The picture as a data URI for the page: WebP, a tenth of the PNG's size on tissue."""
        stream = io.BytesIO()
        Image.open(io.BytesIO(self.png)).convert("RGB").save(
            stream, format="WEBP", quality=_QUALITY
        )
        return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = Image.open(io.BytesIO(self.png)).size
        return width, height


_QUALITY = 85
"""Quality of pictures inside the page, 0 to 100. The files beside it are PNG, without a loss."""


@dataclass(frozen=True)
class Pictures:
    """A figure of pictures. The fields are those of `Drawing`."""

    section: str
    title: str
    caption: str
    pictures: tuple[PngPicture, ...]


@dataclass(frozen=True)
class Absence:
    """A sentence in place of a figure, which says why the figure is not there.

    section   section of the page, as in `Drawing`
    """

    section: str
    sentence: str


class Figure(Protocol):
    """A figure of the report."""

    def __call__(self, content: ReportContent, /) -> Drawing | Pictures | Absence | None:
        """The figure of a study; None where it does not apply.

        The caption must say how sure the figure is, or why that cannot be said. Nothing may be told
        by colour alone. A figure computes no score: all are in `content`.
        """
        ...


_HERE = "tune.report.figures"
FIGURES: Parts[Figure] = Parts(
    "figure",
    "cell_tune.figures",
    {
        "differences": f"{_HERE}.differences:differences",
        "scores": f"{_HERE}.scores:scores",
        "history": f"{_HERE}.history:history",
        "parallel": f"{_HERE}.parallel:parallel",
        "backbones": f"{_HERE}.backbones:backbones",
        "effects": f"{_HERE}.settings:effects",
        "hyperparameters": f"{_HERE}.settings:hyperparameters",
        "ap50-curves": f"{_HERE}.curves:ap50_curves",
        "loss-curves": f"{_HERE}.curves:loss_curves",
        "examples": f"{_HERE}.examples:examples",
        "confirmation": f"{_HERE}.confirmation:confirmation",
        "classes": f"{_HERE}.classes:classes",
        "limits": f"{_HERE}.limits:limits",
        "stopped": f"{_HERE}.stopped:stopped",
    },
)
"""The figures by name; those of one section of the page stand there in this order."""


def figures_of(content: ReportContent) -> Mapping[str, DrawnFigure | Pictures | Absence]:
    """The figures that apply to a study, drawn, by name.

    Raises ExtensionError for a figure of another package that fails.
    """
    made: dict[str, Drawing | Pictures | Absence | None] = {}
    for name, make in FIGURES.items():
        with FIGURES.calling(name):
            made[name] = make(content)
    return {
        name: draw_figure(name, one) if isinstance(one, Drawing) else one
        for name, one in made.items()
        if one is not None
    }
