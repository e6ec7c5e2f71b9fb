"""The choice of `predict` settings for a trained model, by predicting again without training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.config import PredictConfig
from core.metric import ap50
from core.metric.ap50 import MatchTable
from core.prediction.detect import View, combine, look
from core.prediction.trained_model import TrainedModel
from core.sample import Detections, Sample


@dataclass(frozen=True)
class Evaluated:
    """The scores of a model with certain settings of `predict`.

    config         these settings
    found          the detections in each sample
    masks, boxes   match tables of the detections' masks and boxes
    max_dets       number of detections per image and class that count in `ap50`
    """

    config: PredictConfig
    found: tuple[Detections, ...]
    masks: MatchTable
    boxes: MatchTable
    max_dets: int

    @property
    def ap50(self) -> float:
        """COCO AP50 of masks; nan if the samples have no instance."""
        return ap50.ap50(self.masks, self.max_dets).mean


def evaluate(
    trained: TrainedModel,
    samples: Sequence[Sample],
    candidates: Sequence[PredictConfig],
    progress: Callable[[float], object] = float,
) -> list[Evaluated]:
    """Score a model on samples with each of the candidates; returns the scores in their order.

    candidates   distinct settings of `predict`
    progress     called after each image with the fraction that is done

    The network runs once on each tile of each image for every pair of `tile` and `nms_iou` among
    the candidates, and once more on the mirrored tile if one of them has flips. Candidates that
    differ only in score threshold, cap or flips are taken from the same detections. The model keeps
    its own settings.
    """
    groups: dict[tuple[int, float], list[PredictConfig]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.tile, candidate.nms_iou), []).append(candidate)
    found: dict[PredictConfig, list[Detections]] = {candidate: [] for candidate in candidates}
    for number, group in enumerate(groups.values()):
        loosest = _loosest(group)
        model = trained.predicting_with(loosest).model
        for seen, sample in enumerate(samples, start=1):
            views: list[View] = look(model, sample.image, loosest, trained.config.data.crop)
            for candidate in group:
                found[candidate].append(combine(views, candidate, *sample.size))
            progress((number + seen / len(samples)) / len(groups))
    trained.predicting_with(trained.config.predict)
    max_dets = trained.config.metric.max_dets
    evaluated = []
    for candidate in candidates:
        masks, boxes = ap50.match(samples, found[candidate], len(trained.classes))
        evaluated.append(Evaluated(candidate, tuple(found[candidate]), masks, boxes, max_dets))
    return evaluated


def best(evaluated: Sequence[Evaluated]) -> Evaluated:
    """The candidate with the highest AP50, the first one among equals."""
    return max(evaluated, key=lambda one: one.ap50)


def _loosest(group: Sequence[PredictConfig]) -> PredictConfig:
    return group[0].model_copy(
        update={
            "score_threshold": min(config.score_threshold for config in group),
            "max_detections": max(config.max_detections for config in group),
            "flips": any(config.flips for config in group),
        }
    )
