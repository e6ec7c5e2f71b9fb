"""The augmentations of training images: what one is, and the table of them.

It stands beside the settings and imports neither NumPy nor albumentations, because the settings
under `augment.` are made of the table. To add an augmentation, write a class of `Augmentation` in a
file of `core/augment/` and give it a line in `AUGMENTATIONS`; another package names its class in an
entry point of the group `cell_tune.augmentations`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from core.errors import ExtensionError
from core.extensions import Parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.sample import Sample

Change: TypeAlias = (
    "Callable[[NDArray[np.uint8], NDArray[np.uint16], int],"
    " tuple[NDArray[np.uint8], NDArray[np.uint16]]]"
)
"""A function of an image, uint8 [H, W, 3], its label maps, uint16 [L, H, W], and a seed. It returns
both changed, in their shapes or with height and width exchanged, and never writes into its
arguments. All that it draws follows from the seed."""

Mix: TypeAlias = "Callable[[Sample, int], Sample]"
"""A function of a training image with its labels, at full resolution, and a seed. It returns the
image with what it took from other training images, in its shape and under its name, and never
writes into its arguments. Instances that it adds are numbered after those that were there; one that
it removes keeps its number and has no pixel. All that it draws follows from the seed."""

Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(BaseModel):
    """One augmentation with its strengths.

    Its name in the table is its switch, `augment.NAME`, which the class's docstring describes. Its
    fields are its strengths, settings under `augment.` too: unit in the docstring, range, default.
    A field `NAME_p` is the probability of a change. Fields of another package's augmentation begin
    with `NAME_`.

    geometric   whether it moves instances; where it does not, the label maps it returns are not
                used
    needs       strengths that have an effect only where another strength is above 0
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    geometric: ClassVar[bool]
    needs: ClassVar[Mapping[str, str]] = {}

    def changes(self) -> Sequence[Change]:
        """The changes, which are made one after the other, each with a seed of its own."""
        return ()

    def mixes(self, training: "Sequence[Sample]") -> Sequence[Mix]:  # noqa: ARG002
        """The changes that need other training images, each with a seed of its own.

        They are made before all `changes`.

        training   the images of the training part, and no others
        """
        return ()


AUGMENTATIONS: Parts[type[Augmentation]] = Parts(
    "augmentation",
    "cell_tune.augmentations",
    {
        "copy_paste": "core.augment.copy_paste:CopyPaste",
        "horizontal_flip": "core.augment.horizontal_flip:HorizontalFlip",
        "vertical_flip": "core.augment.vertical_flip:VerticalFlip",
        "color_jitter": "core.augment.color_jitter:ColorJitter",
        "stain_jitter": "core.augment.stain_jitter:StainJitter",
        "affine": "core.augment.affine:Affine",
        "scale_jitter": "core.augment.scale_jitter:ScaleJitter",
        "elastic": "core.augment.elastic:Elastic",
        "blur_or_noise": "core.augment.blur_or_noise:BlurOrNoise",
        # The last of ours: elastic draws a displacement for each pixel, so it would draw others for
        # an image whose height and width were exchanged before.
        "quarter_turns": "core.augment.quarter_turns:QuarterTurns",
    },
)
"""Every augmentation, in the order in which an image goes through those that are on."""


def augment_fields() -> dict[str, Any]:
    """The fields of the model `augment.`: each augmentation's switch, then all strengths.

    Raises ExtensionError for another package's part that is no augmentation, that changes nothing,
    or that has a setting whose name is taken or does not begin with its own.
    """
    switches: dict[str, Any] = {}
    strengths: dict[str, Any] = {}
    for name, part in AUGMENTATIONS.items():
        if wrong := _wrong(name, part, {*switches, *strengths}):
            raise ExtensionError(
                f"the augmentation {name!r} {wrong}; mend its package, or uninstall it"
            )
        switches[name] = (bool, Field(False, description=cleandoc(part.__doc__ or name)))
        strengths |= {leaf: (info.annotation, info) for leaf, info in part.model_fields.items()}
    return switches | strengths


def _wrong(name: str, part: object, taken: Collection[str]) -> str | None:
    """The rule that a part breaks, as words that follow its name; None if it breaks none.

    taken   the settings of the augmentations before it
    """
    if not (isinstance(part, type) and issubclass(part, Augmentation)):
        return f"must be a class of core.augmentations.Augmentation, and is {part!r:.80}"
    ours = part.__module__.startswith("core.augment.")
    foreign = [leaf for leaf in part.model_fields if not (ours or leaf.startswith(f"{name}_"))]
    if foreign:
        return f"must have settings that begin with '{name}_', and one is {foreign[0]!r}"
    double = [leaf for leaf in (name, *part.model_fields) if leaf in taken]
    if double:
        return f"has a setting that another one has, augment.{double[0]}"
    if part.changes is Augmentation.changes and part.mixes is Augmentation.mixes:
        return "must define 'changes' or 'mixes', and defines neither"
    return None
