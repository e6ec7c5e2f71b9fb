"""A toy sampler."""


class Halving:
    """Proposes half of the rate that the trial before had."""

    exhausts = False

    def propose(self, space, given, tried, seed):
        (rate,) = space.parameters
        return {rate.name: rate.domain.high / 2 ** len(tried)}
