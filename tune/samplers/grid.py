"""Every point of the space once, in the order of the space file."""

from collections.abc import Mapping, Sequence

from core.config import Value
from tune.samplers.sampler import Tried
from tune.space.space import SearchSpace


class Grid:
    """Proposes the points in their order. It ignores start points, since every point comes."""

    exhausts = True
    takes_history = False

    def propose(
        self,
        space: SearchSpace,
        given: Mapping[str, Value],  # noqa: ARG002
        tried: Sequence[Tried],
        seed: int,  # noqa: ARG002
    ) -> dict[str, Value]:
        """The first point that was not tried; there must be one.

        A space that has grown has new points among the old ones.
        """
        there = {frozenset(one.params.items()) for one in tried}
        return next(point for point in space.grid() if frozenset(point.items()) not in there)
