"""Ways to predict with models that are trained anyway, compared on their validation images.

In `benchmarks.tissue` each trial of the baseline tries these ways with the model of its best epoch
(`TriesWays`), and `compared` compares them over all its trainings. None needs further training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.config import PredictConfig, TrialConfig, Value
from core.data.split import group_names
from core.metric.ap50 import MatchTable
from tune.ledger.records import State
from tune.space.space import BY_REPEAT
from tune.statistics.certainty import Repeat, Scored, compare_all
from tune.store.folder import match_table_path, prediction_table_path
from tune.study.reading import Study
from tune.study.trials import CoreTrials, TrialInputs

AS_IT_IS = "as it is"
"""Name of the prediction that the others are compared with: the baseline's own."""


def ways_of(own: PredictConfig, tile: int) -> dict[str, PredictConfig]:
    """The ways to predict by their names; the first is `own`.

    tile   side of tiles in pixels, under that of the images
    """
    changes: Mapping[str, Mapping[str, Value]] = {
        AS_IT_IS: {},
        "mirrored view": {"views": "mirror"},
        "four flips": {"views": "flips"},
        "eight views": {"views": "all"},
        "eight views, soft suppression": {"views": "all", "merge": "soft_nms"},
        "eight views, weighted": {"views": "all", "merge": "weighted"},
        "eight views that agree": {"views": "all", "agreement": 0.5},
        "eight views, weighted, that agree": {
            "views": "all",
            "merge": "weighted",
            "agreement": 0.5,
        },
        "three scales": {"scales": "0.8,1,1.25"},
        "three scales, weighted": {"scales": "0.8,1,1.25", "merge": "weighted"},
        "tiles": {"tile": tile},
        "tiles, overlap 0.5": {"tile": tile, "overlap": 0.5},
        "soft suppression": {"merge": "soft_nms"},
        "suppression at 0.4": {"nms_iou": 0.4},
        "suppression at 0.6": {"nms_iou": 0.6},
        "scores above 0.1": {"score_threshold": 0.1},
        "scores above 0.3": {"score_threshold": 0.3},
        "half as many detections": {"max_detections": own.max_detections // 2},
    }
    return {
        name: PredictConfig.model_validate({**own.model_dump(), **change})
        for name, change in changes.items()
    }


@dataclass(frozen=True)
class TriesWays(CoreTrials):
    """Makes real trials; those of one configuration predict in all ways after their last epoch.

    of     this configuration, with any seed and split
    tile   as in `ways_of`
    """

    of: TrialConfig
    tile: int

    def predictions(self, config: TrialConfig, inputs: TrialInputs) -> Sequence[PredictConfig]:
        """See `CoreTrials.predictions`."""
        repeat = {name: self.of.settings()[name] for name in BY_REPEAT}
        if config.changed(repeat) != self.of:
            return super().predictions(config, inputs)
        return [way for way in ways_of(config.predict, self.tile).values() if way != config.predict]


def compared(study: Study, name: str, tile: int) -> str:
    """A Markdown table that compares the ways to predict with a variant's models with its own way;
    a sentence where no training has tried them.

    name   name of the variant
    tile   as in `ways_of`
    """
    scores: dict[str, dict[Repeat, Scored]] = {}
    for record in study.records:
        if record.name != name or record.state is not State.COMPLETE:
            continue
        config = TrialConfig.from_settings(record.settings, f"trial {record.id}")
        folder = study.folder.trial(record.id)
        for way, predict in ways_of(config.predict, tile).items():
            path = prediction_table_path(folder, predict)
            if predict == config.predict:
                path = match_table_path(folder, record.best_epoch or 0)
            if path.exists():
                table = MatchTable.load(path)
                units = group_names(table.image_names, config.data.group_pattern, str(path))
                settings = record.settings
                repeat = Repeat(int(settings["seed"]), int(settings["data.fold"]))
                scored = Scored.of(table, config.metric.max_dets, units)
                scores.setdefault(way, {})[repeat] = scored
    tried = [way for way in scores if way != AS_IT_IS]
    if not tried:
        return f"No training of {name} has tried other ways to predict yet."
    found = compare_all(scores, [(way, AS_IT_IS) for way in tried])
    lines = [
        f"### Ways to predict with {name}, without training",
        "",
        "| Way | AP50 | Difference (95% confidence) | p (Holm) | Verdict | Repeats |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for way, difference in zip(tried, found, strict=True):
        one = scores[way].values()
        lines.append(
            f"| {way} | {sum(score.ap50 for score in one) / len(one):.4f} |"
            f" {difference.estimate:+.4f} ({difference.low:+.3f} to {difference.high:+.3f}) |"
            f" {difference.p_adjusted:.4f} | {difference.verdict} | {difference.repeats} |"
        )
    return "\n".join(lines)
