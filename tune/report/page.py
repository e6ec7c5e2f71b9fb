"""The report of a study: `python -m tune.report`, also written at the end of every search.

results/STUDY/report/
    index.html               one page that needs no other file, no network and no script
    tables/NAME.csv, .md     its tables; the main one also as main.tex
    figures/NAME.svg         its figures
    figures/examples-1.png   its pictures
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from core import data as datasets
from core.console import complain, say
from core.data.dataset import Dataset
from core.errors import BadRequest, CellTuneError
from core.files import refused, write_atomically
from core.interrupts import exit_status, terminable
from tune.report.examples import Examples, examples
from tune.report.figures import figures
from tune.report.findings import Findings, find
from tune.report.svg import COLOURS, Figure
from tune.request.file import from_document
from tune.retrain.plan import last_study
from tune.store.folder import StudyFolder
from tune.study.plan import Options, absolute, recall, storage_of, tracking_of
from tune.tables import NOTHING, Table
from tune.tracking.tracker import TrackedStudy, Trouble

PAGE = "index.html"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    name        anchor of the section
    sentences   sentences before its tables and figures
    """

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    examples: Examples | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the section has no content."""
        return not (self.sentences or self.tables or self.figures or self.examples)


@dataclass(frozen=True)
class Written:
    """A report that was written.

    findings   the findings that it shows
    page       file of the page
    tracker    name of the tracker: `MLflow`
    address    address of the page in the tracker; None if the tracker did not take it
    trouble    why the tracker did not take it, and the way out
    """

    findings: Findings
    page: Path
    tracker: str
    address: str | None
    trouble: Trouble | None = None


def make_report(options: Options, folder: StudyFolder, data: Dataset | None = None) -> Written:
    """Write the report of a study as its ledger stands, and show it in the tracker if that
    answers.

    data   the data set, for the pictures of predictions; without it the page has none

    Raises BadRequest if there is no such study, StorageError if the ledger does not answer, OSError
    if the disk fails.
    """
    options = recall(options, folder, moved=True)
    findings = find(folder, storage_of(options, folder))
    page = write(folder, findings, examples(findings, folder, data))
    tracker = tracking_of(options)
    try:
        address = tracker.show_report(TrackedStudy(findings.study, findings.identity), page.parent)
    except Exception as error:  # noqa: BLE001  # whatever a tracker raises: it is a view
        return Written(findings, page, tracker.name, None, tracker.trouble_of(error))
    return Written(findings, page, tracker.name, address)


def write(folder: StudyFolder, findings: Findings, pictured: Examples | str) -> Path:
    """Write all files of a report, each whole or not at all, the page last; other files of an
    older report are removed.

    pictured   the pictures, or a sentence on why there are none
    """
    drawn = figures(findings)
    sections = _sections(findings, drawn, pictured)
    files = {f"figures/{one.name}.svg": one.alone.encode() for one in drawn}
    for number, picture in enumerate(
        pictured.pictures if isinstance(pictured, Examples) else (), start=1
    ):
        files[f"figures/examples-{number}.png"] = picture.png
    for place, table in enumerate(findings.tables):
        files[f"tables/{table.name}.csv"] = table.csv().encode()
        files[f"tables/{table.name}.md"] = table.markdown().encode()
        if place == 0:
            files["tables/main.tex"] = table.latex().encode()
    report = folder.path / "report"
    for part in ("figures", "tables"):
        (report / part).mkdir(parents=True, exist_ok=True)
        for path in (report / part).iterdir():
            if path.is_file() and f"{part}/{path.name}" not in files:
                path.unlink()
    for name, content in files.items():
        write_atomically(report / name, content)
    write_atomically(report / PAGE, page(findings, sections).encode())
    return report / PAGE


def page(findings: Findings, sections: Sequence[Section]) -> str:
    """The page as HTML that needs no other file.

    Names and reasons are escaped, so they stay text.
    """
    names = [name for section in sections for name in _figure_names(section)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.jinja").render(
        findings=findings,
        sections=sections,
        numbers={name: number for number, name in enumerate(names, start=1)},
        colours=COLOURS,
        nothing=NOTHING,
    )


def _figure_names(section: Section) -> Iterable[str]:
    if section.examples is not None:
        yield "examples"
    yield from (figure.name for figure in section.figures)


def _sections(
    findings: Findings, drawn: Sequence[Figure], pictured: Examples | str
) -> list[Section]:
    """The sections in the order of reading; tables and figures that none of them names are in
    `Other tables`.
    """
    tables = {table.name: table for table in findings.tables}
    by_name = {one.name: one for one in drawn}
    main = findings.tables[0].name if findings.tables else ""
    sections = [
        Section(
            name,
            title,
            tables=tuple(tables.pop(one) for one in of_tables if one in tables),
            figures=tuple(by_name.pop(one) for one in of_figures if one in by_name),
        )
        for name, title, of_tables, of_figures in (
            ("comparison", "The comparison", (main,), ("differences", "scores")),
            (
                "factors",
                "By factor",
                ("comparisons", "restarts", "freezing", "backbones"),
                ("backbones",),
            ),
            ("settings", "Settings", ("effects",), ("effects", "hyperparameters")),
            ("training", "Training", (), ("ap50-curves", "loss-curves")),
            ("confirmation", "Confirmation", ("confirmation",), ("confirmation",)),
            ("classes", "Classes", ("classes",), ()),
            ("stopped", "Stopped early", ("stopped",), ("stopped",)),
            ("cost", "Cost", ("cost",), ()),
            ("failures", "Failures", ("failures",), ()),
        )
    ]
    sections.append(
        Section(
            "others", "Other tables", tables=tuple(tables.values()), figures=tuple(by_name.values())
        )
    )
    sections.insert(
        4,
        (
            Section("pictures", "Pictures", (pictured,))
            if isinstance(pictured, str)
            else Section("pictures", "Pictures", examples=pictured)
        ),
    )
    return [section for section in sections if not section.is_empty]


@terminable()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 2 a wrong request, 1 the rest, 130 or
    143 interrupted.
    """
    parsed = build_parser().parse_args(arguments)
    console = Console()
    try:
        options = Options(parsed.results, absolute(parsed.storage), absolute(parsed.tracking_uri))
        folder = (
            last_study(parsed.results)
            if parsed.study is None
            else StudyFolder(parsed.results / parsed.study)
        )
        described = folder.read_description()
        data, missing = _dataset(parsed.data, described["request"])
        written = make_report(options, folder, data)
    except BadRequest as error:
        complain(error)
        return 2
    except CellTuneError as error:
        complain(error)
        return 1
    except OSError as error:
        complain(f"{refused(error)}, then run the same command again; what was saved is whole")
        return 1
    except KeyboardInterrupt:
        print("Interrupted; give the same command again", file=sys.stderr)
        return exit_status()
    if missing:
        say(console, f"Without pictures: {missing}")
    say(console, f"Report: {written.page}")
    if written.trouble is not None:
        say(
            console,
            f"{written.tracker} does not show it ({written.trouble.reason}):"
            f" {written.trouble.way_out}",
        )
    return 0


def _dataset(given: str | None, described: Mapping[str, Any]) -> tuple[Dataset | None, str]:
    """The data set; None, and the reason, if it is not at its old place.

    Raises BadRequest if `given` is missing.
    """
    try:
        request = from_document(described, "study.json")
        return datasets.load(given or request.data, request.reading_again), ""
    except BadRequest as error:
        if given is not None:
            raise
        return None, str(error)


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.report",
        description=(
            "Write the report of a study: one page with its tables and figures. Run again, it is"
            " the same."
        ),
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="the study; default: the one that was used last")
    add(
        "--data",
        metavar="DIR",
        help="where the data set is now, for the pictures; default: where it was",
    )
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of all studies; default: results",
    )
    add("--tracking-uri", metavar="URI", help="MLflow; default: where the search showed it")
    add(
        "--storage",
        metavar="URL",
        help="the ledger's database; needed again where its URL has a password",
    )
    return parser
