"""The number of trials that share a GPU, decided from measurements of trials that trained at once.

`tune.engine.rehearsal` measures. Here are the rules, and the file that keeps the measurements.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from core.augmentations import AUGMENTATIONS
from core.backbones import BACKBONES
from core.config import AUTO, TrialConfig, Value
from core.detectors import DETECTORS
from core.files import read_json
from core.text import listed, many
from core.values import as_percent, as_tenths
from tune.space.domains import Domain
from tune.space.space import SearchSpace

PACKING_FORMAT = 2
"""Version of `packing.json`. Where a file has another version, everything is measured anew."""
FAILED, CUT_SHORT = "failed", "cut_short_after"
"""Keys of `packing.json` that say why nothing was measured: a reason; seconds until time was up."""
_FACT_TYPES: Mapping[str, tuple[type, ...]] = {FAILED: (str,), CUT_SHORT: (int, float)}
GAIN = 1.1
"""Smallest ratio of two speeds that counts as a gain. Measurements of two seconds scatter by nearly
10%, and few trials at once have merits of their own: each has more memory, and the sampler knows
more results when it proposes the next one."""
MEMORY = 0.92
"""Fraction of a memory that trials may fill; the rest is for what no allocator counts."""
MARGIN = 1.15
"""Memory reserved for a trial, as a multiple of the most that a measured one held: other images,
more proposals or fragmentation may need more."""
MOST_TRIALS = 16
"""Largest number of trials on one GPU: further processes would cost more than they gain."""


def _rank(name: str) -> Callable[[Value], float]:
    """A sort key for the values of a setting: the larger the key, the more memory a trial takes."""
    if name == "model.backbone":
        return lambda value: BACKBONES[str(value)].memory_rank
    if name == "model.detector":
        return lambda value: DETECTORS[str(value)].memory_rank
    if name == "optim.precision":
        return lambda value: ("bf16", "fp16", "auto", "fp32").index(str(value))
    if name == "optim.ema":
        return lambda value: float(bool(value))
    if name == "data.crop":
        return lambda value: float("inf") if not value else float(value)  # 0: the whole image
    if name == "predict.scales":
        return lambda value: float(str(value).rpartition(",")[2])  # the last is the largest
    return float


HEAVY = (
    "optim.batch_size", "model.image_min_side", "model.image_max_side", "model.size_jitter",
    "data.crop",
    "model.trainable_layers", "model.backbone", "model.detector", "model.trainable_fpn",
    "model.mask_side", "model.norm",
    "model.proposals_train", "model.box_samples", "model.rpn_samples", "model.proposals_test",
    "predict.max_detections", "predict.tile", "predict.scales", "optim.ema", "optim.precision",
    "augment.copy_paste_most",
)  # fmt: skip
"""The settings on which a trial's memory depends, the largest effect first."""


def _heavy() -> tuple[str, ...]:
    """The settings that are measured at their heaviest: HEAVY, then the switches of augmentations.

    The switches count because augmenting takes processor time.
    """
    return (*HEAVY, *(f"augment.{name}" for name in AUGMENTATIONS))


def heaviest(space: SearchSpace, tried: Mapping[str, Sequence[Value]] | None = None) -> TrialConfig:
    """The configuration of a study that takes most memory, judged by the settings in HEAVY.

    Where settings are searched, it has every augmentation that the study tries; of variants, it is
    one of them.

    tried   settings of prediction, each with the values that are tried after training
    """
    config = _heaviest(space)
    heavy = {name: values for name, values in (tried or {}).items() if name in HEAVY}
    ways = config.predictions(heavy, space.auto)
    return max((config.model_copy(update={"predict": one}) for one in ways), key=_weight)


def _heaviest(space: SearchSpace) -> TrialConfig:
    """The heaviest configuration of the trials, without what is tried after training."""
    heavy = _heavy()
    if space.variants:
        return max((row.config for row in space.rows()), key=_weight)

    def ends(name: str, domain: Domain) -> list[Value]:
        """The values of a setting that the heaviest configuration may have.

        The memory that `auto` or a norm takes depends on the other settings, so all of these stay.
        """
        if name not in heavy:
            return [domain.corners[0]]
        if name == "model.norm":
            return [*domain.corners]
        numbers = [value for value in domain.corners if value != AUTO]
        largest = [max(numbers, key=_rank(name))] if numbers else []
        return [*largest, *([AUTO] if AUTO in domain else [])]

    def at(values: Sequence[Value]) -> TrialConfig:
        point = dict(zip(tried, values, strict=True))
        return space.resolve(space.sample(lambda name, _: point[name]))

    tried = {one.name: ends(one.name, one.domain) for one in space.parameters}
    return max(map(at, itertools.product(*tried.values())), key=_weight)


def _weight(config: TrialConfig) -> tuple[float, ...]:
    """A sort key for configurations: the rank of each setting in `_heavy`, in this order.

    The rank of an image's side depends on the size jitter too, and that of a norm on the precision.
    """
    model, largest = config.model, 1 + config.model.size_jitter
    # Batch norm trains in the backbone too, where it keeps its input; frozen norm keeps it in
    # reduced precision alone. Group norm computes in float32 in any precision.
    norms = ("frozen", "batch", "group")
    if config.optim.precision not in ("bf16", "fp16"):
        norms = ("frozen", "group", "batch")
    settings = config.settings() | {
        "model.image_min_side": largest * model.image_min_side,
        "model.image_max_side": largest * model.image_max_side,
        "model.norm": norms.index(model.norm),
    }
    return tuple(_rank(name)(settings[name]) for name in _heavy())


def what_matters(config: TrialConfig) -> dict[str, Value]:
    """The settings of a configuration that decide its memory and its speed, by their names."""
    settings = config.settings()
    return {
        name: value
        for name, value in settings.items()
        if name in HEAVY or name.startswith("augment.")
    }


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU of this machine: those of one name and size of memory.

    name     name of the GPU, as torch has it
    memory   bytes; 0 for a CPU, which stands in for a GPU in tests
    number   number of such GPUs
    first    torch's index of the first of them
    """

    name: str
    memory: int
    number: int = 1
    first: int = 0


@dataclass(frozen=True)
class Conditions:
    """The facts on which a measurement depends: it is used again only where all are the same.

    settings         the settings of the measured configuration that decide memory and speed
    gpus             the kinds of GPU of this machine
    cpus             processors that may be used
    memory           bytes of the machine's memory that may be used; 0 where that is not known
    cpus_per_trial   the request's `resources.cpus_per_trial`
    parallel         the request's largest number of trials at once; None for as many as fit
    services         the ways to share a GPU that are measured: False for turns, True for NVIDIA's
                     Multi-Process Service
    """

    settings: Mapping[str, Value]
    gpus: tuple[Gpu, ...]
    cpus: int
    memory: int
    cpus_per_trial: int | str
    parallel: int | None
    services: tuple[bool, ...]


@dataclass(frozen=True)
class Round:
    """The outcome of one measurement, in which some trials trained at once on one GPU.

    trials              number of these trials
    service             whether they shared the GPU by NVIDIA's Multi-Process Service
    images_per_second   training images per second of all of them together; 0 if the round failed
    peak_bytes          largest GPU memory that one of them held; 0 on a CPU
    host_bytes          largest main memory that one of them had for itself
    trouble             the reason why the round failed; empty if it did not
    """

    trials: int
    service: bool
    images_per_second: float
    peak_bytes: int = 0
    host_bytes: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Measured:
    """The rounds on one kind of GPU, in the order of their measurement; the first has one trial."""

    gpu: Gpu
    rounds: tuple[Round, ...]


def images_per_second(trainings: Sequence[Sequence[tuple[float, int]]], since: float) -> float:
    """Training images per second of all trials together, while all of them train at once.

    0 where they never train at once.

    trainings   for each trial its steps in their order: the time at which each ended, in seconds,
                and the number of its images
    since       time from which on all trials train, by the same clock
    """
    begin = max(next((end for end, _ in steps if end >= since), math.inf) for steps in trainings)
    until = min(steps[-1][0] for steps in trainings)
    if until <= begin:
        return 0.0
    images = 0.0
    for steps in trainings:
        ends, counts = zip(*steps, strict=True)
        # A step that begins before or ends after the common time counts in part.
        first, last = np.interp([begin, until], ends, np.cumsum(counts))
        images += last - first
    return float(images / (until - begin))


def numbers_to_measure(most: int) -> list[int]:
    """The numbers of trials to measure: 1, 2, 4 and so on below `most`, and `most` itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def next_number(rounds: Sequence[Round], most: int) -> int | None:
    """The number of trials to measure after `rounds`; None where measuring ends.

    It ends where the last round failed or gained nothing over the one before, and at `most`.

    rounds   the rounds so far, in growing numbers of trials; the first has one trial
    most     largest number of trials to measure
    """
    last = rounds[-1].images_per_second
    if last <= 0 or (len(rounds) > 1 and last < GAIN * rounds[-2].images_per_second):
        return None
    return next((number for number in numbers_to_measure(most) if number > rounds[-1].trials), None)


def most_that_fit(held: int, free: int) -> int:
    """The number of trials for which a memory has room, from 1 to MOST_TRIALS.

    held   largest number of bytes that one trial held
    free   bytes that all of them together may take

    0 for either means that it is not known; then the number is MOST_TRIALS.
    """
    if held <= 0 or free <= 0:
        return MOST_TRIALS
    return max(1, min(int(MEMORY * free / (MARGIN * held)), MOST_TRIALS))


def speeds(gpus: Iterable[Measured], service: bool) -> dict[int, float]:
    """Images per second of all GPUs together, by the number of trials on each GPU.

    service   whether to take the rounds with NVIDIA's service, or those without

    Only numbers of trials that worked on every kind of GPU are in it.
    """
    found = [
        {
            one.trials: measured.gpu.number * one.images_per_second
            for one in measured.rounds
            if one.service is service and one.images_per_second > 0
        }
        for measured in gpus
    ]
    common = set[int].intersection(*map(set, found)) if found else set()
    return {trials: sum(kind[trials] for kind in found) for trials in sorted(common)}


def best_number(by_trials: Mapping[int, float]) -> int:
    """The smallest number of trials whose speed no other number exceeds by a gain (GAIN).

    by_trials   images per second by the number of trials; not empty
    """
    most = max(by_trials.values())
    return min(trials for trials, speed in by_trials.items() if GAIN * speed > most)


def choose_sharing(turns: Mapping[int, float], together: Mapping[int, float]) -> tuple[int, bool]:
    """The number of trials that share a GPU, and whether they do so by the service.

    The service is used if its best number of trials is a gain over the best number that takes
    turns. One trial shares nothing, and needs no service.

    turns      images per second, by the number of trials that take turns
    together   images per second, by the number of trials that share the GPU by the service; one of
               the two may be empty
    """
    if not together:
        return best_number(turns), False
    trials = best_number(together)
    if turns and together[trials] < GAIN * turns[best_number(turns)]:
        return best_number(turns), False
    return trials, trials > 1


@dataclass(frozen=True)
class Packing:
    """The measurements of a study's heaviest settings on this machine, and the choice they lead to.

    gpus   the measurements on each kind of GPU

    All trials of a machine have the same share of a GPU, because Ray alone decides which GPU a
    trial gets. So where GPUs differ, the number of trials is one that works on each of them.
    """

    conditions: Conditions
    gpus: tuple[Measured, ...]

    @property
    def choice(self) -> tuple[int, bool]:
        """The number of trials that share a GPU, and whether they do so by the service."""
        return choose_sharing(speeds(self.gpus, False), speeds(self.gpus, True))

    @property
    def trials(self) -> int:
        """Number of trials that share a GPU."""
        return self.choice[0]

    @property
    def service(self) -> bool:
        """Whether they share it by NVIDIA's Multi-Process Service."""
        return self.choice[1]

    @property
    def against_service(self) -> str:
        """The reason why the service was measured and is not used, as the end of a sentence.

        Empty where it is used, was not measured, or one trial has a GPU.
        """
        turns, together = speeds(self.gpus, False), speeds(self.gpus, True)
        if True not in self.conditions.services or self.service or self.trials == 1:
            return ""
        if not together:
            return "no trials that shared a GPU by the service trained"
        return (
            f"the service gained less than {as_percent(GAIN - 1)}"
            f" ({as_tenths(together[best_number(together)])} images/s,"
            f" and {as_tenths(turns[best_number(turns)])} by turns)"
        )

    @property
    def images_per_second_alone(self) -> float:
        """Training images per second of one trial alone on a GPU: the mean over the GPUs."""
        return self._mean(lambda measured: measured.rounds[0].images_per_second)

    @property
    def images_per_second_packed(self) -> float:
        """Training images per second of all trials of one GPU together: the mean over the GPUs."""
        trials, service = self.choice
        if trials == 1:
            return self.images_per_second_alone
        return speeds(self.gpus, service)[trials] / sum(one.gpu.number for one in self.gpus)

    def _mean(self, of: Callable[[Measured], float]) -> float:
        """The mean of a number over all GPUs; a kind counts as often as there are GPUs of it."""
        weights = [one.gpu.number for one in self.gpus]
        total = math.fsum(one.gpu.number * of(one) for one in self.gpus)
        return total / sum(weights)

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence on the measurements and the choice, then one for each note to the user."""
        trials, service = self.choice
        share = "1 trial has a GPU" if trials == 1 else f"{trials} trials share a GPU"
        by = ", by NVIDIA's Multi-Process Service" if service else ""
        settings = self.conditions.settings
        found = (
            f"The heaviest settings ({settings['model.backbone']}, batch"
            f" {settings['optim.batch_size']}) trained"
            f" {'; '.join(map(_in_words, self.gpus))}: {share}{by}"
        )
        return (found, *self._notes())

    def _notes(self) -> Iterable[str]:
        """Sentences on rounds that failed, and on GPUs that differ."""
        for measured in self.gpus:
            for one in measured.rounds:
                if one.trouble:
                    yield (
                        f"{many(one.trials, 'trial')} at once{_way(one)} on {measured.gpu.name}"
                        f" did not work: {one.trouble}; delete packing.json to measure again"
                    )
        if len(self.gpus) > 1:
            kinds = listed([measured.gpu.name for measured in self.gpus])
            yield (
                f"Trials have the same share of each GPU, although {kinds} differ, because Ray"
                " decides which one a trial gets"
            )

    def to_json(self) -> dict[str, Any]:
        """The content of `packing.json`, as JSON types.

        The choice is written for other programs; `read_packing` makes it anew.
        """
        content: dict[str, Any] = to_jsonable_python(self)
        return {
            "format": PACKING_FORMAT,
            **content,
            "trials": self.trials,
            "service": self.service,
            "images_per_second_alone": self.images_per_second_alone,
            "images_per_second_packed": self.images_per_second_packed,
        }


def _way(one: Round) -> str:
    return " with the Multi-Process Service" if one.service else ""


def _in_words(measured: Measured) -> str:
    """The rounds on one kind of GPU: `30.1 images/s alone on NVIDIA H200, 55.0 with 2 ...`."""
    alone, *others = measured.rounds
    parts = [f"{as_tenths(alone.images_per_second)} images/s alone on {measured.gpu.name}"]
    for service, how in ((False, "taking turns"), (True, "using the Multi-Process Service")):
        found = [
            f"{as_tenths(one.images_per_second)} with {one.trials}"
            for one in others
            if one.service is service and not one.trouble
        ]
        parts += [f"{', '.join(found)} trials {how}"] if found else []
    peak = max(one.peak_bytes for one in measured.rounds)
    if measured.gpu.memory:
        parts.append(
            f"each in {as_tenths(peak / 2**30)} of {round(measured.gpu.memory / 2**30)} GiB of its"
            " memory"
        )
    return ", ".join(parts)


def read_packing(path: Path) -> Packing | None:
    """The packing that a file holds; None where it is missing, damaged, or of another version."""
    try:
        content = read_json(path, ValueError)
        if content["format"] != PACKING_FORMAT:
            return None
        conditions = content["conditions"]
        found = Packing(
            Conditions(
                **conditions
                | {
                    "gpus": tuple(Gpu(**gpu) for gpu in conditions["gpus"]),
                    "services": tuple(conditions["services"]),
                }
            ),
            tuple(
                Measured(Gpu(**one["gpu"]), tuple(Round(**each) for each in one["rounds"]))
                for one in content["gpus"]
            ),
        )
        # A packing from which the choice or its sentences cannot be made is damaged.
        found.to_json()
        found.sentences  # noqa: B018
    except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return found if 1 <= found.trials <= MOST_TRIALS else None


def unmeasured_to_json(conditions: Conditions, fact: str, value: str | float) -> dict[str, Any]:
    """The content of `packing.json` if nothing was measured, as JSON types.

    `read_packing` finds no packing in it.

    fact    FAILED or CUT_SHORT
    value   the reason of a failure; the seconds after which the study's time was up
    """
    return {"format": PACKING_FORMAT, "conditions": to_jsonable_python(conditions), fact: value}


def remembered_fact(path: Path, conditions: Conditions, fact: str) -> str | float | None:
    """The value of FAILED or CUT_SHORT in a file that `unmeasured_to_json` made.

    None unless the file holds this fact for these conditions.
    """
    try:
        content = read_json(path, ValueError)
        value: str | float = content[fact]
        known = content == unmeasured_to_json(conditions, fact, value)
        holds = known and isinstance(value, _FACT_TYPES[fact])
        return value if holds else None
    except (ValueError, LookupError, TypeError):
        return None


def remembered_packing(path: Path, conditions: Conditions) -> Packing | None:
    """The packing that a file holds, if it was measured under these conditions; else None."""
    found = read_packing(path)
    return found if found is not None and found.conditions == conditions else None
