"""A toy stopping rule."""


class Enough:
    """Stops every trial but the first after `min_epochs` epochs."""

    def __init__(self, min_epochs, reduction):
        self.min_epochs = min_epochs

    def rungs(self, epochs):
        return (self.min_epochs,)

    def why_stopped(self, curve, others, complete, epochs):
        if len(curve) < self.min_epochs or not any(True for _ in complete):
            return ""
        return f"stopped early after epoch {len(curve)}: one complete trial is enough"
