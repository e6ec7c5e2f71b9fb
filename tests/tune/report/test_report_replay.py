"""The reference report's table, replayed through the whole engine: what 41 images and one seed
can and cannot tell.
"""

import csv
import io

import pytest
from rich.console import Console

from benchmarks import report_replay
from benchmarks.report_replay import IMAGES, NEAR, TABLE_1
from tune.ledger.records import State
from tune.report.content import ReportContent, content_of
from tune.study.reading import read_study

pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> ReportContent:
    plan = report_replay.run(tmp_path_factory.mktemp("results"), Console(file=io.StringIO()))
    return content_of(read_study(plan.request.study, plan.options.results))


def test_every_row_has_the_score_of_the_report_and_an_interval_that_is_wider_than_the_whole_table(
    findings: ReportContent,
) -> None:
    assert findings.finished
    assert [row.name for row in findings.rows] == list(TABLE_1)
    for row in findings.rows:
        assert row.measured == pytest.approx(TABLE_1[row.name], abs=NEAR)
        assert row.interval is not None
        assert row.interval.low < row.ap50 < row.interval.high
    without_the_worst = [ap50 for name, ap50 in TABLE_1.items() if name != "Full fine-tuning"]
    spread = max(without_the_worst) - min(without_the_worst)
    assert all(
        row.interval.high - row.interval.low > spread for row in findings.rows if row.interval
    )


def test_the_data_cannot_tell_the_rows_of_the_report_from_its_baseline(
    findings: ReportContent,
) -> None:
    """All of them but full fine-tuning, which lost 0.12: that may be found or not."""
    verdicts = {row.name: row.verdict for row in findings.rows}
    assert verdicts.pop("Res50") == ""
    assert verdicts.pop("Full fine-tuning") in ("cannot tell", "worse")
    assert set(verdicts.values()) == {"cannot tell"}
    for row in findings.rows[1:]:
        assert row.difference is not None
        assert (row.difference.units, row.difference.repeats, row.difference.seed_se) == (
            IMAGES,
            1,
            None,
        )
    value = findings.smallest_difference.value
    assert value is not None
    assert value > 0.05  # all differences of the report but one are smaller


def test_the_answer_says_what_cannot_be_told_and_that_one_training_each_is_no_method(
    findings: ReportContent,
) -> None:
    first, second, *others = findings.answer
    assert first.startswith("Partial has the highest validation AP50 of 8 methods: 0.48")
    assert first.endswith(
        "from one training, so the interval is over images alone and not over other seeds."
    )
    assert second.startswith(
        "The data cannot tell whether the model trained as Partial is better than that trained as"
        " Res50: "
    )
    assert any(one.startswith("The data cannot tell these from Res50: Aug. (") for one in others)
    assert any(
        "the verdicts are about these trained models, not about the methods" in one
        for one in others
    )
    assert not any("differ only in" in one for one in findings.answer)


def test_the_tables_of_the_report_are_there(findings: ReportContent) -> None:
    tables = {table.name: table for table in findings.tables}
    assert findings.tables[0].name == "methods"
    methods = {row["method"]: row for row in csv.DictReader(io.StringIO(tables["methods"].csv()))}
    records = {trial.record.name: trial.record for trial in findings.trials}
    for name in TABLE_1:
        assert records[name].state is State.COMPLETE
        assert float(methods[name]["ap50_best"]) == records[name].ap50
        assert float(methods[name]["ap50_last"]) == records[name].curve[-1]
    assert [row[0] for row in tables["restarts"].rows] == ["Res50", "Res50 with restart"]
    assert [row[0] for row in tables["freezing"].rows] == ["Res50", "Partial", "Full fine-tuning"]
    assert "backbones" not in tables


def test_trials_of_the_engine_left_a_match_table_of_every_epoch(findings: ReportContent) -> None:
    assert not any(trial.trouble for trial in findings.trials)
    assert all(trial.interval is not None for trial in findings.trials)
