"""What a space file may say, what it means, and the sentence that answers each mistake."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import SETTINGS, TrialConfig
from core.errors import CellTuneError, SettingError, SpaceError
from tune.request.file import from_document, load_request, with_overrides
from tune.request.request import Confirm, Resources, StopEarly, StudyRequest
from tune.space.domains import Choices, Domain, FloatRange, IntRange
from tune.study.going_on import study_facts

SPACES = sorted(Path("search_spaces").glob("*.yaml"))
HEAD = "study: s\ndata: synthetic\n"


def request_of(text: str, *overrides: str, tmp_path: Path, **named: Any) -> StudyRequest:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + text)
    return load_request(path, overrides, **named)


def domain_of(request: StudyRequest, name: str) -> Domain:
    return next(
        parameter.domain for parameter in request.space.parameters if parameter.name == name
    )


def outcome(read: Callable[[], StudyRequest]) -> StudyRequest | str:
    """The request, or the sentence that refuses it."""
    try:
        return read()
    except CellTuneError as error:
        return str(error)


def test_a_file_says_ranges_choices_and_conditions(tmp_path: Path) -> None:
    request = request_of(
        """
fixed: {optim.epochs: 20}
space:
  optim.restart_multiplier: {choices: [1, 2], when: {optim.restarts: [1, 3]}}
  optim.learning_rate: {low: 1e-5, high: 5e-4, log: true}
  optim.restarts: [0, 1, 3]
  optim.batch_size: {low: 2, high: 8, step: 2}
start: [{optim.learning_rate: 5e-5}]
search: {trials: 12}
""",
        tmp_path=tmp_path,
    )
    assert [parameter.name for parameter in request.space.parameters] == [
        "optim.learning_rate",
        "optim.restarts",
        "optim.restart_multiplier",
        "optim.batch_size",
    ]
    assert domain_of(request, "optim.learning_rate") == FloatRange(1e-5, 5e-4, log=True)
    assert domain_of(request, "optim.restarts") == Choices((0, 1, 3))
    assert domain_of(request, "optim.batch_size") == IntRange(2, 8, step=2)
    assert request.space.parameters[2].when == {"optim.restarts": (1, 3)}
    assert request.space.start == ({"optim.learning_rate": 5e-5},)
    assert request.planned_trials == 12
    assert request.max_epochs == 20


def test_numbers_that_yaml_takes_for_texts_are_numbers_of_the_setting_s_own_type(
    tmp_path: Path,
) -> None:
    request = request_of(
        "space: {optim.learning_rate: [1e-5, 5e-5], optim.restart_multiplier: [1, 2]}",
        tmp_path=tmp_path,
    )
    values = [value for parameter in request.space.parameters for value in parameter.domain.corners]
    assert values == [1e-5, 5e-5, 1.0, 2.0]
    assert {type(value) for value in values} == {float}


def test_settings_on_the_command_line_win_over_all_others(tmp_path: Path) -> None:
    text = (
        "fixed: {optim.epochs: 9, optim.batch_size: 4}\nspace: {optim.restarts: [0, 1],"
        " model.trainable_layers: [0, 1]}"
    )
    request = request_of(text, "optim.epochs=3", "optim.restarts=1", tmp_path=tmp_path)
    config = request.space.resolve(request.space.sample(lambda _, domain: domain.corners[0]))
    assert (config.optim.epochs, config.optim.batch_size, config.optim.restarts) == (3, 4, 1)
    assert [parameter.name for parameter in request.space.parameters] == ["model.trainable_layers"]


def test_a_variant_wins_over_what_is_fixed_and_the_command_line_over_both(tmp_path: Path) -> None:
    text = "fixed: {optim.batch_size: 4}\nvariants: {A: {optim.batch_size: 8}, B: {}}"
    assert [
        row.config.optim.batch_size for row in request_of(text, tmp_path=tmp_path).space.rows()
    ] == [8, 4]
    request = request_of(text, "optim.batch_size=1", tmp_path=tmp_path)
    assert [row.config.optim.batch_size for row in request.space.rows()] == [1, 1]
    assert (
        "variants 'A' and 'B' are the same configuration in effect, and differ by chance alone"
        in request.notes
    )


CONDITIONAL = """
space:
  optim.restarts: [0, 1, 3]
  optim.restart_multiplier: {choices: [1, 2], when: {optim.restarts: [1, 3]}}
  model.trainable_layers: [0, 1]
start:
  - {optim.restarts: 3, optim.restart_multiplier: 2, model.trainable_layers: 1}
  - {optim.restarts: 0, model.trainable_layers: 1}
  - {optim.restarts: 1}
"""


def test_a_condition_on_a_setting_fixed_on_the_command_line_is_decided_by_it(
    tmp_path: Path,
) -> None:
    without = request_of(CONDITIONAL, "optim.restarts=0", tmp_path=tmp_path)
    assert without.space.grid() == [{"model.trainable_layers": 0}, {"model.trainable_layers": 1}]
    assert without.space.start == ({"model.trainable_layers": 1},)
    never = (
        "optim.restart_multiplier is never searched: it needs that optim.restarts is one of 1, 3"
    )
    assert never in without.notes
    always = request_of(CONDITIONAL, "optim.restarts=3", tmp_path=tmp_path)
    assert always.space.size == 4
    assert always.space.start == (
        {"optim.restart_multiplier": 2.0, "model.trainable_layers": 1},
        {"model.trainable_layers": 1},
    )


def test_a_condition_may_name_a_setting_that_is_not_searched(tmp_path: Path) -> None:
    text = """
space:
  model.trainable_layers: [0, 1]
  augment.elastic_alpha: {choices: [20, 60], when: {augment.elastic: true}}
"""
    assert request_of(text, tmp_path=tmp_path).space.size == 2
    assert request_of(text, "augment.elastic=true", tmp_path=tmp_path).space.size == 4


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("search.trials=7", lambda request: request.search.trials == 7),
        ("search.sampler=random", lambda request: request.search.sampler == "random"),
        ("stop_early.rule=none", lambda request: request.stop_early == StopEarly(rule="none")),
        ("confirm.top=0", lambda request: request.confirm == Confirm(top=0)),
        (
            "resources.gpus_per_trial=0.5",
            lambda request: request.resources == Resources(gpus_per_trial=0.5),
        ),
        ("resources.gpus_per_trial=auto", lambda request: request.resources == Resources()),
        ("resources.cpus_per_trial=2", lambda request: request.resources.cpus_per_trial == 2),
        ("model.weights=none", lambda request: request.space.fixed["model.weights"] == "none"),
        (
            "optim.weight_decay=1e-3",
            lambda request: request.space.fixed["optim.weight_decay"] == 1e-3,
        ),
        (
            "data.group_pattern=[a-z]+_(x)",
            lambda request: request.space.fixed["data.group_pattern"] == "[a-z]+_(x)",
        ),
        (
            "data.group_pattern='(a|b)'",
            lambda request: request.space.fixed["data.group_pattern"] == "(a|b)",
        ),
        ("data.group_pattern=", lambda request: request.space.fixed["data.group_pattern"] == ""),
    ],
)
def test_the_command_line_reaches_settings_and_options(
    override: str, read: Any, tmp_path: Path
) -> None:
    assert read(request_of("space: {optim.restarts: [0, 1]}", override, tmp_path=tmp_path))


def test_the_last_of_two_equal_overrides_wins_and_named_options_win_over_the_file(
    tmp_path: Path,
) -> None:
    text = "space: {optim.restarts: [0, 1]}\nsearch: {trials: 4}"
    overrides = ("optim.epochs=2", "optim.epochs=3")
    request = request_of(
        text, *overrides, tmp_path=tmp_path, data="elsewhere", study="other", trials=9
    )
    assert (request.data, request.study, request.planned_trials, request.max_epochs) == (
        "elsewhere",
        "other",
        9,
        3,
    )


def test_variants_are_neither_stopped_early_nor_confirmed_unless_asked(tmp_path: Path) -> None:
    text = "variants: {A: {}, B: {augment.affine: true}}\n"
    request = request_of(text, tmp_path=tmp_path)
    assert (request.stop_early.rule, request.confirm.top) == ("none", 0)
    asked = request_of(
        text + "stop_early: {rule: successive_halving, min_epochs: 5}", tmp_path=tmp_path
    )
    assert asked.stop_early == StopEarly(rule="successive_halving", min_epochs=5)
    assert (
        request_of("space: {optim.restarts: [0, 1]}", tmp_path=tmp_path).stop_early.rule
        == "successive_halving"
    )


def test_a_grid_study_has_as_many_trials_as_points(tmp_path: Path) -> None:
    request = request_of(CONDITIONAL + "search: {sampler: grid}", tmp_path=tmp_path)
    assert request.planned_trials == len(request.space.grid()) == 10
    with pytest.raises(
        SpaceError,
        match=re.escape("--trials: trials must be greater than or equal to 1, and is 0."),
    ):
        request_of(ONE, tmp_path=tmp_path, trials=0)
    with pytest.raises(
        SpaceError, match=r"--trials .* the grid in this file has 10 trials\. Leave it out\."
    ):
        request_of(CONDITIONAL + "search: {sampler: grid}", tmp_path=tmp_path, trials=3)


ONE = "space: {optim.restarts: [0, 1]}\n"
TWO = "variants: {A: {}, B: {augment.affine: true}}\n"

# The file, what --set says, and the sentence: each names the place, the rule, the value received
# and a way out.
MISTAKES = {
    "a setting at the top": (
        ONE + "optim.lr: 1e-3",
        [],
        "'optim.lr' is not a key of a space file. Did you mean 'optim.learning_rate'?",
    ),
    "an option at the top": (
        ONE + "trials: 3",
        [],
        "'trials' is not a key of a space file. Did you mean 'search.trials'?",
    ),
    "an abbreviation": (
        "space: {lr: {low: 1e-5, high: 1e-3}}",
        [],
        "s.yaml, space: 'lr' is not a trial setting. Did you mean 'optim.learning_rate'?",
    ),
    "an abbreviation in --set": (
        ONE,
        ["optim.lr=1e-3"],
        "'optim.lr' is not a trial setting. Did you mean 'optim.learning_rate'?",
    ),
    "a section that is misspelt in --set": (
        ONE,
        ["serch.trials=3"],
        "'serch.trials' is not a trial setting. Did you mean 'search.trials'?",
    ),
    "a word of several": (
        ONE + "search: {sampler: tpee}",
        [],
        "and is 'tpee'. Did you mean 'tpe'?",
    ),
    "a setting's word of several": (
        ONE + "fixed: {model.backbone: resnet5}",
        [],
        "and is 'resnet5'. Did you mean 'resnet50'?",
    ),
    "unknown section": (
        ONE + "fixd: {}",
        [],
        "s.yaml: 'fixd' is not a key of a space file. Did you mean 'fixed'?",
    ),
    "setting at the top": (
        ONE + "optim.epochs: 3",
        [],
        "'optim.epochs' is a trial setting and belongs under `fixed:`",
    ),
    "unknown setting": (
        "space: {optim.learnig_rate: [1, 2]}",
        [],
        (
            "s.yaml, space: 'optim.learnig_rate' is not a trial setting. Did you mean"
            " 'optim.learning_rate'?"
        ),
    ),
    "unknown fixed setting": (
        ONE + "fixed: {epochs: 3}",
        [],
        "s.yaml, fixed: 'epochs' is not a trial setting. Did you",
    ),
    "setting that is a number": (
        ONE + "fixed: {3: 3}",
        [],
        "s.yaml, fixed: 3 is not a trial setting.",
    ),
    "unknown option": (
        ONE + "search: {trails: 3}",
        [],
        "s.yaml, search: 'trails' is not an option. Did you mean 'trials'?",
    ),
    "unknown option of a range": (
        "space: {optim.learning_rate: {low: 1e-5, hihg: 1}}",
        [],
        (
            "s.yaml, space, optim.learning_rate: 'hihg' is not an option of a setting. Did you mean"
            " 'high'?"
        ),
    ),
    "choice out of range": (
        "space: {model.trainable_layers: [0, 6]}",
        [],
        "s.yaml, space: model.trainable_layers must be less than or equal to 5, and is 6.",
    ),
    "end out of range": (
        "space: {optim.learning_rate: {low: 1e-5, high: 2}}",
        [],
        (
            "s.yaml, space, optim.learning_rate, high: optim.learning_rate must be less than or"
            " equal to 1, and is 2."
        ),
    ),
    "fixed out of range": (
        ONE + "fixed: {optim.epochs: 0}",
        [],
        "optim.epochs must be greater than or equal to 1, and is 0",
    ),
    "unknown backbone": (
        "space: {model.backbone: [resnet50, vgg]}",
        [],
        (
            "s.yaml, space: model.backbone must be 'resnet18', 'resnet34', 'resnet50', 'resnet101'"
            ", 'resnext50_32x4d', 'mobilenet_v3_large', 'convnext_tiny', 'convnext_small', 'swin_t'"
            " or 'swin_s', and is 'vgg'."
        ),
    ),
    "truth for a number": (
        ONE + "fixed: {optim.epochs: true}",
        [],
        "optim.epochs must be a number, not true or false",
    ),
    "list for a value": (
        ONE + "fixed: {optim.epochs: [1, 2]}",
        [],
        "must be one value, and is [1, 2]. Ranges go under",
    ),
    "date for a value": (
        ONE + "fixed: {model.weights: 2020-01-01}",
        [],
        "model.weights must be one number, text or truth",
    ),
    "infinite": (
        ONE + "fixed: {optim.weight_decay: .inf}",
        [],
        "optim.weight_decay must be a finite number, and is inf.",
    ),
    "huge": (
        ONE + f"fixed: {{seed: {10**40}}}",
        [],
        "seed must be a number of at most 64 bits, and has 133.",
    ),
    "long text": (
        ONE + f"fixed: {{model.weights: {'x' * 2000}}}",
        [],
        "must be a text of at most 1000 printable characters",
    ),
    "surrogate": (
        ONE + 'fixed: {model.weights: "a\\ud800"}',
        [],
        "printable characters, and is 'a\\ud800'.",
    ),
    "nothing to search": (
        "fixed: {}",
        [],
        "s.yaml: says nothing to search. Add `space:` with ranges or `variants:`",
    ),
    "empty space": (
        "space: {}",
        [],
        "s.yaml: `space:` is empty, nothing is left to search. Search at least one",
    ),
    "commented-out space": ("space:", [], "s.yaml: `space:` is empty, nothing is left to search."),
    "space emptied": (
        ONE,
        ["optim.restarts=1"],
        "nothing is left to search (--set fixes optim.restarts).",
    ),
    "empty choices": (
        "space: {optim.restarts: []}",
        [],
        "optim.restarts must have at least one choice, and its list is",
    ),
    "empty variants": ("variants:", [], "s.yaml: `variants:` is empty. Name at least one row"),
    "both": (ONE + TWO, [], "s.yaml: a study has `space:` or `variants:`, and this has both."),
    "duplicate choices": (
        "space: {optim.learning_rate: [1e-3, 0.001]}",
        [],
        "s.yaml, space: optim.learning_rate must have different choices, and 0.001 is there twice.",
    ),
    "single value": (
        "space: {optim.restarts: 1}",
        [],
        "and is 1. A single value belongs under `fixed:`.",
    ),
    "fixed and searched": (
        ONE + "fixed: {optim.restarts: 1}",
        [],
        "s.yaml, space: 'optim.restarts' is under `fixed:` too.",
    ),
    "low over high": (
        "space: {optim.learning_rate: {low: 1e-3, high: 1e-4}}",
        [],
        (
            "s.yaml, space: optim.learning_rate must have low under high, and has low 0.001 and"
            " high 0.0001."
        ),
    ),
    "low equals high": ("space: {optim.epochs: {low: 3, high: 3}}", [], "must have low under high"),
    "log from zero": (
        "space: {optim.weight_decay: {low: 0, high: 1, log: true}}",
        [],
        "optim.weight_decay must have low above 0 where log is true, and has low 0.0.",
    ),
    "log that is no truth": (
        "space: {optim.epochs: {low: 1, high: 3, log: 7}}",
        [],
        "`log: true` or `log: false`, and has 7",
    ),
    "log and step": (
        "space: {optim.epochs: {low: 1, high: 3, log: true, step: 2}}",
        [],
        "must have `log` or `step`",
    ),
    "no high": (
        "space: {optim.epochs: {low: 1}}",
        [],
        "must have both `low` and `high`, or `choices`, and has no `high`.",
    ),
    "range and choices": (
        "space: {optim.epochs: {low: 1, choices: [2]}}",
        [],
        "must be `choices: [...]` or a range",
    ),
    "range of words": (
        "space: {model.backbone: {low: 1, high: 2}}",
        [],
        "model.backbone is no number and must be a list",
    ),
    "range of truths": (
        "space: {augment.affine: {low: 0, high: 1}}",
        [],
        "augment.affine is no number and must be a list",
    ),
    "fraction of an int": (
        "space: {optim.epochs: {low: 1, high: 2.5}}",
        [],
        "optim.epochs must be a valid integer",
    ),
    "step does not fit": (
        "space: {augment.rotate: {low: 0, high: 10, step: 3}}",
        [],
        "step 3.0 does not lead from 0.0 to 10.0. The last step under it is 9.",
    ),
    "step zero": (
        "space: {optim.epochs: {low: 1, high: 5, step: 0}}",
        [],
        "must have a step that is a whole number above 0",
    ),
    "tiny step": (
        "space: {augment.rotate: {low: 0, high: 1, step: 1e-300}}",
        [],
        "must have at most 1,000,000 steps",
    ),
    "searched seed": (
        "space: {seed: [0, 1]}",
        [],
        "s.yaml, space: 'seed' must be the same for all trials, which share",
    ),
    "searched split": (
        "space: {data.split_seed: [0, 1]}",
        [],
        "'data.split_seed' must be the same for all trials",
    ),
    "searched fold": (
        "space: {data.fold: [0, 1]}",
        [],
        "'data.fold' must be the same for all trials",
    ),
    "searched metric": (
        "space: {metric.max_dets: [10, 100]}",
        [],
        "'metric.max_dets' must be the same for all trials",
    ),
    "a precision that depends on the machine among the choices": (
        "space: {optim.precision: [auto, fp32]}",
        [],
        "s.yaml, space: optim.precision must have choices that are the same on every machine, fp32,"
        " bf16 and fp16, and auto is among them. It may stand under `fixed:`.",
    ),
    "a precision that depends on the machine as a condition": (
        "space: {optim.restarts: {choices: [0, 1], when: {optim.precision: auto}}}",
        [],
        "s.yaml, space, optim.restarts, when: optim.precision must have choices that are the same",
    ),
    "folds in a search": (
        ONE + "fixed: {data.folds: 5}",
        [],
        "s.yaml: data.folds must be 0 in a search, whose trials share one split, and is 5.",
    ),
    "folds in a search by override": (ONE, ["data.folds=5"], "data.folds must be 0 in a search"),
    "coco for another backbone": (
        (
            "space: {model.backbone: [resnet50, resnet101], model.weights: [coco, imagenet],"
            " optim.restarts: [0, 1]}"
        ),
        [],
        (
            "s.yaml: model.weights: coco exists for resnet50 only, and model.backbone is resnet101;"
            " use imagenet or auto (the combination model.backbone=resnet101, model.weights=coco)."
            " Take a value out, or tie"
        ),
    ),
    "fixed coco for another backbone": (
        "fixed: {model.weights: coco}\nspace: {model.backbone: [resnet50, resnet101]}",
        [],
        "(the combination model.backbone=resnet101)",
    ),
    "fixed that exclude each other": (
        ONE + "fixed: {optim.warmup_epochs: 60}",
        [],
        "s.yaml: optim.warmup_epochs must be under optim.epochs (50), and is 60",
    ),
    "ends that exclude each other": (
        "space: {model.image_min_side: {low: 500, high: 1500}, optim.restarts: [0, 1]}",
        [],
        (
            "model.image_min_side must not exceed model.image_max_side (1333), and is 1500 (the"
            " combination model.image_min_side=1500)"
        ),
    ),
    "condition on itself": (
        "space: {optim.restarts: {choices: [0, 1], when: {optim.restarts: [1]}}}",
        [],
        "s.yaml, space, optim.restarts, when: must name other settings, and names its own.",
    ),
    "condition on nothing known": (
        "space: {optim.restarts: {choices: [0, 1], when: {optim.epoch: [1]}}}",
        [],
        (
            "s.yaml, space, optim.restarts, when: 'optim.epoch' is not a trial setting. Did you"
            " mean 'optim.epochs'?"
        ),
    ),
    "condition that cannot be": (
        (
            "space: {optim.restarts: [0, 1], optim.restart_multiplier: {choices: [1, 2], when:"
            " {optim.restarts: [2]}}}"
        ),
        [],
        "when: optim.restarts must have values that it can take, and 2 is not in its space.",
    ),
    "condition out of range": (
        (
            "space: {optim.restarts: [0, 1], optim.restart_multiplier: {choices: [1, 2], when:"
            " {optim.restarts: -1}}}"
        ),
        [],
        "when: optim.restarts must be greater than or equal to 0, and is -1.",
    ),
    "circle": (
        (
            "space: {augment.affine: {choices: [false, true], when: {augment.elastic: true}}, "
            "augment.elastic: {choices: [false, true], when: {augment.affine: true}}}"
        ),
        [],
        "`when` must not go round in a circle, and does: augment.affine, augment.elastic.",
    ),
    "never active": (
        "space: {optim.restart_multiplier: {choices: [1, 2], when: {optim.restarts: 1}}}",
        [],
        (
            "nothing is left to search (optim.restart_multiplier only where optim.restarts is one"
            " of 1)."
        ),
    ),
    "nothing with an effect": (
        "space: {augment.brightness: {low: 0.1, high: 0.5}}",
        [],
        (
            "s.yaml, space: nothing that is searched can have an effect, so all trials would be one"
            " configuration (augment.brightness needs augment.color_jitter true). Search that as"
            " well, or put it under `fixed:`."
        ),
    ),
    "nothing with an effect any more": (
        "space: {augment.brightness: {low: 0.1, high: 0.5}, augment.color_jitter: [false, true]}",
        ["augment.color_jitter=false"],
        "nothing that is searched can have an effect",
    ),
    "start outside": (
        ONE + "start: [{optim.restarts: 2}]",
        [],
        "s.yaml, start 1: optim.restarts must be in its space, and",
    ),
    "start not searched": (
        ONE + "start: [{optim.epochs: 2}]",
        [],
        "s.yaml, start 1: 'optim.epochs' is not searched.",
    ),
    "start unknown": (
        ONE + "start: [{optim.epoch: 2}]",
        [],
        "s.yaml, start 1: 'optim.epoch' is not a trial setting.",
    ),
    "start empty": (ONE + "start: [{}]", [], "s.yaml, start 1: must name at least one setting"),
    "start no list": (
        ONE + "start: {optim.restarts: 1}",
        [],
        "s.yaml, start: must be a list of points",
    ),
    "start inactive": (
        CONDITIONAL + "  - {optim.restarts: 0, optim.restart_multiplier: 2}",
        [],
        (
            "s.yaml, start 4: optim.restart_multiplier is searched only where optim.restarts is"
            " one of 1, 3. Leave it out."
        ),
    ),
    "start without its parent": (
        CONDITIONAL + "  - {optim.restart_multiplier: 2}",
        [],
        "is searched only where optim.restarts is one of 1, 3. Give optim.restarts too.",
    ),
    "start of variants": (
        TWO + "start: [{}]",
        [],
        "s.yaml: `start:` belongs to a `space:`, and this study has variants.",
    ),
    "seeds of a search": (
        ONE + "seeds: 3",
        [],
        "s.yaml: `baseline:`, `compare:` and `seeds:` belong to `variants:`.",
    ),
    "compare in a search": (
        ONE + "compare: {A: B}",
        [],
        "`compare:` and `seeds:` belong to `variants:`.",
    ),
    "compare no mapping": (
        TWO + "compare: A",
        [],
        "s.yaml, compare: must be a mapping of variants with their count",
    ),
    "compare a stranger": (
        TWO + "compare: {A: Bb}",
        [],
        "s.yaml, compare: must name variants, and 'Bb' is none. Did you mean 'B'?",
    ),
    "compare of a stranger": (
        TWO + "compare: {3: A}",
        [],
        "s.yaml, compare: must name variants, and 3 is none.",
    ),
    "compare with a list": (
        TWO + "compare: {A: [B]}",
        [],
        "s.yaml, compare: must name variants, and ['B'] is none.",
    ),
    "compare with itself": (
        TWO + "compare: {B: B}",
        [],
        "s.yaml, compare: a variant must be compared with another one, and 'B' is with itself.",
    ),
    "baseline": (
        TWO + "baseline: C",
        [],
        "s.yaml: `baseline:` must name a variant, and is 'C'. There are A, B.",
    ),
    "seeds zero": (
        TWO + "seeds: 0",
        [],
        "s.yaml: `seeds:` must be a whole number from 1 to 1000, and is 0.",
    ),
    "fixed seed of variants": (
        TWO + "fixed: {seed: 3}",
        [],
        "s.yaml: 'seed' cannot be fixed in a study of variants",
    ),
    "seed of one variant": (
        "variants: {A: {seed: 3}}",
        [],
        "s.yaml, variants, 'A': 'seed' must be the same for all trials",
    ),
    "variant out of range": (
        "variants: {A: {optim.epochs: 0}}",
        [],
        "s.yaml, variants, 'A': optim.epochs must be greater",
    ),
    "variant with a range": (
        "variants: {A: {optim.epochs: {low: 1, high: 2}}}",
        [],
        "optim.epochs must be one value, and is",
    ),
    "variant that excludes itself": (
        "fixed: {model.backbone: resnet101}\nvariants: {A: {}, B: {model.weights: coco}}",
        [],
        "s.yaml, variants, 'B': model.weights: coco exists for resnet50 only",
    ),
    "variant without a name": (
        "variants: {'': {}}",
        [],
        "s.yaml, variants, '': a variant's name must be a text of 1 to",
    ),
    "variant that is a list": (
        "variants: {A: [1]}",
        [],
        "s.yaml, variants, 'A': must be a mapping of settings, and is [1].",
    ),
    "too many trials": (
        TWO + "fixed: {data.folds: 100}\nseeds: 1000",
        [],
        "a study has at most 10000 trials, and the list of variants in this file has 200000.",
    ),
    "too large a grid": (
        (
            "space: {optim.epochs: {low: 1, high: 10000}, optim.restarts: [0, 1]}\nsearch:"
            " {sampler: grid}"
        ),
        [],
        "a study has at most 10000 trials, and the grid in this file has 20000.",
    ),
    "continuous grid": (
        "space: {optim.learning_rate: {low: 1e-5, high: 1e-3}}\nsearch: {sampler: grid}",
        [],
        (
            "s.yaml, space: optim.learning_rate: a grid needs a `step` or choices in place of a"
            " continuous range"
        ),
    ),
    "sampler": (
        ONE + "search: {sampler: bayes}",
        [],
        "s.yaml, search: sampler must be 'gp', 'tpe', 'random' or 'grid', and is 'bayes'.",
    ),
    "trials": (
        ONE + "search: {trials: 0}",
        [],
        "s.yaml, search: trials must be greater than or equal to 1, and is 0.",
    ),
    "rule": (
        ONE + "stop_early: {rule: asha}",
        [],
        "s.yaml, stop_early: rule must be 'successive_halving' or 'none', and",
    ),
    "reduction": (
        ONE + "stop_early: {reduction: 1}",
        [],
        "s.yaml, stop_early: reduction must be greater than or equal to 2",
    ),
    "min_epochs": (
        ONE + "stop_early: {min_epochs: 0}",
        [],
        "min_epochs must be greater than or equal to 1, and is 0.",
    ),
    "confirm folds": (
        ONE + "confirm: {folds: 1}",
        [],
        "s.yaml, confirm: folds must be 0 (hold-out) or at least 2, and is 1.",
    ),
    "confirm top": (
        ONE + "confirm: {top: -1}",
        [],
        "s.yaml, confirm: top must be greater than or equal to 0, and is -1.",
    ),
    "gpus": (
        ONE + "resources: {gpus_per_trial: many}",
        [],
        "gpus_per_trial must be a valid number or be 'auto', and is 'many'.",
    ),
    "parts of two gpus": (
        ONE + "resources: {gpus_per_trial: 1.5}",
        [],
        "gpus_per_trial must be at most 1, since a trial trains on one GPU, and is 1.5; take 1",
    ),
    "two gpus": (
        ONE + "resources: {gpus_per_trial: 2}",
        [],
        "since a trial trains on one GPU, and is 2; take 1",
    ),
    "two gpus set": (
        ONE,
        ["resources.gpus_per_trial=2"],
        "since a trial trains on one GPU, and is 2; take 1",
    ),
    "cpus": (
        ONE + "resources: {cpus_per_trial: 0}",
        [],
        "s.yaml, resources: cpus_per_trial must be greater than or equal",
    ),
    "truth for an option": (
        ONE + "search: {trials: yes}",
        [],
        "s.yaml, search: trials must not be true or false",
    ),
    "section of another kind": (
        ONE + "search: 3",
        [],
        "s.yaml, search: must be a mapping of names and values, and is 3.",
    ),
    "key twice": (
        ONE + "fixed: {optim.epochs: 3, optim.epochs: 4}",
        [],
        (
            "s.yaml, line 4: must be YAML that can be read (the key 'optim.epochs' is there twice;"
            " keep one)."
        ),
    ),
    "section twice": (
        ONE + ONE,
        [],
        "s.yaml, line 4: must be YAML that can be read (the key 'space' is there twice; keep one).",
    ),
    "no yaml": (ONE + "fixed: {", [], "s.yaml, line 4: must be YAML that can be read (expected"),
    "python in yaml": (
        ONE + "fixed: !!python/object:os.system {}",
        [],
        "could not determine a constructor for the tag",
    ),
    "bad date": (
        ONE + "fixed: {model.weights: 2020-99-99}",
        [],
        "must be YAML that can be read, and a value in it is not",
    ),
    "control character": (
        ONE + "fixed: {model.weights: \x07}",
        [],
        "s.yaml: must be YAML that can be read (unacceptable character",
    ),
    "two documents": (
        ONE + "---\n" + ONE,
        [],
        "must be YAML that can be read (found another document).",
    ),
    "deep": (ONE + "fixed: " + "[" * 5000, [], "s.yaml: values must not be nested deeply"),
    "pattern": (
        ONE + "fixed: {data.group_pattern: abc}",
        [],
        "data.group_pattern needs a group in parentheses",
    ),
    "large repetition": (
        ONE + f"fixed: {{data.group_pattern: '(a{{{10**12}}})'}}",
        [],
        (
            "s.yaml: data.group_pattern must be a regular expression, and is '(a{1000000000000})'"
            " (the repetition number"
        ),
    ),
    "number in sixties that is too large": (
        ONE + f"fixed: {{seed: {'1:' * 200}1.5}}",
        [],
        "s.yaml: a number is too large (int too large",
    ),
    "no equals": (
        ONE,
        ["optim.epochs"],
        "--set 'optim.epochs': must be KEY=VALUE, such as optim.epochs=5.",
    ),
    "no key": (ONE, ["=5"], "--set '=5': must be KEY=VALUE"),
    "unknown override": (
        ONE,
        ["optim.epoch=5"],
        "--set 'optim.epoch=5': 'optim.epoch' is not a trial setting. Did you mean",
    ),
    "override out of range": (
        ONE,
        ["optim.epochs=0"],
        "--set 'optim.epochs=0': optim.epochs must be greater than or equal",
    ),
    "override with a list": (
        ONE,
        ["optim.epochs=[1, 2]"],
        "optim.epochs must be one number, text or truth value, and is [1",
    ),
    "override of no option": (
        ONE,
        ["search.trails=5"],
        "--set 'search.trails=5': 'trails' is not an option. Did you mean",
    ),
    "override of an option out of range": (
        ONE,
        ["confirm.top=-1"],
        "--set 'confirm.top=-1': top must be greater than or",
    ),
    "override that is no yaml": (
        ONE,
        ["optim.epochs={"],
        "--set 'optim.epochs={', line 1: must be YAML",
    ),
    "training after training": (
        ONE + "after_training: {optim.epochs: [5, 9]}",
        [],
        (
            "s.yaml, after_training: 'optim.epochs' must be a `predict.` setting, which no training"
            " depends on, and is"
        ),
    ),
    "metric after training": (
        ONE + "after_training: {metric.max_dets: [100]}",
        [],
        "'metric.max_dets' must be a `predict.`",
    ),
    "unknown after training": (
        ONE + "after_training: {predict.flip: [true]}",
        [],
        (
            "s.yaml, after_training: 'predict.flip' is not a trial setting. Did you mean"
            " 'predict.flips'?"
        ),
    ),
    "after training no mapping": (
        ONE + "after_training: [predict.flips]",
        [],
        (
            "s.yaml, after_training: must be a mapping of settings with their values, and is"
            " ['predict.flips']."
        ),
    ),
    "after training one value": (
        ONE + "after_training: {predict.flips: true}",
        [],
        (
            "s.yaml, after_training: predict.flips must be a list of values, and is True. A single"
            " value belongs under"
        ),
    ),
    "after training a range": (
        ONE + "after_training: {predict.tile: {low: 0, high: 512}}",
        [],
        "s.yaml, after_training: predict.tile must be a list of values, and is {",
    ),
    "after training no value": (
        ONE + "after_training: {predict.tile: []}",
        [],
        (
            "s.yaml, after_training: predict.tile must have at least one choice, and its list is"
            " empty."
        ),
    ),
    "after training twice": (
        ONE + "after_training: {predict.score_threshold: [0.05, 5e-2]}",
        [],
        (
            "s.yaml, after_training: predict.score_threshold must have different choices, and 0.05"
            " is there twice."
        ),
    ),
    "after training out of range": (
        ONE + "after_training: {predict.nms_iou: [0.5, 1.5]}",
        [],
        "s.yaml, after_training: predict.nms_iou must be less than or equal to 1, and is 1.5.",
    ),
    "after training no configuration": (
        ONE + "after_training: {predict.tile: [0, 16]}",
        [],
        "s.yaml, after_training: predict.tile must be 0 or at least 32 pixels, and is 16",
    ),
    "after training and fixed": (
        ONE + "fixed: {predict.flips: true}\nafter_training: {predict.flips: [false, true]}",
        [],
        "s.yaml, after_training: 'predict.flips' is under `fixed:` too. Keep it in one of the two.",
    ),
    "after training and searched": (
        "space: {predict.flips: [false, true]}\nafter_training: {predict.flips: [false, true]}",
        [],
        "s.yaml, after_training: 'predict.flips' is under `space:` too.",
    ),
    "after training and start": (
        ONE + "start: [{optim.restarts: 0}, {predict.flips: true}]\nafter_training: {predict.flips:"
        " [false, true]}",
        [],
        "s.yaml, after_training: 'predict.flips' is under `start:` too.",
    ),
    "after training and variants": (
        (
            "variants: {A: {}, B: {predict.flips: true}}\nafter_training: {predict.flips: [false,"
            " true]}"
        ),
        [],
        "s.yaml, after_training: 'predict.flips' is under `variants:` too.",
    ),
    "after training too many": (
        ONE + "after_training: {predict.flips: [false, true], "
        f"predict.max_detections: [{', '.join(str(most) for most in range(1, 52))}]}}",
        [],
        (
            "s.yaml, after_training: must make at most 100 combinations, each of which predicts all"
            " validation images once more, and makes 102. Take values out."
        ),
    ),
    "trials of variants": (
        TWO,
        ["search.trials=5"],
        "--trials (search.trials) is for samplers that draw; the list of variants",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("text", "overrides", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_by_one_sentence_that_names_it(
    text: str, overrides: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises((SpaceError, SettingError)) as caught:
        request_of(text, *overrides, tmp_path=tmp_path)
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith((str(tmp_path / "s.yaml"), "--set "))


@pytest.mark.parametrize(
    ("head", "named", "sentence"),
    [
        (
            "data: synthetic\n",
            {},
            (
                "`study:` must be 1 to 64 letters, digits, - and _, the first a letter or digit,"
                " and is None"
            ),
        ),
        ("study: ../up\ndata: synthetic\n", {}, "and is '../up'. --study NAME gives one too."),
        ("study: s\ndata: synthetic\n", {"study": "-s"}, "and is '-s'."),
        (
            "study: s\n",
            {},
            "`data:` must be a folder or `synthetic`, and is None. --data DIR gives one too.",
        ),
        ("study: s\ndata: [a]\n", {}, "and is ['a']."),
    ],
)
def test_a_study_needs_a_name_that_makes_a_folder_and_data(
    head: str, named: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(head + ONE)
    with pytest.raises(SpaceError, match=re.escape(sentence)):
        load_request(path, **named)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must be a mapping of settings and options, and is None."),
        (b"[1]", "must be a mapping of settings and options, and is [1]."),
        (b"just words", "and is 'just words'."),
        (b"study: \xff\xfe", "must be UTF-8, and byte 7 is not."),
        (b"# " + b"x" * 1_000_000, "must be at most 1 MB"),
    ],
)
def test_a_file_that_is_no_space_file_is_named(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=re.escape(sentence)):
        load_request(path)


def test_a_file_that_is_not_there_a_folder_and_an_impossible_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="must be a space file, and is not there"):
        load_request(tmp_path / "none.yaml")
    with pytest.raises(SpaceError, match="must be a space file, and is a folder"):
        load_request(tmp_path)
    with pytest.raises(SpaceError):
        load_request(Path("a\0b"))


def test_the_byte_order_mark_of_an_editor_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + ONE).encode())
    assert load_request(path).space.size == 2


def test_anchors_and_merged_mappings_are_no_duplicates(tmp_path: Path) -> None:
    text = """
variants:
  A: &a {augment.affine: true}
  B: &b {<<: *a, augment.elastic: true}
  C: {<<: *b, augment.affine: false}
"""
    rows = request_of(text, tmp_path=tmp_path).space.rows()
    assert [(row.config.augment.affine, row.config.augment.elastic) for row in rows] == [
        (True, False),
        (True, True),
        (False, True),
    ]


def test_a_condition_excludes_a_combination_that_is_no_configuration(tmp_path: Path) -> None:
    request = request_of(
        "space: {model.backbone: [resnet50, resnet101], "
        "model.weights: {choices: [coco, imagenet], when: {model.backbone: resnet50}}}",
        tmp_path=tmp_path,
    )
    assert {request.space.resolve(point).model.weights for point in request.space.grid()} == {
        "coco",
        "imagenet",
        "auto",
    }


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            "optim.precision: [fp32, bf16], model.trainable_layers: [0, 1, 5],"
            " model.stride_in_1x1: {choices: [false, true], when: {optim.precision: bf16}},"
            " model.backbone: [resnet50, resnet18]",
            "model.stride_in_1x1=True, model.backbone=resnet18",
        ),
        (
            "optim.precision: [fp16, bf16], model.trainable_layers: [4, 5],"
            " model.weights: [none, imagenet], model.backbone: [convnext_tiny, swin_t]",
            "optim.precision=fp16, model.trainable_layers=5, model.weights=none,"
            " model.backbone=convnext_tiny",
        ),
    ],
)
def test_a_bad_combination_is_found_in_a_space_too_large_to_be_tried_whole(
    settings: str, named: str, tmp_path: Path
) -> None:
    switches = ", ".join(
        f"augment.{name}: [false, true]"
        for name in ("affine", "elastic", "color_jitter", "blur_or_noise")
    )
    text = (
        f"space: {{{switches}, optim.restarts: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], optim.epochs: [10,"
        f" 20, 30], {settings}}}"
    )
    with pytest.raises(SettingError, match=re.escape(f"the combination {named})")):
        request_of(text, tmp_path=tmp_path)


def test_overrides_on_a_request_equal_overrides_on_its_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + CONDITIONAL)
    for overrides in (
        ["optim.restarts=0"],
        ["optim.restarts=3", "search.trials=4"],
        ["confirm.top=0"],
    ):
        assert with_overrides(load_request(path), overrides) == load_request(path, overrides)
    assert with_overrides(load_request(path), [], "d", "t", 7) == load_request(
        path, [], "d", "t", 7
    )


IDLE = "space: {augment.brightness: [0.1, 0.3]}\n"


def test_what_an_earlier_version_searched_can_still_be_read_where_a_new_search_of_it_is_refused(
    tmp_path: Path,
) -> None:
    """It took several GPUs for a trial, and used one; it searched settings without effect."""
    with pytest.raises(SpaceError, match="all trials would be one configuration"):
        request_of(IDLE, tmp_path=tmp_path)
    document = json.loads(json.dumps(request_of(ONE, tmp_path=tmp_path).to_document()))
    document["space"] = {"augment.brightness": {"choices": [0.1, 0.3]}}
    document["resources"]["gpus_per_trial"] = 2.0
    request = from_document(document, "study.json")
    assert request.resources == Resources(gpus_per_trial=1)
    assert domain_of(request, "augment.brightness") == Choices((0.1, 0.3))
    assert with_overrides(request, trials=40).search.trials == 40
    assert any(
        "augment.brightness is searched and can have no effect" in note for note in request.notes
    )
    assert from_document(request.to_document(), "study.json") == request


@pytest.mark.parametrize("searched", [ONE, TWO], ids=["space", "variants"])
def test_what_is_tried_after_training_survives_its_document_and_may_be_missing_in_an_old_one(
    searched: str, tmp_path: Path
) -> None:
    text = (
        searched + "after_training: {predict.score_threshold: [5e-2, 1e-2], predict.flips: [true]}"
    )
    request = request_of(text, tmp_path=tmp_path)
    assert request.after_training == {
        "predict.score_threshold": (0.05, 0.01),
        "predict.flips": (True,),
    }
    document = json.loads(json.dumps(request.to_document()))
    assert from_document(document, "study.json") == request
    del document["after_training"]
    assert from_document(document, "study.json") == request_of(searched, tmp_path=tmp_path)


@pytest.mark.parametrize("searched", [ONE, TWO], ids=["space", "variants"])
def test_a_setting_on_the_command_line_is_not_tried_after_training_any_more(
    searched: str, tmp_path: Path
) -> None:
    text = searched + "after_training: {predict.flips: [false, true], predict.tile: [0, 64]}"
    request = request_of(text, "predict.flips=true", tmp_path=tmp_path)
    assert request.after_training == {"predict.tile": (0, 64)}
    assert request.space.fixed == {"predict.flips": True}
    assert with_overrides(request_of(text, tmp_path=tmp_path), ["predict.flips=true"]) == request
    none_left = request_of(text, "predict.flips=true", "predict.tile=64", tmp_path=tmp_path)
    assert none_left.after_training == {}
    winner = none_left.space.resolve({})
    assert winner.predictions(none_left.after_training, None) == [winner.predict]


def test_a_hundred_combinations_may_be_tried_after_training(tmp_path: Path) -> None:
    most = ", ".join(str(count) for count in range(1, 51))
    text = (
        ONE + f"after_training: {{predict.flips: [false, true], predict.max_detections: [{most}]}}"
    )
    request = request_of(text, tmp_path=tmp_path)
    assert len(set(TrialConfig().predictions(request.after_training, None))) == 100


def test_a_variant_is_compared_with_the_baseline_unless_the_file_names_another(
    tmp_path: Path,
) -> None:
    text = "variants: {A: {}, B: {optim.restarts: 1}, C: {optim.restarts: 2}}\nbaseline: B\n"
    space = request_of(text, tmp_path=tmp_path).space
    assert [space.counterpart(name) for name in "ABC"] == ["B", None, "B"]
    request = request_of(text + "compare: {C: A, B: C}", tmp_path=tmp_path)
    assert [request.space.counterpart(name) for name in "ABC"] == [
        "B",
        "C",
        "A",
    ]  # in a circle, which does no harm
    document = json.loads(json.dumps(request.to_document()))
    assert from_document(document, "study.json") == request
    del document["compare"]  # a study from before there was this section
    assert from_document(document, "study.json") == request_of(text, tmp_path=tmp_path)


def test_what_is_compared_is_no_part_of_what_a_continued_study_must_keep(tmp_path: Path) -> None:
    text = "variants: {A: {}, B: {optim.restarts: 1}, C: {optim.restarts: 2}}\n"
    before = request_of(text, tmp_path=tmp_path)
    after = request_of(text + "compare: {C: B}", tmp_path=tmp_path)
    assert study_facts(before, None) == study_facts(after, None)


def test_ranges_survive_their_document(tmp_path: Path) -> None:
    text = (
        "space:\n  optim.learning_rate: {low: 1e-5, high: 1e-3, log: true}\n  optim.epochs: {low:"
        " 1, high: 64, log: true}\n  optim.batch_size: {low: 2, high: 8, step: 2}\n "
        " augment.rotate: {low: 0, high: 0.3, step: 0.1}\n  optim.weight_decay: {low: 0, high: 1}\n"
    )
    request = request_of(text, tmp_path=tmp_path)
    assert from_document(json.loads(json.dumps(request.to_document())), "study.json") == request
    with pytest.raises(SpaceError, match=r"study\.json: 'sapce' is not a key of a space file"):
        from_document({"sapce": {}}, "study.json")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            *SETTINGS,
            "auto",
            "none",
            "coco",
            "tpe",
            "grid",
            "resnet101",
            "1e-5",
            "synthetic",
            0,
            1,
            0.5,
            3,
            True,
        ]
    )
)
KEYS = (
    st.sampled_from(
        [
            "study",
            "data",
            "fixed",
            "space",
            "start",
            "variants",
            "baseline",
            "compare",
            "seeds",
            "search",
        ]
    )
    | st.sampled_from(
        [
            "stop_early",
            "after_training",
            "confirm",
            "resources",
            "choices",
            "low",
            "high",
            "log",
            "step",
            "when",
            *SETTINGS,
        ]
    )
    | st.text(max_size=5)
    | st.integers()
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)
OVERRIDES = st.builds(
    "{}={}".format,
    st.sampled_from([*SETTINGS, "search.trials", "search.sampler", "confirm.top"])
    | st.text(max_size=4),
    SCALARS,
)


def load_or_refuse(path: Path, content: str, overrides: list[str]) -> None:
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    request = outcome(lambda: load_request(path, overrides))
    if isinstance(request, str):
        assert "\n" not in request
        return
    assert request.planned_trials >= 1
    assert from_document(json.loads(json.dumps(request.to_document())), "again") == request
    assert all(note.isprintable() for note in request.notes)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=DOCUMENTS, overrides=st.lists(OVERRIDES, max_size=2))
def test_any_yaml_is_a_request_or_one_sentence(
    document: object, overrides: list[str], tmp_path: Path
) -> None:
    load_or_refuse(tmp_path / "any.yaml", yaml.safe_dump(document, allow_unicode=True), overrides)


def mutated(document: Any, data: st.DataObject) -> Any:
    """A copy of which one entry, anywhere, is something else, is gone, or has another name."""
    if isinstance(document, dict) and document:
        key = data.draw(st.sampled_from(list(document)))
        what = data.draw(st.sampled_from(["deeper", "deeper", "replace", "remove", "rename"]))
        rest = {name: value for name, value in document.items() if name != key}
        if what == "remove":
            return rest
        if what == "rename":
            return {**rest, data.draw(KEYS): document[key]}
        return {
            **document,
            key: data.draw(DOCUMENTS) if what == "replace" else mutated(document[key], data),
        }
    if isinstance(document, list) and document:
        index = data.draw(st.integers(0, len(document) - 1))
        return [*document[:index], mutated(document[index], data), *document[index + 1 :]]
    return data.draw(DOCUMENTS)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    source=st.sampled_from(SPACES),
    data=st.data(),
    times=st.integers(0, 3),
    overrides=st.lists(OVERRIDES, max_size=2),
)
def test_any_change_of_a_shipped_file_is_a_request_or_one_sentence(
    source: Path, data: st.DataObject, times: int, overrides: list[str], tmp_path: Path
) -> None:
    document = yaml.safe_load(source.read_text())
    for _ in range(times):
        document = mutated(document, data)
    load_or_refuse(
        tmp_path / "mutated.yaml", yaml.safe_dump(document, allow_unicode=True), overrides
    )


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    source=st.sampled_from(SPACES),
    start=st.floats(0, 1),
    length=st.integers(0, 200),
    noise=st.text(max_size=10),
)
def test_any_damage_to_a_shipped_file_is_a_request_or_one_sentence(
    source: Path, start: float, length: int, noise: str, tmp_path: Path
) -> None:
    text = source.read_text()
    cut = math.floor(start * len(text))
    load_or_refuse(tmp_path / "damaged.yaml", text[:cut] + noise + text[cut + length :], [])


def test_every_setting_can_be_fixed_to_its_default(tmp_path: Path) -> None:
    text = "space: {optim.restarts: [0, 1]}\nfixed: " + json.dumps(
        {name: value for name, value in SETTINGS.items() if name != "optim.restarts"}
    )
    assert request_of(text, tmp_path=tmp_path).space.resolve({"optim.restarts": 0}) == TrialConfig()
