"""Laws of the table of augmentations, of which the settings are made."""

import subprocess
import sys
from inspect import cleandoc

import pytest
from pydantic import Field

from core import augmentations
from core.augmentations import AUGMENTATIONS, Augmentation, augment_fields
from core.config import AugmentConfig
from core.errors import ExtensionError


class Blank(Augmentation):
    """Change nothing."""

    geometric = False

    blank_p: float = Field(1.0, ge=0, le=1)
    """Probability that nothing is changed."""

    def changes(self):
        return []


class Thief(Blank):
    shift: float = 0.5


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, part: object) -> str:
    monkeypatch.setattr(augmentations, "AUGMENTATIONS", {**AUGMENTATIONS, name: part})
    with pytest.raises(ExtensionError) as caught:
        augment_fields()
    return str(caught.value)


def test_the_settings_are_the_switches_and_strengths_of_the_table() -> None:
    strengths = [leaf for part in AUGMENTATIONS.values() for leaf in part.model_fields]
    assert list(AugmentConfig.model_fields) == [*AUGMENTATIONS, *strengths]
    for name, part in AUGMENTATIONS.items():
        assert AugmentConfig.model_fields[name].description == cleandoc(part.__doc__ or "")
        assert f"{name}_p" in part.model_fields
        assert (
            part(**{leaf: getattr(AugmentConfig(), leaf) for leaf in part.model_fields}) == part()
        )


def test_an_augmentation_that_is_added_stands_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentations, "AUGMENTATIONS", {**AUGMENTATIONS, "blank": Blank})
    fields = augment_fields()
    assert [name for name in fields if name not in AugmentConfig.model_fields] == [
        "blank",
        "blank_p",
    ]
    assert list(fields)[len(AUGMENTATIONS)] == "blank"


def test_what_is_no_augmentation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'nothing' must be a class of core.augmentations.Augmentation, and is 1" in refusal(
        monkeypatch, "nothing", 1
    )


def test_a_setting_that_does_not_bear_its_augmentations_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "must have settings that begin with 'blank_', and one is 'shift'" in refusal(
        monkeypatch, "blank", Thief
    )


def test_a_switch_that_another_augmentation_has_as_a_strength_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "has a setting that another one has, augment.shift" in refusal(
        monkeypatch, "shift", type("Shift", (Augmentation,), {})
    )


def test_an_augmentation_that_does_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must define 'changes' or 'mixes', and defines neither" in refusal(
        monkeypatch, "idle", type("Idle", (Augmentation,), {})
    )


def test_settings_are_read_without_what_changes_images() -> None:
    source = (
        "import sys; import core.dependence;"
        " print([name for name in ('torch', 'cv2', 'albumentations') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
