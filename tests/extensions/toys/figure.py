"""Two toy figures, one of which never applies."""

from core.svg import Drawing


def speed(findings):
    trials = [trial.record for trial in findings.trials]
    if not trials:
        return None

    def draw(canvas, wide):
        canvas.subplots().plot([one.id for one in trials], [one.seconds for one in trials], "o")

    caption = f"Seconds of {len(trials)} trials. They have no uncertainty."
    return Drawing("cost", "Time", caption, lambda wide: 200, draw)


def never(findings):
    return None
