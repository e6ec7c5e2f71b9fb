"""The choice of `predict` settings for a trained model, by predicting again without training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.config import PredictConfig
from core.metric import ap50
from core.metric.ap50 import ImageMatches, MatchTable
from core.prediction.detect import combine
from core.prediction.trained_model import TrainedModel
from core.prediction.views import Seen, look_at_samples, loosest, wanted_views
from core.sample import Detections, Sample


@dataclass(frozen=True)
class Evaluated:
    """The scores of a model with certain settings of `predict`.

    config         these settings
    found          the detections in each sample; empty where they were not kept
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


def evaluate_candidates(
    trained: TrainedModel,
    samples: Sequence[Sample],
    candidates: Sequence[PredictConfig],
    progress: Callable[[float], object] = float,
    helpers: int = 0,
    keep: bool = True,
) -> list[Evaluated]:
    """Score a model on samples with each of the candidates; returns the scores in their order.

    candidates   distinct settings of `predict`
    progress     called after each image with the fraction that is done
    helpers      number of threads that work beside the network; see `look_at_each`
    keep         whether the detections are kept, beside what they matched

    The network looks once at each image in every view that a candidate wants (see
    `core.prediction.views`), and all candidates' detections come from these looks. Only candidates
    with another `nms_iou` need looks of their own, because the network suppresses boxes itself. The
    model keeps its own settings.
    """
    groups = _of_one_nms(candidates)
    max_dets, classes = trained.config.metric.max_dets, len(trained.classes)
    evaluated: dict[PredictConfig, Evaluated] = {}
    for number, group in enumerate(groups):

        def end(
            sample: Sample, seen: Seen, group: list[PredictConfig] = group
        ) -> list[tuple[Detections | None, ImageMatches]]:
            matched = []
            for candidate in group:
                found = combine(seen, candidate)
                matches = ap50.match_image(sample, found, classes)
                matched.append((found if keep else None, matches))
            return matched

        of_samples = look_at_samples(
            trained.predicting_with(loosest(group)).models,
            samples,
            group,
            end,
            tile=trained.config.data.crop,
            helpers=helpers,
            progress=lambda seen, number=number: progress(  # type: ignore[misc]
                (number + seen / len(samples)) / len(groups)
            ),
        )
        for place, candidate in enumerate(group):
            matched = [of_sample[place] for of_sample in of_samples]
            masks, boxes = ap50.match_tables([matches for _, matches in matched], classes)
            found = tuple(one for one, _ in matched if one is not None)
            evaluated[candidate] = Evaluated(candidate, found, masks, boxes, max_dets)
    trained.predicting_with(trained.config.predict)
    return [evaluated[candidate] for candidate in candidates]


def looks_needed(
    candidates: Sequence[PredictConfig], sizes: Mapping[tuple[int, int], int], tile: int
) -> float:
    """The number of looks that `evaluate_candidates` needs; one at scale s counts as s^2 looks.

    sizes   number of images of each height and width in pixels
    tile    as in `core.prediction.views.Seen`
    """
    return sum(
        images * sum(view.scale**2 for view in wanted_views(group, size, tile))
        for group in _of_one_nms(candidates)
        for size, images in sizes.items()
    )


def _of_one_nms(candidates: Sequence[PredictConfig]) -> list[list[PredictConfig]]:
    """The candidates in groups of one `nms_iou`, which can share looks."""
    groups: dict[float, list[PredictConfig]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.nms_iou, []).append(candidate)
    return list(groups.values())


def best_evaluated(evaluated: Sequence[Evaluated]) -> Evaluated:
    """The candidate with the highest AP50, the first one among equals."""
    return max(evaluated, key=lambda one: one.ap50)
