"""The pages of the proof: the reports of both studies, tables beside the report's, and pictures.

They are made by the same code whether the run was long or short. A short one says so first.
"""

import base64
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.pages import as_jpeg, wrapped, write_part
from benchmarks.proof import short
from benchmarks.proof.plan import ROWS_STUDY, SEARCH_STUDY
from benchmarks.proof.published import CAN_AND_CANNOT_SAY, PUBLISHED, TABLES
from benchmarks.proof.state import machine_in_words
from benchmarks.proof.throughput import Rate, places_of, rate_of
from core.errors import StudyError
from core.files import parse_json, replaced, write_atomically, write_json_atomically
from core.text import listed, many
from core.values import NO_VALUE, as_ap50, as_duration, as_interval
from tune.api import report
from tune.report.content import ReportContent, content_of
from tune.tables import Table

if TYPE_CHECKING:
    from benchmarks.proof.stages import Proof

ROOT = Path(__file__).parents[2]
MOST_PAGE_BYTES = 1_500_000
"""Largest size of a report's page in the example, in bytes."""
MOST_PICTURE_BYTES = 250_000
"""Largest size of the picture of a prediction, in bytes."""
PICTURE = "prediction.jpg"
"""The picture of a prediction in the folder of results and in the example."""
SUBMITTED = {SEARCH_STUDY: "the winner of the search", ROWS_STUDY: "the report's recipe, Res50"}
"""The models that a submission is written with, in words, by the study of each."""
FIGURES = ("differences", "scores", "ap50-curves", "loss-curves")
"""The report's figures of which the example shows the first that is there."""
BEGIN, END = "<!-- proof: written by benchmarks.proof -->", "<!-- end of proof -->"
"""The lines of README between which its part about the proof stands."""
FIRST = "What ran first stands: nothing was repeated or chosen by hand."
SHORT_FIRST = "Earlier short runs with other settings learned less (results/LOG.md)."
"""The sentence on earlier runs: of the whole form, and of the short one, whose settings were tried.
"""
REAL_COMMAND = (
    ".venv/bin/python -m benchmarks.proof --data data/consep --weights weights/resnet50.pth"
    " --results results/proof --publish"
)
"""The real command, as README shows it."""


@dataclass(frozen=True)
class Facts:
    """All that the pages say.

    rows, search   the content of the reports of the two studies
    rates          the rate of each, by name
    submissions    the submission of each, by name: images, detections, bytes, SHA-256
    machine        the machine in words; several where the proof was carried
    seconds        seconds of all runs that were not killed
    left           what is left of the proof, in words; empty where it is finished
    """

    proof: "Proof"
    rows: ReportContent
    search: ReportContent
    rates: Mapping[str, Rate]
    submissions: Mapping[str, Mapping[str, Any]]
    machine: str
    seconds: float
    left: Sequence[str]

    @property
    def on_gpu(self) -> bool:
        """Whether any run had a GPU."""
        return any(run["machine"]["gpus"] for run in self.proof.state.runs)

    @property
    def commit(self) -> str:
        """The commits of the runs."""
        return ", ".join(dict.fromkeys(run["commit"] for run in self.proof.state.runs))

    @property
    def begun(self) -> str:
        """The time of the first run."""
        return str(self.proof.state.runs[0]["begun"])


def is_current(results: Path) -> bool:
    """Whether the pages were written after the last run."""
    page, state = results / "example" / "README.md", results / "proof.json"
    return page.exists() and page.stat().st_mtime >= state.stat().st_mtime


def keep_prediction(results: Path) -> None:
    """Keep a picture of the winner's predictions: the first of its validation images by name.

    The pictures themselves are not carried to another machine.
    """
    found = sorted((results / SEARCH_STUDY / "best" / "overlays" / "validation").glob("*.png"))
    if found and not (results / PICTURE).exists():
        write_atomically(results / PICTURE, as_jpeg(Image.open(found[0]), MOST_PICTURE_BYTES))


def write_example(proof: "Proof", folder: Path) -> None:
    """Write the pages into `folder`, whole or not at all."""
    keep_prediction(proof.results)
    facts = _gather(proof)
    with replaced(folder) as written:
        for content in (facts.rows, facts.search):
            page = content.folder.path / "report" / "index.html"
            (written / f"{content.study}.html").write_text(slim_page(page.read_text()))
            table = content.tables[0]
            (written / f"{content.study}.md").write_text(table.markdown())
        figures = facts.rows.folder.path / "report" / "figures"
        shown = next((one for one in FIGURES if (figures / f"{one}.svg").exists()), None)
        if shown is not None:
            shutil.copyfile(figures / f"{shown}.svg", written / "report.svg")
        if (proof.results / PICTURE).exists() and not facts.search.nothing_learned:
            shutil.copyfile(proof.results / PICTURE, written / PICTURE)
        (written / "README.md").write_text(page_text(facts))
        (written / "first_screen.md").write_text(first_screen(facts))
        write_json_atomically(
            written / "proof.json",
            {
                "short": proof.state.short,
                "command": proof.command,
                "machine": facts.machine,
                "commit": facts.commit,
                "seconds": facts.seconds,
                "rates": {name: rate.to_json() for name, rate in facts.rates.items()},
                "submissions": facts.submissions,
                "runs": proof.state.runs,
            },
        )


def publish(results: Path, root: Path = ROOT) -> None:
    """Copy the pages into docs/example, and their summary into README's part about the proof.

    Raises StudyError if README has no such part.
    """
    summary = (results / "example" / "first_screen.md").read_text()
    write_part(root / "README.md", BEGIN, END, summary)
    with replaced(root / "docs" / "example") as written:
        shutil.copytree(results / "example", written, dirs_exist_ok=True)


def _gather(proof: "Proof") -> Facts:
    """Everything that the pages say. The reports are written again where weights are there."""
    contents, rates = {}, {}
    for name in (ROWS_STUDY, SEARCH_STUDY):
        study = proof.study(name)
        if study is None:
            raise StudyError(f"{proof.results} has no study {name} yet; continue the proof first")
        page = study.folder.path / "report" / "index.html"
        if not page.exists() or any(study.folder.path.glob("trials/*/best-*.safetensors")):
            report(study, str(proof.data))
        contents[name] = content_of(study)
        runs = proof.state.runs_of(name)
        last = proof.state.runs[-1]["machine"] if not runs else runs[-1]["machine"]
        places = places_of(study, last["processors"], len(last["gpus"]))
        rates[name] = rate_of(study, runs, places)
    machines = dict.fromkeys(machine_in_words(run["machine"]) for run in proof.state.runs)
    return Facts(
        proof, contents[ROWS_STUDY], contents[SEARCH_STUDY], rates,
        {name: _submission(proof.results / name / "best" / "submission.zip") for name in contents},
        "; then ".join(machines), proof.state.seconds,
        [one.left() for one in proof.stages() if one.name != "pages" and not one.is_done()],
    )  # fmt: skip


def _submission(path: Path) -> dict[str, Any]:
    """The content of a submission in numbers; empty if there is none."""
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        results = parse_json(archive.read("test-results.json"))
    return {
        "images": len({one["image_id"] for one in results}),
        "detections": len(results),
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def page_text(facts: Facts) -> str:
    """The example's README.md."""
    return "\n\n".join(part for part in _parts(facts) if part) + "\n"


def _parts(facts: Facts) -> Iterator[str]:
    state = facts.proof.state
    yield "# The reference report's question, answered on real tissue"
    if state.short:
        yield _short_note()
    if facts.left:
        yield f"> **Not finished.** {_left(facts)} The same command continues."
    yield (
        "The rows of the reference report and a search of its questions, on CoNSeP, split by tile"
        f" ({many(len(state.runs), 'run')}, {as_duration(facts.seconds)} in all, begun"
        f" {facts.begun}). {SHORT_FIRST if state.short else FIRST}\n\n"
        f"    {facts.proof.command}\n\n"
        f"Machine: {facts.machine}. Commit: {facts.commit or 'unknown'}. n is"
        f" {many(len(facts.rows.trials), 'training')} of {many(len(facts.rows.rows), 'row')}, and"
        f" {many(len(facts.search.trials), 'trial')} of the search with"
        f" {many(len(facts.search.confirm_trials), 'confirming training')}."
    )
    yield (
        f"The reports as the searches wrote them: [the rows]({ROWS_STUDY}.html),"
        f" [the search]({SEARCH_STUDY}.html). Their main tables: [the rows]({ROWS_STUDY}.md),"
        f" [the search]({SEARCH_STUDY}.md). Download a page to open it; it needs no other file."
    )
    yield "## The report's rows beside ours"
    yield CAN_AND_CANNOT_SAY
    for title, names in TABLES.items():
        yield f"### {title}\n\n{beside(names, facts.rows)}"
    yield _answer("What the rows say", facts.rows)
    yield _answer("What the search says", facts.search)
    yield _winner(facts.search)
    yield "## The two submissions\n\n" + "\n".join(_submission_lines(facts))
    yield "## How fast\n\n" + "\n".join(
        f"- `{name}`: {' '.join(rate.sentences(facts.on_gpu))}"
        for name, rate in facts.rates.items()
    )
    chosen = [
        f"- `{name}`: {' '.join([one['why'], *one['left_out']])}"
        for name, one in state.chosen.items()
    ]
    if state.short:
        chosen.append(f"- Of the rows, the short form trains {listed(short.SHORT_ROWS)} alone.")
    yield "## What was chosen, and what is missing\n\n" + "\n".join(chosen)
    yield "## What ran\n\n" + "\n".join(_runs(state.runs))


def _left(facts: Facts) -> str:
    return f"Left when this was written: {'; '.join(facts.left)}."


def _short_note() -> str:
    return (
        "> **These pages come from the short form of the proof, on a CPU.** It is"
        f" {short.IN_WORDS}. They show that the chain works from the first trial to the submission,"
        " and **no number here says anything about a method**. The same code makes the real pages"
        " from the real command, which needs one GPU and has not run yet:\n>\n"
        f">     {REAL_COMMAND}"
    )


def beside(names: Sequence[str], content: ReportContent) -> str:
    """A table in Markdown: rows of the report with its numbers, and ours beside them."""
    ours = _by_method(content.tables[0])
    heads = (
        "Row", "Report: validation", "public test", "private test", "Ours: AP50 (95% confidence)",
        "Trainings", "Compared with", "Difference (95% confidence)", "Verdict",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---:|---:|---:|---:|---|---:|---|"]
    for name in names:
        theirs = PUBLISHED.get(name)
        numbers = (
            (None,) * 3 if theirs is None else (theirs.validation, theirs.public, theirs.private)
        )
        own = ours.get(name)
        cells = [name, *(NO_VALUE if one is None else as_ap50(one) for one in numbers)]
        if own is None:
            cells += [NO_VALUE, "0", NO_VALUE, NO_VALUE, "not trained, see below"]
        else:
            columns = ("ap50", "repeats", "compared_with", "difference", "verdict")
            cells += [own[column] for column in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_method(table: Table) -> dict[str, dict[str, str]]:
    """The texts of the main table of variants: by method and name of the column."""
    names = [column.name for column in table.columns]
    rows = (dict(zip(names, row, strict=True)) for row in table.texts)
    return {row["method"]: row for row in rows}


def _answer(title: str, content: ReportContent) -> str:
    sentences = "\n".join(f"- {one}" for one in content.answer)
    return f"## {title}\n\n{sentences}"


def _winner(content: ReportContent) -> str:
    choice = content.choice
    if choice is None:
        return "Nothing was confirmed, so no winner was chosen on fresh seeds."
    found = choice.corrected
    interval = as_interval(found.estimate, found.low, found.high, signed=False)
    return (
        f"The winner is {choice.name} at epoch {choice.epoch}: AP50 {as_ap50(choice.score)} over"
        f" its confirming trainings, of which {as_ap50(choice.optimism)} is the estimated luck of"
        f" having been chosen; without it {interval}."
    )


def _submission_lines(facts: Facts) -> Iterator[str]:
    for name, what in SUBMITTED.items():
        found = facts.submissions[name]
        yield (
            f"- {what}: `{name}/best/submission.zip`, {many(found['images'], 'test image')} with"
            f" {many(found['detections'], 'detection')}, {found['bytes']:,} bytes, SHA-256"
            f" {found['sha256'][:12]}"
            if found
            else f"- {what}: no submission was written"
        )


def _runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| Begun | Stage | Seconds | Command |"
    yield "|---|---|---:|---|"
    for run in runs:
        seconds = "killed" if "seconds" not in run else f"{run['seconds']:,.0f}"
        yield f"| {run['begun']} | {run['stage']} | {seconds} | `{run['command']}` |"


def first_screen(facts: Facts) -> str:
    """README's part about the proof, in Markdown."""
    is_short = facts.proof.state.short
    if is_short:
        head = (
            "*The numbers of this part come from the short form of the proof, on a CPU*:"
            f" {short.IN_WORDS}. *They show that the chain works, and say nothing about any"
            " method.* The real command needs one GPU and some 15 minutes, and has not run yet:"
        )
    else:
        head = (
            "The reference report's question on CoNSeP, split by tile, from the first trial to the"
            f" submission: {as_duration(facts.seconds)} on {facts.machine}, by one command that can"
            " be stopped and continued anywhere:"
        )
    rate = facts.rates[ROWS_STUDY]
    rows = [
        f"- {row.name}: AP50 {text['ap50']}"
        + (
            f", {text['verdict']} than {text['compared_with']} ({text['difference']})"
            if row.verdict in ("better", "worse")
            else f", {text['verdict']} from {text['compared_with']} ({text['difference']})"
            if row.verdict
            else ""
        )
        for row in facts.rows.rows
        for text in [_by_method(facts.rows.tables[0])[row.name]]
    ]
    sums = [
        f"- The search: {many(len(facts.search.trials), 'trial')},"
        f" {many(len(facts.search.confirm_trials), 'confirming training')}."
        f" {_winner(facts.search)}",
        *(
            f"- The submission of {whose}: {many(found['images'], 'test image')} with"
            f" {many(found['detections'], 'detection')}."
            if (found := facts.submissions[name])
            else f"- The submission of {whose}: not written."
            for name, whose in SUBMITTED.items()
        ),
        f"- {rate.per_minute:,.0f} training images a minute over the whole wall time of the rows"
        f" (n = {rate.work.images:,} images, {facts.machine}).",
    ]
    images = [
        f"![{alt}](docs/example/{name})"
        for name, alt in (
            ("report.svg", "A figure from the report of the rows"),
            (PICTURE, "Tissue, its annotated cells, and the winner's predictions"),
        )
        if name != PICTURE or (not is_short and (facts.proof.results / PICTURE).exists())
    ]
    parts = [
        wrapped(head),
        "    " + REAL_COMMAND.replace(" --weights", " \\\n        --weights"),
        "\n".join(wrapped(line) for line in [*rows, *sums]),
        wrapped(f"Not finished. {_left(facts)} The same command continues.") if facts.left else "",
        "\n".join(images),
        wrapped(
            "[docs/example](docs/example/README.md) has the reports, the reference report's"
            " numbers beside ours, and what CoNSeP can and cannot say."
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def slim_page(page: str) -> str:
    """A report's page, whose PNG pictures are compressed again if it is too large otherwise."""
    if len(page.encode()) <= MOST_PAGE_BYTES:
        return page

    def smaller(found: "re.Match[str]") -> str:
        png = base64.b64decode(found[1])
        stream = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(stream, "WEBP", quality=80, method=6)
        if stream.tell() >= len(png):
            return found[0]
        return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"

    return re.sub(r"data:image/png;base64,([A-Za-z0-9+/=]+)", smaller, page)
