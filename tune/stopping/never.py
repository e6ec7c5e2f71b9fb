"""No early stopping: every trial runs to its last epoch."""

from collections.abc import Iterable

from tune.stopping.rule import Curve


class Never:
    """Stops no trial, whatever the options of `stop_early` are."""

    def __init__(self, min_epochs: int, reduction: int) -> None:
        pass

    def rungs(self, epochs: int) -> tuple[int, ...]:  # noqa: ARG002
        """No epochs: trials are never compared."""
        return ()

    def why_stopped(
        self,
        curve: Curve,  # noqa: ARG002
        others: Iterable[Curve],  # noqa: ARG002
        complete: Iterable[Curve],  # noqa: ARG002
        epochs: int,  # noqa: ARG002
    ) -> str:
        """No reason: every trial goes on."""
        return ""
