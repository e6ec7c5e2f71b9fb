"""The files of a report: its page, its tables and its figures.

results/STUDY/report/
    index.html               one page that needs no other file and no network; it is whole without
                             its script, which sorts tables
    images.html              every image of the data set with its outlines, another such page
    tables/NAME.csv, .md     its tables; the main one also as main.tex
    figures/NAME.svg         its figures
    figures/NAME-1.png       its pictures
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import data as datasets
from core.data.dataset import Dataset
from core.errors import BadRequest
from core.files import encoded, write_atomically
from core.html import filled
from core.svg import DrawnFigure
from core.values import NO_VALUE
from tune.report.contact_sheet import write_contact_sheet
from tune.report.content import ReportContent, content_of
from tune.report.figures.figure import Absence, Pictures, figures_of
from tune.study.plan import tracking_of
from tune.study.reading import Study
from tune.tables import Table
from tune.tracking.tracker import TrackedStudy, Trouble, trouble_told_by

PAGE = "index.html"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    name        HTML id of the section, which figures name as their section
    sentences   sentences in place of figures that cannot be drawn
    figures     the figures by name
    """

    name: str
    title: str
    tables: tuple[Table, ...]
    sentences: tuple[str, ...]
    figures: Mapping[str, DrawnFigure | Pictures]

    @property
    def is_empty(self) -> bool:
        """Whether the section has no content."""
        return not (self.sentences or self.tables or self.figures)


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written.

    content    the content that it shows
    page       file of the page
    tracker    name of the tracker, such as `MLflow`
    address    address of the page in the tracker; None if the tracker did not take it
    trouble    why the tracker did not take it, and the way out; None if it did
    link       address of the trials in the tracker's pages; None if it has none, or did not answer
    charts     address of charts that compare them there; None likewise
    """

    content: ReportContent
    page: Path
    tracker: str
    address: str | None
    trouble: Trouble | None = None
    link: str | None = None
    charts: str | None = None


def make_report(study: Study, data: Dataset | None = None) -> WrittenReport:
    """Write the report of a study, and show it in the tracker if that answers.

    data   the data set, for the pictures of predictions; None for a page without them

    Raises StorageError if the ledger does not answer, and OSError if the files cannot be written.
    """
    content = content_of(study, data)
    page = write_report(content, figures_of(content))
    tracker = tracking_of(study.options)
    tracked = TrackedStudy(study.name, study.ledger.identity)
    try:
        address = tracker.show_report(tracked, page.parent)
        link, charts = tracker.link_to(tracked), tracker.link_to_charts(tracked)
    except Exception as error:  # noqa: BLE001  # whatever a tracker raises: it is a view
        return WrittenReport(content, page, tracker.name, None, trouble_told_by(tracker, error))
    return WrittenReport(content, page, tracker.name, address, link=link, charts=charts)


def dataset_of(study: Study, where: str | None = None) -> tuple[Dataset | None, str]:
    """The data set of a study and an empty text, or None and why it cannot be read.

    where   where the data set is now; None for where it was in the search

    Raises BadRequest if it cannot be read at `where`.
    """
    try:
        return datasets.load_data(where or study.request.data, study.request.reading_again), ""
    except BadRequest as error:
        if where is not None:
            raise
        return None, str(error)


def write_report(
    content: ReportContent, figures: Mapping[str, DrawnFigure | Pictures | Absence]
) -> Path:
    """Write all files of a report, each whole or not at all; returns the path of the page.

    The page is written last. Files of an older report that are not part of this one are removed.

    figures   the figures of the page, by name
    """
    files: dict[str, bytes] = {}
    for name, figure in figures.items():
        if isinstance(figure, DrawnFigure):
            files[f"figures/{name}.svg"] = encoded(figure.alone)
        elif isinstance(figure, Pictures):
            for number, picture in enumerate(figure.pictures, start=1):
                files[f"figures/{name}-{number}.png"] = picture.png
    for place, table in enumerate(content.tables):
        files[f"tables/{table.name}.csv"] = encoded(table.csv())
        files[f"tables/{table.name}.md"] = encoded(table.markdown())
        if place == 0:
            files["tables/main.tex"] = encoded(table.latex())
    report = content.folder.path / "report"
    for part in ("figures", "tables"):
        (report / part).mkdir(parents=True, exist_ok=True)
        for path in (report / part).iterdir():
            if path.is_file() and f"{part}/{path.name}" not in files:
                path.unlink()
    for name, written in files.items():
        write_atomically(report / name, written)
    sheet = write_contact_sheet(content)
    page = page_html(content, _sections(content.tables, figures), sheet)
    write_atomically(report / PAGE, encoded(page))
    return report / PAGE


def page_html(content: ReportContent, sections: Sequence[Section], sheet: str | None = None) -> str:
    """The page as HTML that needs no other file; texts such as names and reasons are escaped.

    sheet   file name of the contact sheet beside the page; None if there is none
    """
    names = [name for section in sections for name in section.figures]
    script = Path(__file__).with_name("page.js").read_text().strip()
    return filled(
        Path(__file__).with_name("page.html.jinja"),
        content=content,
        sheet=sheet,
        top=[section for section in sections if section.name in _TOP],
        sections=[section for section in sections if section.name not in _TOP],
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        numbers={name: number for number, name in enumerate(names, start=1)},
        nothing=NO_VALUE,
    )


_TOP = ("pictures", "chosen")
"""The sections around the answer: pictures above it, the best settings below."""
_SECTIONS = (
    ("pictures", "Pictures", ()),
    ("chosen", "The best settings", ("chosen",)),
    ("comparison", "The comparison", ("methods", "trials")),
    ("history", "The search", ()),
    ("confirmation", "Confirmation", ("confirmation",)),
    ("factors", "By factor", ("comparisons", "restarts", "freezing", "backbones")),
    ("settings", "Settings", ("effects",)),
    ("classes", "Classes", ("classes", "limits", "detections")),
    ("training", "Training", ()),
    ("data", "The data", ("data",)),
    ("stopped", "Stopped early", ("stopped",)),
    ("cost", "Cost", ("cost", "packing")),
    ("failures", "Failures", ("failures",)),
)
"""The sections in the order of reading: name, title, names of tables."""


def _sections(
    tables: Sequence[Table], figures: Mapping[str, DrawnFigure | Pictures | Absence]
) -> list[Section]:
    """The sections that have content; a last one, Others, has what belongs to no other."""
    known = {name for name, *_ in _SECTIONS}
    placed = {table for *_, names in _SECTIONS for table in names}
    others = ("others", "Others", tuple({table.name for table in tables} - placed))
    by_name = {table.name: table for table in tables}
    sections = []
    for section, title, names in (*_SECTIONS, others):
        here = {
            name: one
            for name, one in figures.items()
            if section == (one.section if one.section in known else "others")
        }
        sections.append(
            Section(
                section,
                title,
                tuple(by_name[name] for name in names if name in by_name),
                tuple(one.sentence for one in here.values() if isinstance(one, Absence)),
                {name: one for name, one in here.items() if not isinstance(one, Absence)},
            )
        )
    return [section for section in sections if not section.is_empty]
