"""Laws of the table of detectors, whose names the settings know without their layers."""

import subprocess
import sys

from torchvision import models

from core.backbones import BACKBONES
from core.config import ModelConfig
from core.detectors import DETECTORS, Recipe


def test_the_settings_know_the_detectors_of_the_table_and_no_others() -> None:
    assert ModelConfig.model_json_schema()["properties"]["detector"]["enum"] == list(DETECTORS)


def test_every_detector_has_a_recipe_and_its_own_place_by_memory() -> None:
    assert all(isinstance(row, Recipe) for row in DETECTORS.values())
    assert sorted(row.memory_rank for row in DETECTORS.values()) == list(range(len(DETECTORS)))


def test_every_detector_has_weights_of_torchvision_for_the_backbones_that_say_so() -> None:
    for name, row in BACKBONES.items():
        there = {
            f"maskrcnn_{name}_{recipe.coco or detector}" in models.list_models()
            for detector, recipe in DETECTORS.items()
        }
        assert there == {"coco" in row.weights}


def test_the_table_is_read_without_torch() -> None:
    source = (
        "import sys, core.detectors; list(core.detectors.DETECTORS); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
