"""Words of messages: counts, lists, and text that others wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import SETTINGS, SYNONYMS
from core.text import have, listed, many, nearest, shown


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (1, "epoch", "1 epoch"),
        (0, "epoch", "0 epochs"),
        (2, "batch", "2 batches"),
        (3, "class", "3 classes"),
        (2, "annotated image", "2 annotated images"),
        (2, "copy", "2 copies"),
        (2, "day", "2 days"),
        (12345, "instance", "12,345 instances"),
    ],
)
def test_a_noun_agrees_with_its_count(count: int, noun: str, expected: str) -> None:
    assert many(count, noun) == expected


def test_an_irregular_plural_is_the_one_given() -> None:
    assert many(2, "axis", "axes") == "2 axes"
    assert many(1, "axis", "axes") == "1 axis"


def test_a_list_ends_with_and() -> None:
    assert [listed(list("abc")[:length]) for length in range(4)] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@given(st.text())
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    assert (shown(text) == text) == text.isprintable()


@given(st.text(st.characters(codec=None)))
def test_what_is_shown_is_one_line_that_any_terminal_only_displays(text: str) -> None:
    safe = shown(text)
    assert safe.isprintable()
    assert safe.encode() or not text
    assert shown(safe) == safe


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("cell\u202egpj.exe", r"cell\u202egpj.exe"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\udcff.png", r"\udcff.png"),
        ("\x9b2J", r"\x9b2J"),
        ("Zellkerne, 細胞", "Zellkerne, 細胞"),
    ],
)
def test_escape_sequences_reach_no_terminal(foreign: str, expected: str) -> None:
    assert shown(foreign) == expected


def test_a_verb_agrees_with_its_count() -> None:
    assert [f"{count} {have(count)}" for count in (0, 1, 2)] == ["0 have", "1 has", "2 have"]


MEANT = {
    "optim.learning_rate": (
        "optim.lr lr learning_rate learningRate optim.LR optimizer.lr optim.learnig_rate"
    ),
    "optim.weight_decay": "wd weight-decay optim.wd decay",
    "optim.batch_size": "bs batch batch-size optim.batch batchsize",
    "optim.epochs": "epochs epoch num_epochs max_epochs optim.epoch train.epochs",
    "optim.gradient_clip": "grad_clip clip optim.grad_clip",
    "optim.warmup_epochs": "warmup optim.warmup",
    "optim.precision": "precision amp fp16",
    "model.backbone": "backbone encoder model.bakbone",
    "model.trainable_layers": "freeze layers model.freeze",
    "model.weights": "weights pretrained",
    "model.image_min_side": "image_size img_size",
    "model.anchor_scale": "anchors anchor_scales",
    "augment.horizontal_flip": "hflip flip augment.flip horizontalflip",
    "augment.color_jitter": "jitter colour augment.color",
    "augment.rotate": "rotation rotate",
    "augment.brightness": "brightnes aug.brightness",
    "predict.flips": "predict.flip",
    "predict.views": "tta predict.view",
    "predict.scales": "predict.scale",
    "predict.score_threshold": "threshold score predict.threshold",
    "predict.max_detections": "max_detections detections",
    "data.folds": "folds k_folds",
    "data.crop": "crop crop_size",
    "seed": "random_seed sead",
}


@pytest.mark.parametrize(
    ("wrong", "right"), [(w, right) for right, words in MEANT.items() for w in words.split()]
)
def test_a_usual_word_or_abbreviation_leads_to_the_setting_that_is_meant(
    wrong: str, right: str
) -> None:
    assert nearest(wrong, SETTINGS, SYNONYMS) == right


@pytest.mark.parametrize(
    "wrong", ["nonsense", "foo", "xyz", "", ".", "dropout", "momentum", "search.trails", "x" * 999]
)
def test_a_word_that_is_like_no_setting_suggests_none(wrong: str) -> None:
    assert nearest(wrong, SETTINGS, SYNONYMS) is None


@given(st.text(max_size=30), st.lists(st.text(max_size=20)))
def test_what_is_suggested_is_known(name: str, known: list[str]) -> None:
    assert nearest(name, known) in {None, *known}


def test_a_known_name_is_its_own_nearest() -> None:
    assert [nearest(setting, SETTINGS, SYNONYMS) for setting in SETTINGS] == list(SETTINGS)


def test_every_synonym_is_of_a_setting_and_is_none_itself() -> None:
    assert set(SYNONYMS.values()) <= set(SETTINGS)
    assert not set(SYNONYMS) & set(SETTINGS)
