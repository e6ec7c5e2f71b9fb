"""The reference report's own numbers: AP50 of its rows, each of one training on 168 images.

Its task is that of 209 stained images with four classes of cells. `validation` is the best of 50
epochs on 41 images; the test scores are those of the competition's server.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of the reference report: AP50 on three sets of images; None where it gives none."""

    validation: float
    public: float | None
    private: float | None


PUBLISHED = {
    "Res50": Published(0.4699, 0.3640, 0.3108),
    "Aug.": Published(0.4555, 0.3532, 0.3663),
    "Elastic": Published(0.4392, 0.3383, 0.3671),
    "Partial": Published(0.4912, 0.3271, 0.3608),
    "Partial + Aug.": Published(0.4906, 0.3606, 0.3827),
    "Partial + Elastic": Published(0.4855, 0.3391, 0.3853),
    "Res50 with restart": Published(0.4411, 0.3471, 0.3142),
    "Full fine-tuning": Published(0.3460, None, None),
}
"""The rows by the names that `search_spaces/report_tables.yaml` gives them."""

TABLES = {
    "Table 1: augmentation, with the backbone frozen or its last stage trained": (
        "Res50", "Aug.", "Elastic", "Partial", "Partial + Aug.", "Partial + Elastic",
    ),
    "Table 2: warm restarts": ("Res50", "Res50 with restart"),
    "Table 3: how much of the backbone is trained": ("Res50", "Partial", "Full fine-tuning"),
    "Figure 4: backbones, all frozen and from ImageNet (the report shows curves, no numbers)": (
        "Res50 (ImageNet)", "ResNet-101", "ResNeXt-50",
    ),
}  # fmt: skip
"""The rows of each of its tables, and of its figure of backbones."""

CAN_AND_CANNOT_SAY = (
    "CoNSeP's 27 training tiles come from one organ, one hospital and one magnification, and a"
    " quarter of a tile holds some 150 cells of four classes; the report's images, those of"
    " MoNuSAC, come from four organs and many hospitals and measure from 33 to 2,500 pixels. So"
    " CoNSeP can say in which direction a change of method works on stained tissue, how large a"
    " difference so few images can show, and whether this project does what it promises. It cannot"
    " say which row wins on MoNuSAC's images, and an AP50 of one data set cannot be compared with"
    " an AP50 of the other."
)
"""The worth of a comparison beside the report's numbers."""
