"""Laws of the figures: each shows what was found, where it belongs, and is absent where there is
nothing to show.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from benchmarks.simulated_study import SAMPLED, SMALL, build, sampled_quality
from core.config import SETTINGS, setting_in_words
from core.svg import DrawnFigure, colour, draw_figure
from tune.ledger.records import State, TrialRecord
from tune.report.content import ReportContent, content_of
from tune.report.figures.curves import HIGHLIGHTED
from tune.report.figures.figure import figures_of
from tune.report.figures.history import history
from tune.report.figures.parallel import BEST_SHARE, MOST_AXES, _Coordinate, parallel
from tune.report.figures.scores import _scores_of
from tune.report.figures.settings import _draw_setting, effects
from tune.space.domains import Choices
from tune.statistics.certainty import Interval, Verdict
from tune.statistics.choice import Choice
from tune.statistics.effects import Effect, Turn
from tune.stopping.hope import BEST_PLACES, NO_HOPE
from tune.study.reading import read_study
from tune.tables import Kind, cell_text

VARIANTS = {
    **SMALL,
    "study": "variants",
    "fixed": {"model.weights": "none", "optim.epochs": 3},
    "variants": {
        "Res18": {"model.backbone": "resnet18"},
        "Res34": {"model.backbone": "resnet34"},
        "Restart": {"model.backbone": "resnet18", "optim.restarts": 1},
        "Broken": {"model.backbone": "resnet18", "optim.learning_rate": 1e-3},
    },
    "baseline": "Res18",
    "seeds": 3,
}
QUALITY = {"Res18": 0.5, "Res34": 0.5, "Restart": 0.4, "Broken": -2.0}
SEARCH = {
    **SAMPLED,
    "study": "search",
    "fixed": {"model.weights": "none", "optim.epochs": 4},
    "search": {"sampler": "random", "trials": 24},
    "stop_early": {"rule": "successive_halving", "min_epochs": 1, "reduction": 2},
    "confirm": {"top": 0},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportContent]:
    results = tmp_path_factory.mktemp("results")
    fates = {0: "diverged"}
    folders = [
        build(results, VARIANTS, lambda record: QUALITY[record.name]),
        build(results, SEARCH, sampled_quality, lambda record: fates.get(record.id, "")),
    ]
    return {
        folder.path.name: content_of(read_study(folder.path.name, folder.path.parent))
        for folder in folders
    }


@pytest.fixture(scope="module")
def drawn(found: dict[str, ReportContent]) -> dict[str, dict[str, DrawnFigure]]:
    return {name: figures(findings) for name, findings in found.items()}


def figures(findings: ReportContent) -> dict[str, DrawnFigure]:
    return {name: one for name, one in figures_of(findings).items() if isinstance(one, DrawnFigure)}


def texts(figure: DrawnFigure) -> list[str]:
    return [
        element.text or ""
        for element in ET.fromstring(figure.alone).iter()
        if element.tag.endswith("}text")
    ]


def lines(figure: DrawnFigure, width: str) -> list[tuple[float, float]]:
    """Left and right end of the horizontal lines of a width, top to bottom as they were drawn."""
    ends = []
    for element in ET.fromstring(figure.alone).iter():
        points = re.fullmatch(r"M (\S+) (\S+) L (\S+) (\S+)", element.attrib.get("d", ""))
        if (
            points
            and f"stroke-width: {width};" in element.attrib["style"] + ";"
            and points[2] == points[4]
        ):
            ends.append((float(points[1]), float(points[3])))
    return ends


def hollow(figure: DrawnFigure, shade: str) -> int:
    """How many points were drawn that are filled with the page's colour."""
    look = f"fill: {colour('paper')}; stroke: {colour(shade)}"
    uses = [
        element for element in ET.fromstring(figure.alone).iter() if element.tag.endswith("}use")
    ]
    return sum(look in element.attrib["style"] for element in uses)


@pytest.mark.parametrize("name", ["variants", "search"])
def test_intervals_are_drawn_to_scale(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]], name: str
) -> None:
    rows = found[name].rows
    intervals = [row.interval for row in rows if row.interval is not None]
    ends = lines(drawn[name]["scores"], "2")
    assert len(ends) == len(rows) == len(intervals)
    (left, right), first = ends[0], intervals[0]
    scale = (right - left) / (first.high - first.low)
    for (low, high), interval in zip(ends, intervals, strict=True):
        assert low == pytest.approx(left + scale * (interval.low - first.low), abs=0.05)
        assert high == pytest.approx(left + scale * (interval.high - first.low), abs=0.05)


def test_a_difference_has_its_verdict_in_words_beside_it(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]]
) -> None:
    compared = [row for row in found["variants"].rows if row.difference is not None]
    figure = drawn["variants"]["differences"]
    assert {row.verdict for row in compared} == {Verdict.WORSE, Verdict.CANNOT_TELL}
    said = [one for one in texts(figure) if one.startswith(("better", "worse", "cannot tell"))]
    assert said == [row.verdict + (" (confounded)" if row.confounds else "") for row in compared]
    assert len(lines(figure, "2")) == len(compared)
    smallest = found["variants"].smallest_difference.value
    assert smallest is not None
    assert cell_text(smallest, Kind.AP50) in figure.caption


def test_a_confounded_difference_is_marked(found: dict[str, ReportContent]) -> None:
    findings = found["variants"]
    rows = tuple(replace(row, confounds=("more differs",)) for row in findings.rows)
    figure = figures(replace(findings, rows=rows))["differences"]
    assert sum("(confounded)" in one for one in texts(figure)) == 3
    assert "no one cause" in figure.caption


@pytest.mark.parametrize("name", ["variants", "search"])
def test_the_best_curves_have_names_and_scores_and_the_others_are_a_backdrop(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]], name: str
) -> None:
    rows = sorted(found[name].rows, key=lambda row: -row.ap50)[:HIGHLIGHTED]
    for figure in (drawn[name]["ap50-curves"], drawn[name]["loss-curves"]):
        legend = [one for one in texts(figure) if re.search(r": 0\.\d{4}$", one)]
        assert legend == [f"{row.name}: {cell_text(row.ap50, Kind.AP50)}" for row in rows]
        grey = f"stroke: {colour('backdrop')}"
        backdrop = [
            element
            for element in ET.fromstring(figure.alone).iter()
            if grey in element.attrib.get("style", "")
            and "stroke-width: 0.9" in element.attrib["style"]
        ]
        others = sum(bool(trial.record.epochs) for trial in found[name].trials) - sum(
            len(row.trials) for row in rows
        )
        single = sum(len(trial.record.epochs) == 1 for trial in found[name].trials)
        assert others - single <= len(backdrop) <= others
        assert (f"{others} other trials" in figure.caption) == (others > 0)


def test_repeats_are_shown_as_bands_and_single_trainings_say_that_there_is_none(
    drawn: dict[str, dict[str, DrawnFigure]],
) -> None:
    assert (
        "bands reach from the lowest to the highest repeat"
        in drawn["variants"]["loss-curves"].caption
    )
    assert "one training with one seed" in drawn["search"]["loss-curves"].caption


def test_backbones_are_compared_where_nothing_else_differs(
    drawn: dict[str, dict[str, DrawnFigure]],
) -> None:
    shown = [one for one in texts(drawn["variants"]["backbones"]) if one.startswith("resnet")]
    assert shown == ["resnet18: Res18", "resnet34: Res34"]
    assert "nothing else" in drawn["variants"]["backbones"].caption


def test_the_caption_says_how_many_trials_ended_without_hope(
    found: dict[str, ReportContent],
) -> None:
    search = found["search"]
    stopped = [trial for trial in search.trials if trial.record.state is State.PRUNED]
    hopeless = [
        replace(one, record=replace(one.record, reason=f"at 3: {NO_HOPE}")) for one in stopped[:2]
    ]
    changed = replace(
        search, trials=(*(one for one in search.trials if one not in stopped[:2]), *hopeless)
    )
    drawn = figures(changed)["stopped"]
    assert f" {len(stopped)} stopped early (2 of them {NO_HOPE})" in drawn.caption
    assert f"unlikely to reach the best {BEST_PLACES} complete trials" in drawn.caption


def test_trials_that_were_stopped_early_are_hollow_and_are_counted(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]]
) -> None:
    states = Counter(trial.record.state for trial in found["search"].trials)
    assert states[State.PRUNED] > 5
    assert states[State.FAIL] == 1
    caption = drawn["search"]["stopped"].caption
    assert (
        f"{states[State.COMPLETE]} ran to the end, {states[State.PRUNED]} stopped early, 1 failed"
        in caption
    )
    assert (
        hollow(drawn["search"]["stopped"], "ochre") == states[State.PRUNED] + 1
    )  # and one in the legend
    settings = drawn["search"]["hyperparameters"]
    everywhere = [
        parameter.name
        for parameter in found["search"].request.space.parameters
        if not parameter.when
    ]
    conditional = sum(
        "optim.restart_multiplier" in trial.record.params
        for trial in found["search"].trials
        if trial.record.state is State.PRUNED
    )
    assert hollow(settings, "muted") == len(everywhere) * states[State.PRUNED] + conditional


def test_single_repeats_and_single_trials_are_drawn_on_the_scale_of_their_rows(
    found: dict[str, ReportContent],
) -> None:
    """Without the luck of their best epochs, like the mean and the interval beside them."""
    for row in found["variants"].rows:
        assert np.mean(_scores_of(found["variants"], row)) == pytest.approx(row.ap50)
    search = found["search"]
    complete = [trial for trial in search.trials if trial.record.state is State.COMPLETE]
    assert any(trial.honest < (trial.record.ap50 or 0.0) for trial in complete)
    one = next(one for one in search.request.space.parameters if not one.when)
    axes = Canvas().subplots()
    _draw_setting(axes, one.name, one.domain, complete, [])
    _, points = axes.get_lines()
    drawn = np.asarray(points.get_ydata(), dtype=np.float64).tolist()
    assert drawn == [trial.honest for trial in complete]
    for trial, height in zip(complete, drawn, strict=True):
        assert trial.interval is not None
        assert trial.interval.low <= height <= trial.interval.high


def test_an_interval_that_is_not_known_is_not_drawn_and_the_caption_says_so(
    found: dict[str, ReportContent],
) -> None:
    findings = found["variants"]
    rows = (replace(findings.rows[0], interval=None), *findings.rows[1:])
    by_name = figures(replace(findings, rows=rows))
    assert len(lines(by_name["scores"], "2")) == len(rows) - 1
    for name in ("scores", "ap50-curves"):
        assert f"No interval is known for {rows[0].name}" in by_name[name].caption


def test_a_figure_without_anything_to_show_is_absent(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]]
) -> None:
    assert set(drawn["variants"]) == {
        "differences",
        "scores",
        "ap50-curves",
        "loss-curves",
        "backbones",
        "classes",
        "limits",
    }
    assert "confirmation" not in drawn["search"]
    nothing = replace(found["search"], trials=(), rows=(), effects=(), best=None, limits=())
    assert figures(nothing) == {}


def test_the_history_rises_and_shows_what_the_confirmation_said_where_there_is_one(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]]
) -> None:
    search = found["search"]
    shown = drawn["search"]["history"]
    complete = [one for one in search.trials if one.record.state is State.COMPLETE]
    assert "best so far" in texts(shown)
    assert "on fresh seeds and splits" not in texts(shown)
    curves = {"candidate 1": (0.1, 0.3), "candidate 2": (0.2,)}
    choice = Choice("candidate 1", 2, 0.3, 0.02, Interval(0.28, 0.2, 0.3), curves)
    numbers = {name: one.record.id for name, one in zip(curves, complete, strict=False)}
    drawing = history(replace(search, choice=choice, candidates=numbers))
    assert drawing is not None
    confirmed = draw_figure("history", drawing)
    assert "on fresh seeds and splits" in texts(confirmed)
    assert "Squares: the same settings on fresh seeds" in confirmed.caption
    assert "history" not in drawn["variants"]


def test_parallel_coordinates_have_an_axis_for_each_setting_and_colour_the_best(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]]
) -> None:
    search, shown = found["search"], drawn["search"]["parallel"]
    complete = [one for one in search.trials if one.record.state is State.COMPLETE]
    assert len(complete) >= 4
    said = " ".join(texts(shown))
    varying = [
        one.name
        for one in search.request.space.parameters
        if len({trial.record.in_effect.get(one.name) for trial in complete} - {None}) > 1
    ]
    for name in varying[:MOST_AXES]:
        assert setting_in_words(name).split()[0] in said
    best = max(1, round(BEST_SHARE * len(complete)))
    assert f"the best {best} of {len(complete)}" in shown.caption
    assert parallel(replace(search, trials=tuple(complete[:3]))) is None


def test_a_choice_auto_has_a_place_of_its_own_whatever_number_stood_for_it() -> None:
    axis = _Coordinate.of_setting("model.image_min_side", Choices((256, "auto", 512)))
    settings = {**SETTINGS, "model.image_min_side": 300}
    trial = TrialRecord(0, params={"model.image_min_side": "auto"}, settings=settings)
    assert axis.place(trial) == 0.5
    assert axis.place(replace(trial, params={})) is None


def test_the_figure_of_classes_says_the_numbers_of_the_table_of_classes(
    found: dict[str, ReportContent], drawn: dict[str, dict[str, DrawnFigure]]
) -> None:
    for name in ("variants", "search"):
        table = next(one for one in found[name].tables if one.name == "classes")
        for row, cells in zip(table.rows, table.texts, strict=True):
            assert f"{row[0]} ({row[1]} images)" in texts(drawn[name]["classes"])
            assert cells[2].partition(" ")[0] in texts(drawn[name]["classes"])


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        ((False, False), "The effects are adjusted for the other settings."),
        ((False, True), "except for learning rate: not every trial has a value"),
        ((True, True), "The trials cannot tell all settings apart, so each is looked at by itself"),
    ],
)
def test_the_caption_of_effects_says_which_are_adjusted_and_where_a_number_is_best(
    found: dict[str, ReportContent], alone: tuple[bool, bool], said: str
) -> None:
    turn = Turn(8e-5, 6e-5, 1e-4, True, True, True)
    rate, elastic = "optim.learning_rate", "augment.elastic"
    content = replace(
        found["search"],
        effects=(
            Effect(elastic, "on instead of off", 0.1, 0.0, 0.2, 0.1, 0.1, 24, alone[0]),
            Effect(rate, "1e-5 instead of 8e-5", -0.1, -0.2, 0, 0.01, 0.02, 24, alone[1], turn),
        ),
    )
    drawing = effects(content)
    assert drawing is not None
    assert said in drawing.caption
    assert " Learning rate: best near 8e-05; lower and higher scored less." in drawing.caption
    assert ("adjusted for the other settings" in drawing.caption) == (not all(alone))
