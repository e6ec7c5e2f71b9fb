"""Laws of intervals, paired differences, verdicts and the smallest difference; simulated where
truth must be known.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import statistics
from benchmarks.simulated_scores import MAX_DETS, draw_images, evaluate
from core.metric.ap50 import MatchTable, ap50
from tune.statistics import certainty
from tune.statistics.certainty import (
    Difference,
    Repeat,
    Scope,
    Scored,
    Variance,
    Verdict,
    compare,
    compare_all,
    for_all_pairs,
    holm,
    interval,
    mean_interval,
    prior_smallest_difference,
    seed_variances,
    smallest_difference,
    warnings_of,
)


def table(seed: int, images: int, quality: float = 0.0) -> MatchTable:
    rng = np.random.default_rng(seed)
    return evaluate(rng, draw_images(rng, images), quality)


def score(seed: int, images: int, quality: float = 0.0) -> Scored:
    return Scored.of(table(seed, images, quality), MAX_DETS)


def perfect(images: int, found: bool = True) -> MatchTable:
    """One instance an image, and one detection, which hits or not."""
    return MatchTable(
        image_D=np.arange(images, dtype=np.int32),
        label_D=np.ones(images, np.int16),
        score_D=np.full(images, 0.5, np.float32),
        rank_D=np.zeros(images, np.int32),
        hit_D=np.full(images, found),
        ignored_D=np.zeros(images, np.bool_),
        truths_IC=np.ones((images, 1), np.int32),
        image_names=tuple(f"image {number}" for number in range(images)),
    )


def test_the_score_is_the_ap50_of_the_evaluation() -> None:
    one = table(1, 12)
    assert Scored.of(one, MAX_DETS).ap50 == pytest.approx(ap50(one, MAX_DETS).mean, abs=1e-12)


def test_the_pull_of_images_is_what_the_bootstrap_finds() -> None:
    """Where every class is in many images, the squares of the pulls sum to the variance over
    resamples.
    """
    from core.metric.reweighted import Reweighted

    rng = np.random.default_rng(0)
    one = table(2, 150, quality=0.5)
    common = replace(one, truths_IC=one.truths_IC * [1, 1, 0, 0])
    resampled = np.nanmean(
        Reweighted(common, MAX_DETS).ap50(rng.multinomial(150, np.full(150, 1 / 150), 1000).T)[
            :, :2
        ],
        axis=1,
    )
    share_UC = Scored.of(common, MAX_DETS).share_UC
    assert math.sqrt(float((share_UC.sum(axis=1) ** 2).sum())) == pytest.approx(
        float(resampled.std()), rel=0.15
    )


@given(seed=st.integers(0, 10_000), images=st.integers(2, 30), quality=st.floats(-2, 2))
@settings(max_examples=50, deadline=None)
def test_an_interval_holds_its_estimate_and_stays_between_0_and_1(
    seed: int, images: int, quality: float
) -> None:
    found = interval(score(seed, images, quality))
    assert 0 <= found.low <= found.estimate <= found.high <= 1


@pytest.mark.parametrize("found", [True, False])
def test_an_interval_of_a_perfect_or_hopeless_model_is_no_traceback(found: bool) -> None:
    result = interval(Scored.of(perfect(20, found), MAX_DETS))
    assert result.estimate == pytest.approx(float(found))
    # Of 20 images without a miss, or without a hit: the bound of Clopper and Pearson for 0 of 20.
    assert result.high - result.low == pytest.approx(stats.beta.ppf(0.975, 1, 20))


def test_a_perfect_model_whose_epoch_was_lucky_keeps_its_bound() -> None:
    model = Scored.of(perfect(20), MAX_DETS)
    found, whole = interval(replace(model, luck=0.01)), interval(model)
    assert found.estimate == pytest.approx(0.99)
    assert found.low == pytest.approx(whole.low - 0.01)
    assert found.high == 1


def test_one_image_says_nothing() -> None:
    found = interval(Scored.of(perfect(1), MAX_DETS))
    assert (found.low, found.high) == (0.0, 1.0)


def test_more_images_make_a_narrower_interval() -> None:
    few, many = (
        np.median([np.ptp([i.low, i.high]) for i in (interval(score(s, n)) for s in range(8))])
        for n in (15, 90)
    )
    assert many < few / 1.5


def test_groups_of_like_images_make_a_wider_interval_than_as_many_images() -> None:
    """Five copies of each image are no more than the image: as groups they count once."""
    one = table(4, 20)
    copies = replace(
        one,
        image_D=np.concatenate([one.image_D + 20 * copy for copy in range(5)]).astype(np.int32),
        truths_IC=np.tile(one.truths_IC, (5, 1)),
        image_names=tuple(f"{copy} of {name}" for copy in range(5) for name in one.image_names),
        **{
            name: np.tile(getattr(one, name), 5)
            for name in ("label_D", "score_D", "rank_D", "hit_D", "ignored_D")
        },
    )
    alone, together = (
        interval(Scored.of(copies, MAX_DETS, units))
        for units in (None, [name.split(" of ")[1] for name in copies.image_names])
    )
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    as_one = interval(Scored.of(one, MAX_DETS))
    assert together.high - together.low == pytest.approx(as_one.high - as_one.low, rel=0.05)


def test_a_class_in_few_images_and_a_score_near_1_are_flagged() -> None:
    scored = Scored.of(perfect(4), MAX_DETS)
    assert warnings_of(scored, ["nucleus"]) == [
        "nucleus is in 4 of the validation images only: its AP50 is hardly known",
        "for an AP50 above 0.9 on fewer than 41 images, or groups of images, no known interval covers"
        " the truth as often as it promises",
    ]
    assert warnings_of(Scored.of(perfect(60), MAX_DETS), ["nucleus"]) == []


def repeats(
    seed: int, variants: int, count: int, images: int = 20
) -> dict[str, dict[Repeat, Scored]]:
    return statistics.DataSet(seed, images).scores(statistics.Table(variants, count))


def test_a_model_does_not_differ_from_itself() -> None:
    one = score(1, 20)
    found = compare([one], [one])
    assert (found.estimate, found.verdict, found.p) == (0.0, Verdict.CANNOT_TELL, 1.0)


@pytest.mark.parametrize("seed", range(12))
def test_a_table_of_one_method_under_two_names_cannot_tell_and_promises_nothing(seed: int) -> None:
    scores = repeats(seed, 1, 3, images=10)
    found = compare_all({"0": scores["0"], "same": scores["0"]}, [("same", "0")])[0]
    assert (found.estimate, found.verdict, found.p) == (0.0, Verdict.CANNOT_TELL, 1.0)
    assert smallest_difference(found.se, found.df) == math.inf


def test_a_pair_with_one_common_repeat_knows_the_seeds_of_its_table() -> None:
    scores = repeats(5, 4, 3)
    scores["1"] = {Repeat(0): scores["1"][Repeat(0)]}
    found = compare_all(scores, [("1", "0")])[0]
    assert found.repeats == 1
    assert found.seed_se is not None
    assert found.seed_se > 0


def test_exchanging_the_two_turns_the_sign_and_nothing_else() -> None:
    scores = repeats(3, 2, 3)
    there, back = (compare_all(scores, [pair])[0] for pair in (("0", "1"), ("1", "0")))
    assert back.estimate == pytest.approx(-there.estimate)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert (back.p, back.se, back.df) == pytest.approx((there.p, there.se, there.df))


def test_repeats_are_compared_with_their_like_and_only_those_both_have() -> None:
    scores = repeats(5, 2, 3)
    del scores["1"][Repeat(0)]
    found = compare_all(scores, [("1", "0")])[0]
    assert found.repeats == 2
    assert found.estimate == pytest.approx(
        np.mean([scores["1"][one].ap50 - scores["0"][one].ap50 for one in map(Repeat, (1, 2))])
    )


def test_with_one_repeat_the_seeds_cannot_be_seen() -> None:
    scores = repeats(6, 3, 1)
    assert seed_variances(scores) is None
    assert all(found.seed_se is None for found in compare_all(scores, [("1", "0"), ("2", "0")]))


def test_seeds_are_pooled_over_the_variants_of_the_table() -> None:
    found = seed_variances(repeats(7, 4, 3))
    assert found is not None
    assert found.pooled.df == 3 * 2


@pytest.mark.parametrize("sd", [0.05, 0.3])
def test_the_seeds_variance_is_found_beside_that_of_images(sd: float) -> None:
    """A seed's 0.05 of quality is 0.017 of AP50, and 0.3 is 0.1, around a score of 0.33."""
    found = [
        seed_variances(
            statistics.DataSet(seed, 40).scores(statistics.Table(4, 4, statistics.Luck(sd / 3)))
        )
        for seed in range(12)
    ]
    assert math.sqrt(np.mean([one.pooled.value for one in found if one])) == pytest.approx(
        sd / 3, rel=0.3
    )


def test_seeds_that_differ_more_make_a_difference_less_sure() -> None:
    calm, wild = (
        np.mean(
            [
                compare_all(statistics.DataSet(seed, 40).scores(table), [("1", "0")])[0].se
                for seed in range(6)
            ]
        )
        for sd in (0.003, 0.17)
        for table in [statistics.Table(4, 5, statistics.Luck(sd))]
    )
    assert wild > 1.5 * calm


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """Adjusted p of a comparison: the largest Bonferroni p of all groups of comparisons that it
    is the smallest of.
    """
    adjusted = holm(p)
    for one, found in zip(p, adjusted, strict=True):
        as_small = [
            min(1.0, value * sum(other >= value for other in p)) for value in p if value <= one
        ]
        assert found == pytest.approx(max(as_small), abs=1e-12)
    assert all(after >= before for before, after in zip(p, adjusted, strict=True))


def test_a_verdict_needs_holm_to_agree() -> None:
    found = Difference(0.1, 0.02, 0.18, 0.03, 0.03, 0.04, 30, 0.03, 0.02, 3, 3, 41)
    assert found.verdict is Verdict.BETTER
    assert replace(found, estimate=-0.1).verdict is Verdict.WORSE
    assert replace(found, p_adjusted=0.09).verdict is Verdict.CANNOT_TELL


@given(df=st.floats(2, 200), se=st.floats(1e-3, 0.05))
@settings(max_examples=40, deadline=None)
def test_the_smallest_difference_is_found_four_times_in_five_and_more_than_the_textbook_says(
    df: float, se: float
) -> None:
    smallest = smallest_difference(se, df)
    bound = stats.t.ppf(0.975, df)
    assert stats.nct.sf(bound, df, smallest / se) >= 0.8 - 1e-9
    assert smallest >= (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * se


@given(df=st.floats(4, 200), comparisons=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_the_smallest_difference_of_a_table_is_found_at_its_share_of_the_error_rate(
    df: float, comparisons: int
) -> None:
    smallest = smallest_difference(0.005, df, comparisons)
    bound = stats.t.isf(0.025 / comparisons, df)
    assert stats.nct.sf(bound, df, smallest / 0.005) >= 0.8 - 1e-9
    assert smallest_difference(0.005, df, comparisons + 1) > smallest


def test_the_best_of_several_is_compared_as_one_of_all_pairs() -> None:
    """Four have six pairs: the three pairs without the best count as well."""
    assert for_all_pairs([0.001, 0.02, 0.5]) == pytest.approx([0.006, 0.1, 1.0])
    assert for_all_pairs([0.03]) == [0.03]
    assert for_all_pairs([]) == []


def test_what_cannot_be_compared_can_show_no_difference() -> None:
    assert smallest_difference(math.inf, 0) == math.inf
    assert smallest_difference(0.0, 10) == math.inf


def test_before_any_trial_the_smallest_difference_falls_with_images_and_repeats() -> None:
    assert prior_smallest_difference(41, 5) < prior_smallest_difference(41, 3)
    assert prior_smallest_difference(41, 2) == math.inf  # one degree of freedom
    assert (
        prior_smallest_difference(100, 3)
        < prior_smallest_difference(41, 3)
        < prior_smallest_difference(10, 3)
    )


def test_before_any_trial_the_smallest_difference_is_that_of_simulated_studies() -> None:
    """Three hold-outs of a fifth of the data set hold about half of it."""
    found = simulated(41, statistics.Table(2, 3), 40).smallest
    assert prior_smallest_difference(round(205 * (1 - 0.8**3)), 3) == pytest.approx(found, rel=0.25)


def binomial_bound(repetitions: int, share: float = 0.05) -> float:
    """A share this high is seen once in a hundred times where the truth is `share`."""
    return float(stats.binom.ppf(0.99, repetitions, share)) / repetitions


def simulated(
    images: int, table: statistics.Table, repetitions: int, fresh: bool = True
) -> statistics.Outcome:
    return statistics.simulated(images, [table], repetitions, fresh)[0]


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh hold-outs", "the same images"])
@pytest.mark.parametrize("images", [10, 20, 41, 100])
def test_without_a_difference_a_verdict_is_rare(images: int, fresh: bool) -> None:
    tables = [statistics.Table(rows, seeds) for rows in (2, 4) for seeds in (3, 5)]
    for found in statistics.simulated(images, tables, 600, fresh):
        assert found.single <= binomial_bound(600)
        assert found.verdicts <= binomial_bound(600)


@pytest.mark.timeout(600)
def test_without_a_difference_a_table_of_four_seldom_has_any_verdict() -> None:
    assert simulated(20, statistics.Table(4, 3), 200).verdicts <= binomial_bound(200)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("score", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("images", [10, 41, 200])
def test_intervals_of_one_model_hold_the_truth(images: int, score: float) -> None:
    covered, _ = statistics.coverage(images, score, 600)
    assert covered >= 0.92 - 2.33 * math.sqrt(0.92 * 0.08 / 600)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("score", [0.1, 0.33, 0.6])
@pytest.mark.parametrize(("images", "seeds"), [(10, 5), (41, 3), (41, 5)])
def test_intervals_of_a_mean_over_repeats_hold_the_truth(
    images: int, seeds: int, score: float
) -> None:
    covered = simulated(images, statistics.Table(4, seeds, score=score), 400).covered
    assert covered >= 0.92 - 2.33 * math.sqrt(0.92 * 0.08 / 400)


def test_a_class_that_one_image_holds_is_thought_as_biased_as_the_others_and_more() -> None:
    """Leaving that image out says nothing; the bias falls with the images that hold a class.

    Over tables.
    """
    found = []
    for seed in range(20):
        one = table(seed, 20)
        few = one.truths_IC * [1, 1, 0, 0]
        few[7, 2] = 3
        rare = Scored.of(replace(one, truths_IC=few), MAX_DETS)
        assert rare.bias_C[2] == 0
        found.append((certainty._bias(rare), rare.bias_C.sum()))
    moderated, plain = np.mean(found, axis=0)
    assert moderated > 2 * plain > 0


def test_a_class_in_one_image_of_a_repeat_is_as_unsure_there_as_in_the_other_repeats() -> None:
    """Two repeats on other images; in the second it is not known how the only image of a class
    pulls on it.
    """
    first = score(12, 40)
    second = replace(first, units=tuple(f"other {name}" for name in first.units))
    assert (first.holds_UC.sum(axis=0) > 3).all()
    share_UC, holds_UC = second.share_UC.copy(), second.holds_UC.copy()
    holds_UC[np.flatnonzero(holds_UC[:, 2])[1:], 2] = False
    share_UC[:, 2] = 0
    unknown = replace(second, share_UC=share_UC, holds_UC=holds_UC)
    whole, partly, blind = (
        mean_interval(scores, None)
        for scores in ([first, second], [first, unknown], [first, first])
    )
    assert partly.high - partly.low == pytest.approx(whole.high - whole.low, rel=0.15)
    assert blind.high - blind.low > 1.2 * (whole.high - whole.low)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("images", [20, 41, 100])
def test_a_difference_of_the_stated_smallest_size_is_found_about_four_times_in_five(
    images: int, seeds: int
) -> None:
    smallest = simulated(images, statistics.Table(2, seeds), 200).smallest
    around = statistics.Table(2, seeds, better=smallest, score=0.33 - smallest / 2)
    found = simulated(images, around, 400).found
    assert 0.75 - 0.04 <= found <= 0.9 + 0.03


def test_a_mean_over_repeats_is_surer_than_one_of_them_and_less_sure_than_its_images_alone() -> (
    None
):
    scores = list(repeats(9, 4, 4, images=40)["0"].values())
    seeds = [Variance(0.03**2 / 4, 9)]
    alone, images_only, both = (
        interval(scores[0]),
        mean_interval(scores, None),
        mean_interval(scores, seeds),
    )
    assert images_only.high - images_only.low < alone.high - alone.low
    assert images_only.high - images_only.low < both.high - both.low


def trained(row: str, seeds: int, sd: float, seed: int, folds: int = 1) -> dict[Repeat, Scored]:
    """Repeats whose seeds differ by `sd` of quality; folds of a seed share its luck."""
    rng = np.random.default_rng([seed, *row.encode()])
    images = draw_images(np.random.default_rng([seed]), 40 * folds)
    found = {}
    for number in range(seeds):
        luck = rng.normal(0, sd)
        for fold in range(folds):
            names = np.arange(40 * fold, 40 * (fold + 1))
            one = evaluate(rng, images.take(names), luck, names)
            found[Repeat(number, fold)] = Scored.of(one, MAX_DETS)
    return found


def test_a_row_whose_seeds_differ_far_more_than_the_others_keeps_its_own_variance() -> None:
    scores = {"wild": trained("wild", 5, 0.6, 1)} | {
        row: trained(row, 5, 0.02, 1) for row in ("a", "b", "c")
    }
    found = seed_variances(scores)
    assert found is not None
    assert set(found.own) == {"wild"}
    assert found.own["wild"].df == 4
    assert found.own["wild"].value > found.pooled.value
    wild, calm = compare_all(scores, [("a", "wild"), ("a", "b")])
    assert wild.seed_se is not None
    assert calm.seed_se is not None
    assert wild.seed_se > 1.3 * calm.seed_se
    wide, narrow = (
        mean_interval(list(scores[row].values()), found.of_mean([row], 5)) for row in ("wild", "a")
    )
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_seeds_that_no_other_row_has_tell_nothing_of_how_uneven_a_row_is() -> None:
    """As while a study that asked for more seeds runs, and where trials failed."""
    scores = {"wild": trained("wild", 5, 0.6, 1)} | {
        row: trained(row, 5, 0.02, 1) for row in ("a", "b", "c")
    }
    before, ahead = (
        seed_variances({**scores, "wild": trained("wild", seeds, 0.6, 1)}) for seeds in (5, 7)
    )
    assert before is not None
    assert ahead is not None
    assert ahead.own.keys() == before.own.keys() == {"wild"}
    assert ahead.own["wild"].df == before.own["wild"].df == 4
    assert ahead.own["wild"].value == pytest.approx(before.own["wild"].value)
    assert tuple(ahead.pooled) == pytest.approx(tuple(before.pooled))
    others = {Repeat(10 + repeat.seed): one for repeat, one in scores.pop("wild").items()}
    apart = seed_variances({**scores, "wild": others})
    assert apart is not None
    assert "wild" not in apart.own


def test_two_rows_with_two_seeds_get_no_verdict() -> None:
    """The seeds' variance is known from one degree of freedom."""
    apart = {"low": trained("low", 2, 0.0, 3), "high": trained("high", 2, 0.0, 4)}
    apart["high"] = {
        repeat: replace(one, ap50=one.ap50 + 0.5) for repeat, one in apart["low"].items()
    }
    apart["high"][Repeat(0)] = replace(
        apart["high"][Repeat(0)], ap50=apart["high"][Repeat(0)].ap50 - 0.002
    )
    found = compare_all(apart, [("high", "low")])[0]
    assert (found.p, found.verdict) == (1.0, Verdict.CANNOT_TELL)
    assert not found.decidable


def test_with_two_seeds_a_row_of_its_own_variance_can_get_a_verdict() -> None:
    """Its one degree of freedom counts in the bound, which a difference can exceed."""
    scores = {"wild": trained("wild", 2, 0.6, 5)} | {
        row: trained(row, 2, 0.02, 5) for row in ("a", "b", "c")
    }
    variances = seed_variances(scores)
    assert variances is not None
    assert variances.own["wild"].df == 1
    found = compare_all(scores, [("a", "wild")])[0]
    assert found.decidable
    far = {repeat: replace(one, ap50=one.ap50 + 5.0) for repeat, one in scores["a"].items()}
    calm = compare_all({**scores, "a": far}, [("a", "wild"), ("a", "b")])
    assert calm[0].p < 0.05
    assert calm[0].p > calm[1].p


@given(
    own=st.floats(1e-5, 1e-2),
    pooled=st.floats(1e-5, 1e-2),
    images=st.floats(1e-5, 1e-2),
    df=st.floats(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_a_variance_that_may_be_small_by_chance_is_doubted_more_than_a_firm_one(
    own: float, pooled: float, images: float, df: float
) -> None:
    rest = [Variance(images, 30.0, firm=True), Variance(pooled, 6.0)]
    firm, doubted = (
        certainty._quantile([*rest, Variance(own, df, firm)], 0.025) for firm in (True, False)
    )
    assert stats.norm.ppf(0.975) < firm <= doubted + 1e-9
    more = certainty._quantile([*rest, Variance(own, df + 1, firm=True)], 0.025)
    assert more <= firm + 1e-9


def test_a_row_alone_knows_its_seeds_from_its_own_repeats() -> None:
    found = [seed_variances({"alone": trained("alone", 5, 0.45, seed)}) for seed in range(8)]
    assert all(one is not None and one.pooled.df == 4 for one in found)
    assert math.sqrt(np.mean([one.pooled.value for one in found if one])) == pytest.approx(
        0.15, rel=0.4
    )


def test_folds_of_one_seed_say_nothing_of_seeds() -> None:
    scores = {row: trained(row, 1, 0.3, 2, folds=4) for row in ("a", "b")}
    assert seed_variances(scores) is None
    found = compare_all(scores, [("a", "b")])[0]
    assert (found.repeats, found.seeds, found.seed_se) == (4, 1, None)


def test_folds_of_a_seed_share_its_luck_and_do_not_divide_it() -> None:
    """Three seeds with four folds each are three trainings where luck is concerned, not twelve."""
    scores = {row: trained(row, 3, 0.3, 5, folds=4) for row in ("a", "b", "c", "d")}
    variances = seed_variances(scores)
    found = compare_all(scores, [("a", "b")])[0]
    assert variances is not None
    assert variances.pooled.df == 6
    assert (found.repeats, found.seeds) == (12, 3)
    assert found.seed_se is not None
    assert found.seed_se >= math.sqrt(2 * variances.pooled.value / 3) - 1e-12


@given(
    values=st.lists(st.floats(1e-5, 1e-2), min_size=1, max_size=3),
    dfs=st.lists(st.floats(2, 60), min_size=3, max_size=3),
    t=st.floats(0.1, 8),
)
@settings(max_examples=60, deadline=None)
def test_p_is_under_5_percent_exactly_beyond_the_bound_and_the_bound_lies_between_its_parts(
    values: list[float], dfs: list[float], t: float
) -> None:
    parts = [Variance(value, df) for value, df in zip(values, dfs, strict=False)]
    bound = certainty._quantile(parts, 0.025)
    own = [stats.t.ppf(0.975, part.df) for part in parts]
    assert min(own) - 1e-6 <= bound <= max(own) + 1e-6
    assert (certainty._two_sided_p(t, parts) < 0.05) == (t > bound)
    assert stats.t.ppf(0.975, certainty._df_with(bound)) == pytest.approx(bound, rel=2e-3)


@given(
    firm=st.lists(st.floats(1e-5, 1e-2), min_size=1, max_size=3),
    dfs=st.lists(st.floats(1, 60), min_size=3, max_size=3),
    tail=st.floats(1e-4, 0.2),
)
@settings(max_examples=60, deadline=None)
def test_firm_parts_together_have_satterthwaites_degrees_of_freedom(
    firm: list[float], dfs: list[float], tail: float
) -> None:
    parts = [Variance(value, df, firm=True) for value, df in zip(firm, dfs, strict=False)]
    df = sum(firm) ** 2 / sum(part.value**2 / part.df for part in parts)
    assert certainty._quantile(parts, tail) == pytest.approx(stats.t.isf(tail, df), rel=1e-6)
    apart = [part._replace(firm=False) for part in parts]
    least = min(part.df for part in parts)
    assert certainty._quantile(parts, tail) <= certainty._quantile(apart, tail) + 1e-9
    assert certainty._quantile(parts, tail) <= stats.t.isf(tail, least) + 1e-9


def test_a_verdict_on_other_training_images_needs_more_than_one_on_these() -> None:
    """It is never surer, and is not given without seeds or without the share of training images;
    its p value grows with the ratio of validation to training images.
    """
    scores = repeats(11, 4, 3)
    pairs = [("1", "0"), ("2", "0"), ("3", "0")]
    silent, little, usual = (compare_all(scores, pairs, ratio) for ratio in (None, 0.05, 0.25))
    for none, some, more in zip(silent, little, usual, strict=True):
        assert none.p_elsewhere == 1.0
        assert more.p_elsewhere >= some.p_elsewhere >= some.p_adjusted
        assert none.p_adjusted == some.p_adjusted == more.p_adjusted
    single = compare_all(repeats(12, 2, 1), [("1", "0")], 0.25)[0]
    assert (single.scope, single.p_elsewhere) == (Scope.MODELS, 1.0)


def test_the_scope_of_a_verdict_is_the_widest_claim_that_it_holds_for() -> None:
    found = Difference(0.1, 0.02, 0.18, 0.01, 0.01, 0.04, 30, 0.03, 0.02, 3, 3, 41, 0.2)
    assert found.scope is Scope.HERE
    assert replace(found, p_elsewhere=0.03).scope is Scope.ELSEWHERE
    assert replace(found, seed_se=None, seeds=1).scope is Scope.MODELS


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("images", [41, 100])
def test_an_advantage_of_these_training_images_is_seldom_taken_for_one_of_the_methods(
    images: int,
) -> None:
    luck = statistics.Luck(training=0.02)
    found = simulated(images, statistics.Table(4, 5, luck), 300)
    assert found.elsewhere <= binomial_bound(300)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("images", [41, 100])
def test_rows_whose_seeds_differ_unequally_or_collapse_seldom_get_a_verdict_by_chance(
    images: int,
) -> None:
    lucks = [statistics.Luck((sd, 0.01)) for sd in (0.04, 0.08, 0.12)]
    lucks += [statistics.Luck(collapse=0.1), statistics.Luck(0.065), statistics.Luck(0.12)]
    tables = [statistics.Table(4, 5, luck) for luck in lucks]
    for found in statistics.simulated(images, tables, 300):
        assert found.verdicts <= binomial_bound(300)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("images", "rows", "epochs"), [(41, 4, 10), (20, 4, 10), (41, 1, 1)])
def test_intervals_of_a_row_alone_and_of_chosen_epochs_hold_the_truth(
    images: int, rows: int, epochs: int
) -> None:
    """Of chosen epochs' luck little is left beside that AP50 is too high on few images."""
    tables = [statistics.Table(rows, 3, statistics.Luck(0.02, epochs=e)) for e in (epochs, 1)]
    found, fixed = statistics.simulated(images, tables, 200)
    assert found.covered >= 0.92 - 2.33 * math.sqrt(0.92 * 0.08 / 200)
    assert abs(found.too_high - fixed.too_high) < 0.03
