"""Laws of the report: it agrees with the ledger, stands alone, lets nothing hostile through, and
is the same again.
"""

import base64
import csv
import hashlib
import re
import statistics
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import mlflow
import pytest

from benchmarks.simulated_study import SAMPLED, SMALL, build, sampled_quality
from core.config import SETTINGS, setting_in_words
from core.errors import BadRequest
from core.html import LEAD, lead_and_rest
from core.svg import DrawnFigure
from core.values import as_setting
from tests.tracking_database import provide
from tune.ledger.ledger import open_ledger
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.report import page as report
from tune.report.__main__ import main
from tune.report.content import ReportContent, content_of
from tune.report.figures.figure import figures_of
from tune.request.file import from_document
from tune.store.folder import StudyFolder
from tune.study.reading import read_study
from tune.tables import Kind, cell_text

HOSTILE = "<script>alert('1')</script> $x^2$ & <b>"
REASON = "<img src=x onerror=alert(2)> took 3 & more"

VARIANTS = {
    **SMALL,
    "study": "variants",
    "fixed": {"model.weights": "none", "optim.epochs": 4},
    "variants": {
        "Base": {"model.backbone": "resnet18"},
        HOSTILE: {"model.backbone": "resnet34"},
        "Elastic": {"model.backbone": "resnet18", "augment.elastic": True},
    },
    "baseline": "Base",
    "seeds": 2,
}
SEARCH = {
    **SAMPLED,
    "study": "search",
    "fixed": {"model.weights": "none", "optim.epochs": 5},
    "search": {"sampler": "random", "trials": 12},
    "stop_early": {"rule": "successive_halving", "min_epochs": 2, "reduction": 2},
    "confirm": {"top": 2, "seeds": 2},
}
VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}


class Page(HTMLParser):
    """What the tests ask of the page: elements in their order, table cells, text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(content)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "div" and (found.get("id") or "").startswith("table-"):
            self._rows = self.tables.setdefault(str(found["id"]).removeprefix("table-"), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self._open):
            return
        self.words.append(data)
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyFolder]:
    """A study of variants and a search, each with its report, in one results folder."""
    results = provide(tmp_path_factory.mktemp("results"))
    fates: dict[int, str] = {3: REASON}
    folders = {
        "variants": build(results, VARIANTS, lambda record: 0.3 * (record.name == "Elastic")),
        "search": build(results, SEARCH, sampled_quality, lambda record: fates.get(record.id, "")),
    }
    for folder in folders.values():
        write(folder)
    return folders


def write(folder: StudyFolder) -> Path:
    findings = content_of(read_study(folder.path.name, folder.path.parent))
    return report.write_report(findings, figures_of(findings))


@pytest.fixture(scope="module")
def findings(studies: dict[str, StudyFolder]) -> dict[str, ReportContent]:
    """The content of each study's report."""
    return {
        name: content_of(read_study(name, folder.path.parent)) for name, folder in studies.items()
    }


def storage(folder: StudyFolder) -> str:
    return f"sqlite:///{folder.path / 'study.db'}"


def content(folder: StudyFolder) -> str:
    return (folder.path / "report" / "index.html").read_text()


def table(folder: StudyFolder, name: str) -> list[dict[str, str]]:
    with (folder.path / "report" / "tables" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def records(folder: StudyFolder) -> list[TrialRecord]:
    reading = read_ledger(storage(folder), folder.path.name)
    assert reading is not None
    return list(reading.records)


both = pytest.mark.parametrize("name", ["variants", "search"])


@both
def test_page_csv_and_ledger_agree_on_every_score(
    studies: dict[str, StudyFolder], name: str
) -> None:
    folder = studies[name]
    complete = [record for record in records(folder) if record.state is State.COMPLETE]
    groups: dict[str, list[TrialRecord]] = {}
    for record in complete:
        groups.setdefault(record.name or str(record.id), []).append(record)
    main = "methods" if name == "variants" else "trials"
    rows, (heads, *shown) = table(folder, main), Page(content(folder)).tables[main]
    column = {head: place for place, head in enumerate(heads)}
    assert {row["method" if main == "methods" else "trial"] for row in rows} == set(groups)
    assert len(rows) == len(shown) == len(groups)
    for row, cells in zip(rows, shown, strict=True):
        of_row = groups[cells[0]]
        best = statistics.fmean(record.ap50 or 0.0 for record in of_row)
        last = statistics.fmean(record.curve[-1] for record in of_row)
        assert float(row["ap50_best"]) == best
        assert float(row["ap50_last"]) == last
        assert cells[column["AP50, best epoch as measured"]] == f"{best:.4f}"
        without_luck = float(row["ap50"])
        assert 0 < without_luck <= best
        assert cells[column["AP50 (95% confidence)"]].startswith(f"{without_luck:.4f} (")
        assert cells[column["AP50, last epoch"]] == f"{last:.4f}"
        assert float(row["ap50_low"]) < without_luck < float(row["ap50_high"])


@both
def test_every_table_is_the_same_on_the_page_and_beside_it(
    studies: dict[str, StudyFolder], findings: dict[str, ReportContent], name: str
) -> None:
    folder, said = studies[name], findings[name]
    page, tables = Page(content(folder)), folder.path / "report" / "tables"
    assert set(page.tables) == {one.name for one in said.tables}
    for one in said.tables:
        assert page.tables[one.name] == [
            [column.title for column in one.columns],
            *map(list, one.texts),
        ]
        assert (tables / f"{one.name}.csv").read_text() == one.csv()
        assert (tables / f"{one.name}.md").read_text() == one.markdown()
    assert (tables / "main.tex").read_text() == said.tables[0].latex()


@both
def test_figures_say_the_numbers_of_the_tables(
    studies: dict[str, StudyFolder], findings: dict[str, ReportContent], name: str
) -> None:
    folder, rows = studies[name], findings[name].rows
    drawn = (folder.path / "report" / "figures" / "scores.svg").read_text()
    texts = [
        element.text for element in ET.fromstring(drawn).iter() if element.tag.endswith("}text")
    ]
    assert [cell_text(row.ap50, Kind.AP50) for row in rows] == [
        one for one in texts if one and one.count(".") == 1
    ][-len(rows) :]


@both
def test_the_answer_and_what_limits_it_come_before_everything_else(
    studies: dict[str, StudyFolder], findings: dict[str, ReportContent], name: str
) -> None:
    said = findings[name]
    words = " ".join("".join(Page(content(studies[name])).words).split())
    places = [
        words.index(" ".join(sentence.split())) for sentence in (*said.answer, *said.cautions)
    ]
    assert places == sorted(places)
    assert places[-1] < words.index(said.tables[0].caption[:40])


@both
def test_the_page_stands_alone(studies: dict[str, StudyFolder], name: str) -> None:
    folder = studies[name]
    page = Page(content(folder))
    assert not {tag for tag, _ in page.elements} & {
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    }
    policy = next(
        found
        for tag, found in page.elements
        if found.get("http-equiv") == "Content-Security-Policy"
    )
    assert str(policy["content"]).startswith(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    )
    (script,) = re.findall(r"<script>(.*?)</script>", content(folder), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy["content"])
    assert not re.search(r"@import|url\((?!#)", content(folder))
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(set(ids)) == len(ids)
    for _, found in page.elements:
        assert not any(attribute.startswith("on") for attribute in found)
        for address in filter(None, (found.get("src"), found.get("href"))):
            if address.startswith("#"):
                assert address[1:] in ids
            else:
                assert (
                    address.startswith("data:image/png")
                    or (folder.path / "report" / address).is_file()
                )


@both
def test_headings_tables_and_figures_can_be_found_by_who_does_not_see_them(
    studies: dict[str, StudyFolder], name: str
) -> None:
    page = Page(content(studies[name]))
    tags = [tag for tag, _ in page.elements]
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    assert tags.count("table") == tags.count("caption") == len(page.tables)
    assert tags.count("figure") == tags.count("figcaption")
    assert tags.count("svg") == 2 * tags.count("figure")
    ids = {found.get("id") for _, found in page.elements}
    named = [
        str(found["aria-labelledby"]).split()
        for _, found in page.elements
        if "aria-labelledby" in found
    ]
    assert {one for names in named for one in names} <= ids
    assert all("scope" in found for tag, found in page.elements if tag == "th")


def test_a_hostile_name_or_reason_stays_text(studies: dict[str, StudyFolder]) -> None:
    variants = Page(content(studies["variants"]))
    assert HOSTILE in [row[0] for row in variants.tables["methods"]]
    assert REASON in Page(content(studies["search"])).tables["failures"][1]
    for folder in studies.values():
        assert content(folder).count("<script") == 1, "the page's own"
        assert "<img src=x" not in content(folder)
        for path in (folder.path / "report" / "figures").iterdir():
            assert not any(element.tag.endswith("script") for element in ET.parse(path).iter())
    names = ET.parse(studies["variants"].path / "report" / "figures" / "scores.svg")
    assert any((element.text or "").startswith("<script>") for element in names.iter())


def test_a_place_whose_name_is_no_text_is_escaped_in_the_report(
    findings: dict[str, ReportContent], tmp_path: Path
) -> None:
    """A folder named in another encoding than UTF-8 must not cost a search its report."""
    one, *others = findings["search"].tables
    named = replace(
        findings["search"],
        folder=StudyFolder(tmp_path),
        provenance={"data": "donn\udce9es"},
        tables=(replace(one, title="donn\udce9es"), *others),
    )
    assert r"donn\udce9es" in report.write_report(named, {}).read_text()
    written = tmp_path / "report" / "tables" / f"{one.name}.md"
    assert written.read_text().startswith(r"### donn\udce9es")


@both
def test_written_again_it_is_the_same_and_what_is_no_longer_in_it_goes(
    studies: dict[str, StudyFolder], name: str
) -> None:
    folder = studies[name]
    root = folder.path / "report"

    def files() -> dict[str, bytes]:
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }

    before = files()
    (root / "figures" / "of-before.svg").write_text("old")
    (root / "tables" / "of-before.csv").write_text("old")
    write(folder)
    assert files() == before


def test_captions_say_how_sure_a_figure_is_or_why_that_cannot_be_said(
    studies: dict[str, StudyFolder],
) -> None:
    for folder in studies.values():
        page = content(folder)
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
        assert len(captions) >= 5
        assert all(re.search(r"interval|uncertainty", caption) for caption in captions)


def test_a_study_that_has_only_begun_or_whose_trials_all_failed_has_a_report(
    tmp_path: Path,
) -> None:
    two = {**SEARCH, "study": "early", "search": {"sampler": "random", "trials": 2}}
    folder = build(tmp_path, two, sampled_quality, lambda _: "diverged")
    write(folder)
    assert Page(content(folder)).tables.keys() == {"failures", "cost"}
    for path in folder.path.glob("study.db*"):
        path.unlink()
    open_ledger(storage(folder), from_document(folder.read_description()["request"], "test"))
    write(folder)
    assert Page(content(folder)).tables == {}


def test_the_command_shows_the_report_in_mlflow_and_says_where_it_is(
    studies: dict[str, StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = studies["search"]
    results = folder.path.parent
    assert main(["--results", str(results), "--study", "search"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == f"Report: {folder.path / 'report' / 'index.html'}"
    )
    client = mlflow.MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("search")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.phase = 'study'")
    assert "index.html" in run.data.tags["report"]
    assert "report/index.html" in {
        entry.path for entry in client.list_artifacts(run.info.run_id, "report")
    }


def test_where_mlflow_is_away_the_report_is_written_all_the_same(
    studies: dict[str, StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = studies["variants"]
    away = ["--tracking-uri", "sqlite:////proc/none/mlflow.db"]
    assert main(["--results", str(folder.path.parent), "--study", "variants", *away]) == 0
    assert "MLflow does not show it" in capsys.readouterr().out


def test_a_wrong_request_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["--results", str(tmp_path)],
        ["--results", str(tmp_path), "--study", "none"],
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "holds no study" in said


def test_a_data_set_that_was_named_must_be_there(
    studies: dict[str, StudyFolder], tmp_path: Path
) -> None:
    results = str(studies["search"].path.parent)
    assert main(["--results", results, "--study", "search", "--data", str(tmp_path / "none")]) == 2
    with pytest.raises(BadRequest):
        read_study("nowhere", results)


@both
def test_of_a_caption_two_lines_are_shown_and_the_rest_folds(
    studies: dict[str, StudyFolder], findings: dict[str, ReportContent], name: str
) -> None:
    captions = [("", one.caption) for one in findings[name].tables]
    captions += [
        (f"Figure 1. {one.title}. SVG ", one.caption)
        for one in figures_of(findings[name]).values()
        if isinstance(one, DrawnFigure)
    ]
    for title, caption in captions:
        lead, rest = lead_and_rest(caption, len(title))
        assert f"{lead} {rest}".strip() == caption
        assert len(title) + len(lead) <= LEAD, lead
    assert content(studies[name]).count("<summary>How to read it</summary>") >= 5


@both
def test_the_best_settings_stand_beside_their_counterpart_by_plain_names_and_keys(
    studies: dict[str, StudyFolder], findings: dict[str, ReportContent], name: str
) -> None:
    rows = table(studies[name], "chosen")
    shown = Page(content(studies[name])).tables["chosen"]
    assert [row[0] for row in shown[1:]] == [
        f"{setting_in_words(row['setting'])} ({row['setting']})" for row in rows
    ]
    best = findings[name].best
    assert best is not None
    if name == "variants":
        (elastic,) = rows
        assert (elastic["setting"], elastic["best"], elastic["other"]) == (
            "augment.elastic",
            "on",
            "off",
        )
    else:
        assert {row["setting"] for row in rows} <= set(SEARCH["space"])
        assert all(row["other"] == as_setting(SETTINGS[row["setting"]]) for row in rows)
    words = " ".join("".join(Page(content(studies[name])).words).split())
    assert words.index(findings[name].answer[0]) < words.index("The best settings")
    assert words.index("The best settings") < words.index("What limits this")


def test_cells_of_numbers_carry_the_value_by_which_they_sort(
    studies: dict[str, StudyFolder], findings: dict[str, ReportContent]
) -> None:
    cells = re.findall(
        r'<td data-label="([^"]*)"( data-value="[^"]*")?', content(studies["search"])
    )
    main = findings["search"].tables[0]
    column = next(one for one in main.columns if one.name == "ap50_best")
    values = [value for label, value in cells if label == column.title and value]
    place = main.columns.index(column)
    assert [float(one.split('"')[1]) for one in values] == [row[place] for row in main.rows]
