"""The contact sheet beside a report: the images that were searched on, with their outlines.

It is the doctor's page of the data set as the study read it. A study has one data set, so the sheet
is written once.
"""

from dataclasses import replace

from core.config import TrialConfig
from core.data.dataset import Dataset, Inspection
from core.doctor.diagnosis import examined
from core.doctor.page import page_of
from core.files import encoded, write_atomically
from tune.report.content import ReportContent

FILE = "images.html"
"""The file of the sheet, in the folder of the report."""


def write_contact_sheet(content: ReportContent) -> str | None:
    """Write the contact sheet into the report's folder; returns its file name.

    Returns None and writes nothing if the data set is not given, if it is another than the one that
    was searched on, or before a trial has settings, since these decide which images validate.

    Raises OSError if the file cannot be written.
    """
    path = content.folder.path / "report" / FILE
    if path.exists():
        return FILE
    record = next((one.record for one in content.trials if one.record.settings), None)
    if record is None or content.data is None or not _is_searched(content.data, content):
        return None
    config = TrialConfig.from_settings(record.settings, f"trial {record.id}")
    diagnosis = examined(Inspection(content.data, ()), content.request.data, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The doctor's next command is a search on these images, which has been made.
    write_atomically(path, encoded(page_of(replace(diagnosis, following=""))))
    return FILE


def _is_searched(data: Dataset, content: ReportContent) -> bool:
    return bool(data.fingerprint == content.folder.read_description()["data"]["fingerprint"])
