"""Use a trained model on new images, of any size.

    python -m core.predict --model results/STUDY/best --images DIR --out FOLDER
    python -m core.predict --model results/STUDY/best --images DIR --out results.json

A folder gets label images, a table of cells, polygons, pictures and COCO results (see
`core.prediction.outputs`), a .json file COCO results alone. Beside these, `results.images.json`
lists the images with their ids, and the categories, as COCO does:
`COCO("results.images.json").loadRes("results.json")` reads the two.

An image that cannot be predicted does not stop the others: it is named, it is in no file, and the
exit status is 1. After Ctrl-C or SIGTERM the files of the images that are done are whole.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.command import command_line

_EXAMPLES = """\
examples:
  python -m core.predict --model results/demo/best --images slides --out cells
      cells/labels/, cells/cells.csv, cells/geojson/, cells/overlays/, cells/results.json
  python -m core.predict --model results/demo/best --images slides --out cells \\
      --write labels,csv --pixel-size 0.25
      two kinds of files alone; a pixel is 0.25 micrometres wide
  python -m core.predict --model results/demo/best --images slides --out results.json --tile 512
      COCO results of large images, in tiles of 512 pixels
"""


@command_line(interrupted="Interrupted")
def main(arguments: Sequence[str] | None = None) -> int:
    """Predict images; returns 1 if some were left out or the results could not be written."""
    parsed = build_parser().parse_args(arguments)
    from core.prediction.batch import predict_batch

    names = (
        "views", "flips", "scales", "tile", "overlap", "merge", "agreement",
        "score_threshold", "max_detections", "class_caps",
    )  # fmt: skip
    settings = {
        f"predict.{name}": value for name in names if (value := getattr(parsed, name)) is not None
    }
    whole = predict_batch(
        parsed.model,
        parsed.images,
        parsed.out,
        settings,
        Console(),
        parsed.device,
        parsed.threads,
        parsed.write,
        parsed.pixel_size,
    )
    return 0 if whole else 1


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m core.predict",
        description=(
            "Find cells in images with a trained model, and write them as label images, a table,"
            " polygons, pictures and COCO results."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a trained model, such as results/STUDY/best, which tune.retrain_best writes",
    )
    add(
        "--images",
        required=True,
        metavar="DIR",
        help=(
            "a folder of TIFF, PNG, JPEG or BMP files, a data set with a test listing (HW3 or"
            " COCO), or the listing"
        ),
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER|FILE",
        help=(
            "a new folder for all kinds of files, or a .json file for COCO results alone; both in a"
            " folder that exists"
        ),
    )
    add(
        "--write",
        metavar="KIND,KIND",
        help=(
            "kinds of files in the folder, all by default: labels (a TIFF for each image, with"
            " numbered cells), csv (cells.csv, a row for each cell), geojson (polygons for"
            " QuPath and napari), overlays (pictures), coco (results.json)"
        ),
    )
    add(
        "--pixel-size",
        metavar="X|X,Y",
        help=(
            "width and height of a pixel in micrometres, for cells.csv and the TIFFs; default: what"
            " each image's TIFF file says"
        ),
    )
    settings = parser.add_argument_group(
        "prediction; what is not given is as the model was trained or tuned"
    )
    add = settings.add_argument
    add(
        "--flips",
        action=argparse.BooleanOptionalAction,
        help="the same as --views mirror",
    )
    add(
        "--views",
        metavar="none|mirror|flips|all",
        help="look at the image as it is, also mirrored, in all 4 flips, or also turned (8 looks)",
    )
    add(
        "--scales",
        metavar="X,X",
        help="look at the image at these sizes, such as 0.75,1,1.25 of that in training",
    )
    add(
        "--tile",
        type=int,
        metavar="N",
        help="side of overlapping tiles in pixels; 0: the training crop, or no tiles",
    )
    add("--overlap", type=float, metavar="X", help="least fraction of a tile that the next shares")
    add(
        "--merge",
        metavar="nms|soft_nms|weighted",
        help="how detections of several looks become one list: keep the best, keep all with lower"
        " scores, or take their mean",
    )
    add(
        "--agreement",
        type=float,
        metavar="X",
        help="how far scores are lowered where looks disagree, from 0 to 1",
    )
    add(
        "--score-threshold",
        type=float,
        metavar="X",
        help=(
            "instances must score more than this, and in label images, table, polygons and pictures"
            " this or more; these take the score that the model's metrics.json names by default"
        ),
    )
    add(
        "--max-detections",
        type=int,
        metavar="N",
        help="largest number of instances in a tile, or in an image without tiles",
    )
    add(
        "--class-caps",
        metavar="N,N",
        help="largest number of instances of class 1, class 2 ... in an image, such as 20,0; the"
        " last holds for all further classes, and 0 is no cap",
    )
    add = parser.add_argument_group("machine").add_argument
    add(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda:0",
        help="auto, the default: the first GPU, else the CPU",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="processor threads; default: those that torch takes",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
