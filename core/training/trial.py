"""One trial: a configuration on a data set, trained epoch by epoch.

It can stop after any epoch and go on later as if it had not stopped.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from core.config import AT_HAND, AUTO, SETTINGS, PredictConfig, TrialConfig
from core.data.dataset import Dataset
from core.data.split import Split, group_names, split
from core.device import (
    is_out_of_memory,
    memory_format,
    precision_of,
    resolve_device,
    use_fast_kernels,
)
from core.errors import CheckpointError, SettingError, TornCheckpoint
from core.files import write_atomically
from core.fitting import READ_OFF_DATA, circumstances_of
from core.metric import ap50, coco_summary
from core.metric.limits import ClassLimits, class_limits
from core.metric.reweighted import pulls
from core.network import weights as pretrained
from core.network.build import build_detector
from core.network.detector import Detector
from core.network.weights import BaseWeights
from core.prediction.choice import evaluate_candidates
from core.prediction.detect import combine
from core.prediction.trained_model import TrainedModel
from core.prediction.views import Seen, look_at_samples
from core.randomness import Purpose, torch_seed
from core.sample import Detections, Sample
from core.training import checkpoint
from core.training.loop import Batch, TrainingBatches, seeded, train_one_epoch
from core.training.optim import Optimization
from core.training.pictured import picture, pictured_image

CHECKPOINT_FORMAT = 2
"""Version of the checkpoint's layout. A checkpoint of another version is refused."""

_MOST_THREADS = 1024


@dataclass(frozen=True)
class EpochReport:
    """The results of one epoch. Every number is finite.

    epoch               counted from 1
    losses              mean over training images of each loss term, and of their sum as 'loss'
    learning_rate       learning rate of the heads in the epoch's last step
    ap50                COCO AP50 of masks on the validation images, with at most `metric.max_dets`
                        detections per image and class, mean over the classes present; the
                        objective. None where there are no validation images
    ap50_uncapped       `ap50` with all detections
    ap50_box            `ap50` of boxes instead of masks
    ap50_per_class      `ap50` of each class; None for a class without a validation instance; empty
                        where there are no validation images
    seconds             wall time of `run_epoch`, which contains `train_seconds` and
                        `evaluate_seconds`
    wait_seconds        part of `train_seconds` in which training waited for the loader's next batch
    images_per_second   training images per second of `train_seconds`
    peak_memory_bytes   largest memory that tensors took on the GPU in training and evaluation; None
                        on a CPU
    steps               number of optimizer steps, each of which may take several batches
    detections          number of detections in all validation images
    capped_images       number of validation images with a tile that reached
                        `predict.max_detections`
    coco                COCO's twelve numbers of masks by `core.metric.coco_summary.SUMMARY_NAMES`,
                        None where there is nothing to find; empty except after the trial's last
                        epoch
    limits              what limited `ap50` of each class; empty except after an epoch that is the
                        best so far
    ap50_pulls          how far each validation image, or each group or block of images, pulled
                        `ap50` (see `core.metric.reweighted.pulls`): the sum of their squares is its
                        variance over samples of images. Empty where there are no validation images,
                        and in reports of earlier versions
    """

    epoch: int
    losses: dict[str, float]
    learning_rate: float
    ap50: float | None
    ap50_uncapped: float | None
    ap50_box: float | None
    ap50_per_class: tuple[float | None, ...]
    seconds: float
    train_seconds: float
    evaluate_seconds: float
    images_per_second: float
    peak_memory_bytes: int | None
    steps: int
    detections: int
    wait_seconds: float = 0.0
    capped_images: int = 0
    coco: Mapping[str, float | None] = field(default_factory=dict)
    limits: tuple[ClassLimits, ...] = ()
    ap50_pulls: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as a dictionary of JSON types."""
        return asdict(self) | {
            "ap50_per_class": list(self.ap50_per_class),
            "ap50_pulls": list(self.ap50_pulls),
            "limits": [one.to_json() for one in self.limits],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "EpochReport":
        """The report from which `to_json` made `content`."""
        limits = tuple(ClassLimits.from_json(one) for one in content.get("limits", ()))
        per_class = tuple(content["ap50_per_class"])
        pulls = tuple(content.get("ap50_pulls", ()))
        return cls(**content | {"ap50_per_class": per_class, "limits": limits, "ap50_pulls": pulls})


@dataclass(frozen=True)
class _Scored:
    """The detections in one validation image and what they matched; `graded` in the last epoch."""

    found: Detections
    matches: ap50.ImageMatches
    graded: coco_summary.GradedMatches | None


class Trial:
    """A trial on one device: call `run_epoch` `config.optim.epochs` times, and `save` after any.

    weights          pretrained weights; None to find and read those that `config.model.weights`
                     names
    validate         False to train on every image and validate on none; the last epoch is then the
                     best
    device           auto (the first GPU that torch sees, or else the CPU), cpu, or cuda:0 and so on
    loader_workers   number of processes that read and augment training images; 0 for this process.
                     Results do not depend on it
    threads          number of CPU threads of torch; None for torch's present number. On a CPU
                     results depend on it, so a loaded trial goes on with the number it began with
    predictions      settings of prediction with which the best epoch's model predicts the
                     validation images once more after the last epoch

    The attribute `config` has the values that every `auto` stands for on this data and device. Two
    attributes hold the results: `reports` of the epochs done, and `matches`, the match table of
    masks for each epoch run since the last save. From the last epoch until the next save
    `predictions` holds the match tables of the other settings of prediction; it is empty where they
    did not fit the GPU's memory.

    Raises SettingError, DataError, WeightsError or ResourceError for a trial that cannot run.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: Dataset,
        weights: BaseWeights | None = None,
        *,
        validate: bool = True,
        device: str = "auto",
        loader_workers: int = 0,
        threads: int | None = None,
        predictions: Sequence[PredictConfig] = (),
    ) -> None:
        if config.model.weights == AT_HAND:
            found = pretrained.weights_at_hand([config.model])
            config = config.changed({"model.weights": found})
        config = _with_intensity(config, data)
        if weights is None:
            file = pretrained.find_weights(config.model)
            weights = None if file is None else pretrained.read_weights(file)
        self.device = resolve_device(device)
        self.data = data
        self.threads = threads or torch.get_num_threads()
        self.predictions: dict[PredictConfig, ap50.MatchTable] = {}
        self._to_try = predictions
        self.split = (
            split(data, config.data) if validate else Split(tuple(range(len(data.samples))), ())
        )
        self._asked, self._loader_workers = config, loader_workers
        self._weights = None if weights is None else _identify(weights)
        # A checkpoint must agree on all of these, without which its weights mean nothing.
        self._identity: dict[str, Any] = {
            "weights": self._weights,
            "data": data.fingerprint,
            "validate": validate,
        }
        self._go_by(config.resolved(circumstances_of(config, data, precision_of(self.device))))
        self._build(weights)
        # Only a network that depends on the data may have to be built again.
        self._base = weights if READ_OFF_DATA & set(config.open) else None

    def _go_by(self, config: TrialConfig) -> None:
        """Use a configuration in which nothing is `auto`."""
        self.config = config
        self._identity["settings"] = config.settings()

    def _build(self, weights: BaseWeights | None) -> None:
        """Build all that depends on the configuration, and begin with no epoch done."""
        config = self.config
        self.reports: list[EpochReport] = []
        self.matches: dict[int, ap50.MatchTable] = {}
        self.batches = TrainingBatches(
            self.data,
            self.split.train,
            config,
            self._loader_workers,
            pin_memory=self.device.type == "cuda",
        )
        with seeded(torch_seed(config.seed, Purpose.INITIALISE), self.device):
            self.model = build_detector(
                config.model, len(self.data.classes), weights, config.predict
            )
        use_fast_kernels(self.device)
        self.model.to(self.device).to(memory_format=memory_format(self.device))
        self.optim = Optimization(self.model, config.optim, len(self.batches))
        self._best_weights: dict[str, torch.Tensor] = {}
        self._best_is_saved = False
        self._pictured: tuple[Sample, Detections, ap50.MatchTable] | None = None
        self._midway = False

    @property
    def evaluated(self) -> Detector:
        """The network that is evaluated and kept: the average of the one that trains, if any."""
        return self.model if self.optim.average is None else self.optim.average.model

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.reports)

    @property
    def best(self) -> EpochReport | None:
        """The report of the best epoch; None before the first epoch.

        The best epoch is the first one with the highest `ap50`, or the last epoch where there are
        no validation images.
        """
        if not self.split.validation:
            return self.reports[-1] if self.reports else None
        return max(self.reports, key=lambda report: report.ap50 or 0.0, default=None)

    def run_epoch(self, progress: Callable[[float], object] = float) -> EpochReport:
        """Train one epoch and evaluate it on the validation images.

        progress   called after each batch and each validation image with the fraction of the
                   epoch's images that were seen; after the last epoch with 1 for each image with
                   which other settings of prediction were tried

        Raises TrialDiverged (see `train_one_epoch`), and ProcessLost where a loader's process died.
        After any exception the weights belong to no epoch, and the trial can be used again only
        after `load`. After ProcessLost the loader is gone, so a new trial is needed.
        """
        with self.batches.losses_named():
            return self._run_epoch(progress)

    def _run_epoch(self, progress: Callable[[float], object]) -> EpochReport:
        assert not self._midway, "an epoch broke off; load a checkpoint first"
        epoch = self.epoch + 1
        assert epoch <= self.config.optim.epochs, f"all {self.config.optim.epochs} epochs are done"
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        torch.set_num_threads(self.threads)
        self._midway = True
        begin = time.perf_counter()
        images = self.batches.images + len(self.split.validation)

        waited = 0.0

        def counted(batches: Iterator[Batch]) -> Iterator[Batch]:
            nonlocal waited
            seen = 0
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch
                seen += len(batch.images)
                progress(seen / images)

        with seeded(torch_seed(self.config.seed, Purpose.TRAIN, epoch), self.device):
            batches = counted(self.batches.of_epoch(epoch))
            losses = train_one_epoch(self.model, batches, self.optim, epoch)
        trained = time.perf_counter()
        scores = self._evaluate(epoch, lambda seen: progress((self.batches.images + seen) / images))
        end = time.perf_counter()
        schedule = self.optim.schedule
        report = EpochReport(
            epoch=epoch,
            losses=losses,
            learning_rate=schedule.learning_rate(epoch * schedule.steps_per_epoch - 1),
            **scores,
            seconds=end - begin,
            train_seconds=trained - begin,
            evaluate_seconds=end - trained,
            wait_seconds=waited,
            images_per_second=self.batches.images / (trained - begin),
            peak_memory_bytes=(
                torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
            ),
            steps=schedule.steps_per_epoch,
        )
        self.reports.append(report)
        if self.best is report:
            self._best_weights = {
                name: value.detach().cpu().clone()
                for name, value in self.evaluated.trained_state().items()
            }
            self._best_is_saved = False
        if epoch == self.config.optim.epochs and self._to_try:
            self._try_predictions(progress)
            seconds = time.perf_counter() - end
            self.reports[-1] = report = replace(
                report,
                seconds=report.seconds + seconds,
                evaluate_seconds=report.evaluate_seconds + seconds,
            )
        self._midway = False
        return report

    def _try_predictions(self, progress: Callable[[float], object]) -> None:
        """Evaluate the other settings of prediction; no result if they do not fit the GPU."""
        samples = [self.data.samples[index] for index in self.split.validation]
        try:
            evaluated = evaluate_candidates(
                self.trained_model(),
                samples,
                self._to_try,
                lambda _: progress(1.0),
                helpers=self.threads - 1,
                keep=False,
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            self.predictions = {one.config: one.masks for one in evaluated}

    def _evaluate(self, epoch: int, progress: Callable[[int], object]) -> dict[str, Any]:
        """The scores of an epoch by their names in EpochReport.

        Evaluation is in float32, because the model is used in float32 later.
        """
        if not self.split.validation:
            return {
                "ap50": None,
                "ap50_uncapped": None,
                "ap50_box": None,
                "ap50_per_class": (),
                "detections": 0,
            }
        model = self.evaluated.eval()
        samples = [self.data.samples[index] for index in self.split.validation]
        classes = len(self.data.classes)

        is_last = epoch == self.config.optim.epochs

        def end(sample: Sample, seen: Seen) -> _Scored:
            found = combine(seen, self.config.predict)
            graded = coco_summary.match_graded(sample, found, classes) if is_last else None
            return _Scored(found, ap50.match_image(sample, found, classes), graded)

        scored = look_at_samples(
            [model],
            samples,
            [self.config.predict],
            end,
            tile=self.config.data.crop,
            helpers=self.threads - 1,
            progress=progress,
        )
        masks, boxes = ap50.match_tables([one.matches for one in scored], classes)
        self.matches[epoch] = masks
        max_dets = self.config.metric.max_dets
        of_masks = ap50.ap50(masks, max_dets)
        is_best = self.best is None or of_masks.mean > (self.best.ap50 or 0.0)
        place = pictured_image(samples) if is_best else None
        if place is not None:
            self._pictured = samples[place], scored[place].found, masks
        return {
            "ap50": of_masks.mean,
            "ap50_uncapped": ap50.ap50(masks, None).mean,
            "ap50_box": ap50.ap50(boxes, max_dets).mean,
            "ap50_per_class": of_masks.per_class,
            "ap50_pulls": pulls(
                masks,
                max_dets,
                group_names(masks.image_names, self.config.data.group_pattern, "validation"),
            ),
            "detections": sum(len(one.found) for one in scored),
            "capped_images": sum(one.found.full_tiles > 0 for one in scored),
            "coco": (
                coco_summary.summarize([one.graded for one in scored if one.graded is not None])
                if is_last
                else {}
            ),
            "limits": (
                class_limits([one.matches for one in scored], classes, max_dets) if is_best else ()
            ),
        }

    def trained_model(self) -> TrainedModel:
        """A copy of the model after its best epoch, on the trial's device, in evaluation mode."""
        assert self.best is not None, "there is no model before the first epoch"
        return self._model_with(self._best_weights)

    def kept_model(self, folder: Path) -> TrainedModel | None:
        """The best epoch's model of a trial that was saved in `folder`; None without its weights.

        The trial takes the values that every `auto` stood for then; otherwise it does not change.
        Raises CheckpointError as `load` does.
        """
        path = max(folder.glob("best-*.safetensors"), default=None)
        if path is None:
            return None
        tensors, state = checkpoint.load_checkpoint(path)
        with _damage_named(path):
            self._take_resolved(state)
        self._check_identity(path, state)
        self._check_layers(path, tensors)
        return self._model_with(tensors)

    def _model_with(self, state: dict[str, torch.Tensor]) -> TrainedModel:
        """A copy of the model in evaluation mode; `state` has the tensors that training changes."""
        model = copy.deepcopy(self.evaluated)  # with the size of a batch that fits the GPU's memory
        model.load_state_dict(state, strict=False)
        model.requires_grad_(False)
        model.eval()
        return TrainedModel(self.config, self.data.classes, model, self._weights)

    def save(self, folder: Path) -> None:
        """Write to `folder` all that `load` needs, and the model of the best epoch.

        The files are written in this order, each whole or not at all: `matches/epoch-0007.npz` of
        the epochs run since the last save; `matches/predict-KEY.npz` of other settings of
        prediction, where KEY is `PredictConfig.key`; `best-0007.safetensors`, the weights of the
        best epoch, averaged if `optim.ema` asks for it; `overlay.jpg`, a validation image with the
        predictions of the best epoch; `last.safetensors`. Then the weights of
        earlier best epochs are removed. Whenever the process dies, `last.safetensors` names files
        that exist.
        """
        best = self.best
        assert best is not None, "there is nothing to save before the first epoch"
        assert not self._midway, "an epoch broke off; its weights belong to no epoch"
        (folder / "matches").mkdir(parents=True, exist_ok=True)
        for epoch, table in self.matches.items():
            table.save(folder / "matches" / f"epoch-{epoch:04d}.npz")
        for config, table in self.predictions.items():
            table.save(folder / "matches" / f"predict-{config.key}.npz")
        best_path = _best_path(folder, best.epoch)
        if not (self._best_is_saved and best_path.exists()):
            state = {"format": CHECKPOINT_FORMAT, **self._identity, "report": best.to_json()}
            checkpoint.save_checkpoint(best_path, self._best_weights, state)
            if self._pictured is not None:
                sample, found, table = self._pictured
                drawn = picture(sample, found, self.data.classes, table)
                write_atomically(folder / "overlay.jpg", drawn)
                self._pictured = None
        state = {
            "format": CHECKPOINT_FORMAT,
            **self._identity,
            "threads": self.threads,
            "epoch": self.epoch,
            "reports": [report.to_json() for report in self.reports],
            "best": {"epoch": best.epoch, "file": best_path.name},
        }
        checkpoint.save_checkpoint(folder / "last.safetensors", self._tensors(), state)
        self._best_is_saved = True
        self.matches, self.predictions = {}, {}
        _remove_what_is_not_named(folder, best_path)

    def load(self, folder: Path) -> bool:
        """Go on from the files that `save` wrote to `folder`; returns whether there were any.

        Without a `last.safetensors` in the folder it returns False, and nothing changes. The trial
        goes on with the number of threads with which it began, and with the values that every
        `auto` stood for when it began. Files that a lost attempt left behind are removed; match
        tables of epochs that were lost stay until the epoch is run again.

        Raises CheckpointError for a file of another configuration, data set or pretrained weights,
        and TornCheckpoint for one that is damaged: `discard` it to begin anew.
        """
        path = folder / "last.safetensors"
        if not path.exists():
            return False
        tensors, state = checkpoint.load_checkpoint(path)
        with _damage_named(path):
            self._take_resolved(state)
        self._check_identity(path, state)
        with _damage_named(path):
            best_path = _best_path(folder, state["best"]["epoch"])
            threads, reports = (
                int(state["threads"]),
                [EpochReport.from_json(report) for report in state["reports"]],
            )
        if not 1 <= threads <= _MOST_THREADS or [report.epoch for report in reports] != [
            *range(1, len(reports) + 1)
        ]:
            raise TornCheckpoint(
                f"{path} is damaged: it counts {threads} threads and {len(reports)} reports"
            )
        best_weights, best_state = checkpoint.load_checkpoint(best_path)
        self._check_identity(best_path, best_state)
        self._check_layers(best_path, best_weights)
        self._restore(path, tensors)
        self.threads = threads
        self.reports = reports
        self.matches = {}
        self._midway = False
        self._best_weights, self._best_is_saved = best_weights, True
        self._pictured = None
        _remove_what_is_not_named(folder, best_path)
        return True

    def discard(self, folder: Path) -> None:
        """Rename a torn checkpoint, as `last.safetensors.torn`: the next `load` begins anew."""
        path = folder / "last.safetensors"
        path.replace(path.with_suffix(".safetensors.torn"))

    def _take_resolved(self, state: dict[str, Any]) -> None:
        """Go on with the values that every `auto` stood for in a checkpoint.

        This version or this device might choose others. Raises ValueError for values that no `auto`
        can stand for.
        """
        kept = {name: state["settings"].get(name, SETTINGS[name]) for name in self._asked.open}
        try:
            config = self._asked.changed(kept)
        except SettingError as error:
            raise ValueError(str(error)) from None
        before, now = self.config.settings(), config.settings()
        if config.open or before == now:
            return
        self._go_by(config)
        if any(before[name] != now[name] for name in READ_OFF_DATA):
            self._build(self._base)
        else:  # only the precision differs, on which only the optimization depends
            self.optim = Optimization(self.model, config.optim, len(self.batches))

    def _check_identity(self, path: Path, state: dict[str, Any]) -> None:
        with _damage_named(path):
            self._compare_identity(path, state)

    def _compare_identity(self, path: Path, state: dict[str, Any]) -> None:
        """Raise CheckpointError if a checkpoint is of another format, configuration or input."""
        if state.get("format") != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{path} has format {state.get('format')}, and this version reads format"
                f" {CHECKPOINT_FORMAT}; use the version that wrote it, or begin in another folder"
            )
        # A setting that an earlier version did not have is taken to have had its default.
        before, now = {**SETTINGS, **state["settings"]}, self._identity["settings"]
        for name in [*now, *(name for name in before if name not in now)]:
            if before.get(name) != now.get(name):
                raise CheckpointError(
                    f"{path} belongs to another configuration: {name} was {before.get(name)!r} and"
                    f" is {now.get(name)!r}; go back to the old value, or begin in another folder"
                )
        if state["weights"] != self._identity["weights"]:
            raise CheckpointError(
                f"{path} began from other pretrained weights: they were"
                f" {_describe(state['weights'])} and are {_describe(self._identity['weights'])};"
                " bring the old ones back, or begin in another folder"
            )
        if state["validate"] != self._identity["validate"]:
            images = "a part of the images" if state["validate"] else "all images"
            raise CheckpointError(
                f"{path} was trained on {images}; do so again, or begin in another folder"
            )
        if state["data"] != self._identity["data"]:
            raise CheckpointError(
                f"{path} belongs to another data set: its fingerprint was {state['data'][:12]} and"
                f" is {self._identity['data'][:12]}; bring the old images and masks back, or begin"
                " in another folder"
            )

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All that `load` needs of the networks and their optimization, by name.

        These are `model.NAME` of what trains, `average.NAME` of its average if there is one, and
        the state of the optimization.
        """
        networks = {
            f"{part}.{name}": value
            for part, network in self._networks().items()
            for name, value in network.trained_state().items()
        }
        return networks | self.optim.tensors()

    def _networks(self) -> dict[str, Detector]:
        """The network that trains and its average, by the names under which they are saved."""
        average = self.optim.average
        return {"model": self.model} | ({} if average is None else {"average": average.model})

    def _check_layers(self, path: Path, weights: dict[str, torch.Tensor]) -> None:
        """Raise CheckpointError unless the names and shapes are those that training changes."""
        expected = {name: value.shape for name, value in self.model.trained_state().items()}
        if {name: value.shape for name, value in weights.items()} != expected:
            raise CheckpointError(
                f"{path} holds other layers than this trial trains; begin in another folder"
            )

    def _restore(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Restore the tensors that `_tensors` returned."""
        states = {
            part: {
                name.removeprefix(f"{part}."): value
                for name, value in tensors.items()
                if name.startswith(f"{part}.")
            }
            for part in self._networks()
        }
        for state in states.values():
            self._check_layers(path, state)
        for part, network in self._networks().items():
            network.load_state_dict(states[part], strict=False)
        with _damage_named(path):
            self.optim.restore(tensors)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Raise TornCheckpoint in place of errors on JSON that is not a state as `save` writes it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TornCheckpoint(
            f"{path} is damaged ({type(error).__name__}: {error}); remove it to begin anew"
        ) from None


def _best_path(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:04d}.safetensors"


def _identify(weights: BaseWeights) -> dict[str, Any]:
    return {"name": weights.name, "sha256": weights.sha256, "stride_in_1x1": weights.stride_in_1x1}


def _describe(weights: dict[str, Any] | None) -> str:
    return "none" if weights is None else f"{weights['name']} (SHA-256 {weights['sha256'][:12]})"


def _with_intensity(config: TrialConfig, data: Dataset) -> TrialConfig:
    """The configuration with the range by which the data set's images were brought to 8 bits.

    New images are brought to 8 bits by the same one. Raises SettingError for another range.
    """
    if data.intensity is None or config.data.intensity == data.intensity:
        return config
    if config.data.intensity != AUTO:
        raise SettingError(
            f"data.intensity is {config.data.intensity}, and the data set was read with"
            f" {data.intensity}; read it with the settings of the trial"
        )
    return config.changed({"data.intensity": data.intensity})


def _remove_what_is_not_named(folder: Path, best: Path) -> None:
    """Remove weights of epochs that are no longer the best, and files left half written."""
    for path in folder.glob("best-*.safetensors"):
        if path != best:
            path.unlink()
    for path in [*folder.glob(".*.part"), *folder.glob("matches/.*.part")]:
        path.unlink()
