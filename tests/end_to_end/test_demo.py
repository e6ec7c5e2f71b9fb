"""The demo does on any machine what its file and the README promise."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from core import data as datasets
from core.metric import ap50
from core.prediction.detect import predict
from core.training.trial import Trial
from tune.request import file as space_file

DEMO = Path(__file__).parents[2] / "search_spaces/demo.yaml"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_ends_with_some_trials_stopped_early_and_a_winner_clearly_above_an_untrained_model(
    tmp_path: Path,
) -> None:
    arguments = [sys.executable, "-m", "tune.search", "--space", str(DEMO), "--gpus-per-trial", "0"]
    subprocess.run(arguments, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    study = optuna.load_study(
        study_name="demo", storage=f"sqlite:///{tmp_path}/results/demo/study.db"
    )
    states = [trial.state.name for trial in study.trials]
    assert len(states) >= 6
    assert states.count("PRUNED") >= 1
    assert states.count("COMPLETE") >= 2

    request = space_file.load_request(DEMO)
    config = request.space.resolve(study.best_trial.params)
    data = datasets.load_data(request.data)
    untrained = Trial(config, data, device="cpu")
    untrained.model.eval()
    samples = [data.samples[index] for index in untrained.split.validation]
    found = [predict(untrained.models, sample.image, config.predict) for sample in samples]
    masks, _ = ap50.match_images(samples, found, len(data.classes))
    assert study.best_value > 0.1 + ap50.ap50(masks, config.metric.max_dets).mean
