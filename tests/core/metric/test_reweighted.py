"""Laws of reweighting: weights are what repeating and leaving out images does, and pycocotools
agrees.
"""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.simulated_scores import draw_images, evaluate
from core.metric.ap50 import MatchTable, ap50
from core.metric.reweighted import MOST_PULLS, Reweighted, pulls


def simulated(seed: int, images: int, quality: float = 0.0) -> MatchTable:
    rng = np.random.default_rng(seed)
    return evaluate(rng, draw_images(rng, images), quality)


def with_images(table: MatchTable, chosen: list[int]) -> MatchTable:
    """The table of these images, some of them perhaps several times: what a new evaluation of
    them would give.
    """
    rows = [np.flatnonzero(table.image_D == image) for image in chosen]
    joined = np.concatenate([np.empty(0, np.int64), *rows])
    return MatchTable(
        image_D=np.repeat(np.arange(len(chosen), dtype=np.int32), [len(some) for some in rows]),
        label_D=table.label_D[joined],
        score_D=table.score_D[joined],
        rank_D=table.rank_D[joined],
        hit_D=table.hit_D[joined],
        ignored_D=table.ignored_D[joined],
        truths_IC=table.truths_IC[chosen],
        image_names=tuple(f"{number}" for number in range(len(chosen))),
    )


def expected(table: MatchTable, max_dets: int | None) -> list[float]:
    return [float("nan") if value is None else value for value in ap50(table, max_dets).per_class]


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 8),
    max_dets=st.sampled_from([None, 1, 10, 100]),
)
@settings(max_examples=60, deadline=None)
def test_weights_of_one_give_the_evaluation_as_it_was(
    seed: int, images: int, max_dets: int | None
) -> None:
    table = simulated(seed, images)
    np.testing.assert_allclose(
        Reweighted(table, max_dets).per_class, expected(table, max_dets), rtol=0, atol=1e-12
    )


@given(seed=st.integers(0, 10_000), weights=st.lists(st.integers(0, 3), min_size=2, max_size=7))
@settings(max_examples=60, deadline=None)
def test_a_weight_counts_an_image_so_many_times(seed: int, weights: list[int]) -> None:
    table = simulated(seed, len(weights))
    repeated = with_images(
        table, [image for image, weight in enumerate(weights) for _ in range(weight)]
    )
    found = Reweighted(table, 100).ap50(np.array(weights)[:, None])[0]
    np.testing.assert_allclose(found, expected(repeated, 100), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10_000), images=st.integers(2, 7))
@settings(max_examples=40, deadline=None)
def test_leaving_out_an_image_is_an_evaluation_without_it(seed: int, images: int) -> None:
    table = simulated(seed, images)
    left_UC = Reweighted(table, 100).without_each()
    for image in range(images):
        others = with_images(table, [other for other in range(images) if other != image])
        np.testing.assert_allclose(left_UC[image], expected(others, 100), rtol=0, atol=1e-12)


@pytest.mark.parametrize("images", [31, 32, 33, 70])
def test_leaving_out_a_unit_is_a_weight_of_0_for_any_number_of_units(images: int) -> None:
    reweighted = Reweighted(simulated(images, images), 100)
    weights_UR = np.concatenate([1 - np.eye(images), np.ones((images, 1))], axis=1)
    left_RC = np.concatenate([reweighted.without_each(), reweighted.per_class[None]])
    np.testing.assert_allclose(left_RC, reweighted.ap50(weights_UR), rtol=0, atol=1e-12)


def test_images_of_one_group_count_together() -> None:
    table = simulated(3, 6)
    grouped = Reweighted(table, 100, ["a", "b", "a", "c", "b", "a"])
    assert grouped.units == ("a", "b", "c")
    np.testing.assert_allclose(
        grouped.ap50([[2], [0], [1]])[0],
        expected(with_images(table, [0, 0, 2, 2, 3, 5, 5]), 100),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_gives_the_same_where_images_are_there_several_times() -> None:
    """Instances as boxes of one pixel's distance, each detection on one of them or on none."""
    table = simulated(5, 5)
    weights = [2, 0, 1, 3, 1]
    chosen = [image for image, weight in enumerate(weights) for _ in range(weight)]
    annotations, results = [], []
    for number, image in enumerate(chosen, start=1):
        for label, truths in enumerate(table.truths_IC[image].tolist(), start=1):
            places = [[20.0 * place, 20.0 * label, 10.0, 10.0] for place in range(truths)]
            for box in places:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box,
                     "area": 100.0, "iscrowd": 0}
                )  # fmt: skip
            free = iter(places)
            for row in np.flatnonzero((table.image_D == image) & (table.label_D == label)).tolist():
                box = next(free) if table.hit_D[row] else [1e5, 1e5, 10.0, 10.0]
                # The copies of an image keep the order of equal scores.
                results.append({"image_id": number, "category_id": label, "bbox": box,
                                "score": float(table.score_D[row])})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [
                {"id": number, "height": 200_000, "width": 200_000}
                for number in range(1, len(chosen) + 1)
            ],
            "annotations": annotations,
            "categories": [{"id": label} for label in (1, 2, 3, 4)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, 2]
    official = [
        float(column.mean()) if column.max() > -1 else float("nan") for column in precision.T
    ]
    np.testing.assert_allclose(
        Reweighted(table, 100).ap50(np.array(weights)[:, None])[0], official, rtol=0, atol=1e-12
    )


@given(seed=st.integers(0, 10_000), images=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_pulls_are_those_of_the_jackknife_summed_over_classes(seed: int, images: int) -> None:
    table = simulated(seed, images)
    reported = pulls(table, 100, table.image_names)
    share_UC, _ = Reweighted(table, 100).jackknife()
    np.testing.assert_allclose(reported, share_UC.sum(axis=1), atol=1e-6)
    left = [np.nanmean(per_class) for per_class in Reweighted(table, 100).without_each()]
    if not np.isnan(Reweighted(table, 100).without_each()).any():
        variance = (images - 1) / images * np.square(left - np.mean(left)).sum()
        assert sum(pull**2 for pull in reported) == pytest.approx(variance, abs=1e-4)


def test_many_images_pull_in_blocks_and_images_of_a_group_together() -> None:
    table = simulated(3, 150)
    assert len(pulls(table, 100, table.image_names)) == MOST_PULLS
    groups = [f"slide {number // 10}" for number in range(150)]
    share_UC, _ = Reweighted(table, 100, groups).jackknife()
    np.testing.assert_allclose(pulls(table, 100, groups), share_UC.sum(axis=1), atol=1e-6)
    single, blocks = (
        sum(pull**2 for pull in found)
        for found in (
            Reweighted(table, 100).jackknife()[0].sum(axis=1),
            pulls(table, 100, table.image_names),
        )
    )
    assert 0.6 < blocks / single < 1.6
