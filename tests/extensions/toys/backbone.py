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
