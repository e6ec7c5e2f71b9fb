"""A backbone of another package: a study trains it, as far as its own stages are to train."""

from pathlib import Path

import safetensors.numpy

from core.data import synthetic
from tests import toys
from tests.extensions.tiny_study import run_python, search

POND = '''
"""A toy backbone: one convolution a level."""

from torch import nn

from core.backbones import Backbone

CHANNELS = (8, 12, 16, 24)


class Pond(nn.ModuleDict):
    def __init__(self, norm):
        sides = zip((3, *CHANNELS), CHANNELS, (4, 2, 2, 2))
        super().__init__(
            {
                f"depth{number}": nn.Sequential(
                    nn.Conv2d(before, after, 3, stride, 1), norm(after), nn.ReLU()
                )
                for number, (before, after, stride) in enumerate(sides)
            }
        )

    def forward(self, x):
        levels = []
        for child in self.values():
            x = child(x)
            levels.append(x)
        return levels


POND = Backbone(
    channels=CHANNELS,
    memory_rank=-1,
    body=Pond,
    stages=(("depth3",), ("depth2",), ("depth1", "depth0")),
)
'''

REFUSED = """
import sys
from core.command import command_line
from core.config import TrialConfig

@command_line("interrupted")
def main(arguments=None):
    TrialConfig.from_settings({"model.backbone": "pond", "model.weights": sys.argv[1]})

sys.exit(main())
"""


def test_a_study_trains_a_backbone_of_another_package(tmp_path: Path) -> None:
    site = toys.install(tmp_path / "site", POND, {"cell_tune.backbones": "pond = toy:POND"})
    synthetic.write_hw3(synthetic.make(images=5, side=64), tmp_path / "cells")
    settings = {"model.backbone": "pond", "model.trainable_layers": 2}
    row, config = search(tmp_path, site, "cells", settings)
    assert (row["state"], row["model.backbone"]) == ("COMPLETE", "pond")
    assert config["model.backbone"] == "pond"
    (weights,) = (tmp_path / "results/toy/trials/0").glob("best-*.safetensors")
    trained = {
        name.split(".")[2] for name in safetensors.numpy.load_file(weights) if "body" in name
    }
    assert trained == {"depth2", "depth3"}  # two of its three stages


def test_what_torchvision_has_no_weights_for_is_refused_with_the_way_out(tmp_path: Path) -> None:
    site = toys.install(tmp_path / "site", POND, {"cell_tune.backbones": "pond = toy:POND"})
    for weights in ("auto", "imagenet"):
        done = run_python(tmp_path, site, "-c", REFUSED, weights)
        assert done.returncode == 2
        assert done.stderr.strip().endswith(
            f"model.weights: {weights} exists for resnet18, resnet34, resnet50, resnet101,"
            " resnext50_32x4d only, and model.backbone is pond; use none or the path of a file"
        )
