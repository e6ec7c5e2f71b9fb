"""README and the pages in docs/ are checked against what is there: commands, settings, paths, links."""

import contextlib
import itertools
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from core.check import main as ask_the_doctor
from core.config import SETTINGS, TrialConfig
from core.data.pixel_size import parse_pixel_size
from core.prediction.outputs import OUTPUTS
from tune.request.file import load_request, setting_override
from tune.request.request import StudyRequest

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
FOR_USERS = ["README.md", "docs/tutorial.md", "docs/faq.md", "docs/architecture.md"]
"""Pages that describe the present state; the others also name settings and files of the past."""
COMMAND = re.compile(r"(?:\.venv/bin/)?python -m ((?:core|tune|benchmarks)[\w.]*)\b(.*)")
SPACE = "search_spaces/demo.yaml"
VARIANTS = "search_spaces/report_tables.yaml"
GROUPS = {name.partition(".")[0] for name in SETTINGS if "." in name}
OPTIONS = {"search", "stop_early", "confirm", "resources"}


def spans(text: str) -> list[str]:
    """The pieces of a page that are set as code within a sentence."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[str]:
    """The command lines of a page that begin a module of ours, in code blocks and in sentences."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    blocks = [line.strip() for line in lines if line.startswith("    ")]
    return [one for one in (*blocks, *spans(text)) if COMMAND.match(one)]


def is_shown_value(text: str) -> bool:
    """Whether a text is a setting with a value, not with a placeholder such as N, VALUE or `...`."""
    key, equals, value = text.partition("=")
    return bool(equals) and key.islower() and not re.fullmatch(r"[A-Z]+|\.\.\.", value)


def in_a_request(assignment: str) -> StudyRequest:
    """A request with what `--set` was given; raises BadRequest for what a search would refuse."""
    space = VARIANTS if assignment.startswith("seeds=") else SPACE
    return load_request(ROOT / space, [assignment])


def check_search(parsed: Any) -> None:
    changes = [one for one in parsed.overrides if is_shown_value(one)]
    assert parsed.space is not None or parsed.study is not None
    if parsed.space is not None and parsed.space.suffix == ".yaml":
        load_request(ROOT / parsed.space, changes, parsed.data, parsed.study, parsed.trials)
    else:
        for change in changes:
            in_a_request(change)


def check_reading(parsed: Any) -> None:
    TrialConfig.from_assignments([one for one in parsed.set if is_shown_value(one)])


def check_retraining(parsed: Any) -> None:
    for assignment in parsed.overrides:
        if is_shown_value(assignment):
            setting_override(assignment)


def check_prediction(parsed: Any) -> None:
    given = {f"predict.{name}": value for name, value in vars(parsed).items()}
    TrialConfig.from_settings(
        {name: value for name, value in given.items() if name in SETTINGS and value is not None}
    )
    assert set((parsed.write or "coco").split(",")) <= set(OUTPUTS)
    parse_pixel_size(parsed.pixel_size or "1", "--pixel-size")


def check_weights(parsed: Any) -> None:
    load_request(ROOT / parsed.space, parsed.overrides)


CHECKS: dict[str, Callable[[Any], None]] = {
    "core.check": check_reading,
    "core.convert": check_reading,
    "core.predict": check_prediction,
    "tune.retrain_best": check_retraining,
    "tune.search": check_search,
    "tune.weights": check_weights,
}
"""Further checks of the arguments of a command, after its own parser has taken them."""


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, one) for page, text in PAGES.items() for one in dict.fromkeys(commands(text))],
)
def test_every_command_is_taken_by_its_own_parser_and_every_setting_in_it_exists(
    page: str, command: str
) -> None:
    match = COMMAND.match(command)
    assert match is not None
    module, arguments = match[1], shlex.split(match[2].partition(" > ")[0], comments=True)
    place = ROOT / module.replace(".", "/")
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    assert file.is_file()
    is_name_alone = not arguments and command in spans(PAGES[page])
    if "def build_parser(" in file.read_text() and not is_name_alone:
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        parsed = import_module(dotted).build_parser().parse_args(arguments)
        if module in CHECKS:
            CHECKS[module](parsed)


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    assert sum(len(commands(PAGES[page])) > 5 for page in FOR_USERS) >= 3
    assert "python -m tune.retrain_best" in commands(PAGES["README.md"])


@pytest.mark.parametrize("page", FOR_USERS)
def test_every_setting_that_is_shown_with_a_value_is_taken(page: str) -> None:
    shown = []
    for span in spans(PAGES[page]):
        if COMMAND.match(span):
            continue
        if "--set" in span:
            words = shlex.split(span)
            shown += [after for word, after in itertools.pairwise(words) if word == "--set"]
        elif match := re.fullmatch(r"([a-z_]+\.[a-z_0-9]+)(?:=|: )(\S.*)", span):
            value = match[2]
            shown += [] if value.startswith(("{", "[")) else [f"{match[1]}={value}"]
    for assignment in filter(is_shown_value, shown):
        in_a_request(assignment)


@pytest.mark.parametrize("page", FOR_USERS)
def test_every_setting_and_option_that_is_named_exists(page: str) -> None:
    options = {
        f"{name}.{leaf}"
        for name in OPTIONS
        for leaf in type(getattr(in_a_request("seed=0"), name)).model_fields
    }
    named = {
        match[1]
        for span in spans(PAGES[page])
        if (match := re.fullmatch(r"([a-z_]+\.[a-z_0-9]+)", span))
        and match[1].partition(".")[0] in GROUPS | OPTIONS
    }
    suffixes = (".csv", ".json", ".safetensors", ".yaml")
    files = {name for name in named if name.endswith(suffixes)}
    assert named - files - {"model.predict"} <= SETTINGS.keys() | options


@pytest.mark.parametrize(
    ("page", "path"),
    [
        (page, path)
        for page in FOR_USERS
        for path in sorted(
            set(re.findall(r"`((?:core|tune|search_spaces|docs|tests)/[\w/.]+)`", PAGES[page]))
        )
    ],
)
def test_every_path_that_is_named_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists(), page


@pytest.mark.parametrize("page", FOR_USERS)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings
            }, link


@pytest.mark.parametrize("page", FOR_USERS)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", PAGES[page], re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert {one or other for one, other in targets} <= set(
        re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    )


def test_every_package_has_its_line_in_the_file_tree_and_every_line_its_package() -> None:
    listed = set()
    folder = ""
    tree = PAGES["docs/architecture.md"].partition("## Files")[2]
    for name in re.findall(r"^    ( {0,2}[\w.]+[/.]\S*) ", tree, re.MULTILINE):
        if not name.startswith(" "):
            folder = name
        elif folder in ("core/", "tune/"):
            listed.add(folder + name.strip())
    there = {
        f"{package}/{path.name}{'/' if path.is_dir() else ''}"
        for package in ("core", "tune")
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    assert listed == there


TUTORIAL = PAGES["docs/tutorial.md"]


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tutorial's lines of Python write."""
    folder = tmp_path_factory.mktemp("tutorial")
    (source,) = blocks_of("python")
    with contextlib.chdir(folder):
        exec(source, {})
    return folder


def test_the_doctor_says_of_the_tutorials_folder_what_the_tutorial_says_it_does(
    practice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(practice)
    arguments = shlex.split(next(one for one in commands(TUTORIAL) if "core.check" in one))[3:]
    assert ask_the_doctor(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    shown = blocks_of("text")[0].splitlines()
    assert [line for line in said if line in shown] == shown
    assert (practice / "check" / "index.html").is_file()


@pytest.mark.long
def test_the_tutorial_ends_with_label_images_of_new_images(practice: Path) -> None:
    """Its commands on the practice folder are given in its order, from that folder's parent."""
    (practice / "search_spaces").symlink_to(ROOT / "search_spaces")
    lines = [shlex.split(one)[1:] for one in commands(TUTORIAL) if one.startswith(".venv")]
    wanted = [
        words
        for words in lines
        if "--dry-run" not in words and words[1] not in ("core.check", "core.convert")
    ]
    assert [words[1] for words in wanted] == ["tune.search", "tune.retrain_best", "core.predict"]
    for words, shown in zip(wanted, blocks_of("text")[1:], strict=True):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=practice,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        said = {beginning(line) for line in done.stdout.splitlines()}
        assert {beginning(line) for line in shown.splitlines()} <= said
    assert len(list((practice / "predicted" / "labels").glob("*.tif"))) == 6
    with zipfile.ZipFile(practice / "results/practice/best/submission.zip") as submission:
        assert submission.namelist() == ["test-results.json"]


def beginning(line: str) -> str:
    """A line without the parts that differ between machines: numbers, and all after `:`."""
    return re.sub(r"\d+", "#", line.partition(":")[0])
