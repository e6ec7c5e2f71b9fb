"""One trial that only trains, to measure the memory and time that it takes of a device."""

import itertools
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from core.config import TrialConfig
from core.data.dataset import Dataset
from core.device import CONTEXT_BYTES, resolve_device
from core.labels.label_maps import find_instances
from core.network.detector import Detector
from core.network.resizing import ImageTransform
from core.network.weights import BaseWeights
from core.prediction.tiles import tiles
from core.prediction.views import look_at_samples, most_at_once
from core.randomness import Purpose, torch_seed
from core.training.loop import Batch, TrainingBatches, seeded, train_one_epoch
from core.training.trial import Trial

PROBE_STEPS = 4
"""Number of training steps on the largest images."""


@dataclass(frozen=True)
class Memory:
    """A GPU's memory in bytes, apart from what torch's allocator takes; zeros on a CPU.

    total_bytes     all memory of the GPU
    free_bytes      memory that no process held before the trial
    context_bytes   memory that CUDA holds for the trial's process beside torch's allocator
    """

    total_bytes: int = 0
    free_bytes: int = 0
    context_bytes: int = 0


def memory_of(before: int, after: int, total: int, reserved: int) -> Memory:
    """A GPU's memory, computed by the only process that has taken some of it since it began.

    before     bytes that were free once CUDA had begun for the process
    after      bytes that are free now
    total      bytes of the GPU
    reserved   bytes that torch's allocator holds now
    """
    # CUDA took for this process what is gone and not in torch's allocator.
    taken = max(before - after - reserved, 0)
    return Memory(total, min(before + CONTEXT_BYTES, total), taken + CONTEXT_BYTES)


@dataclass(frozen=True)
class Trained:
    """The measurements of a training of some steps.

    ends         for each step the time at which it ended, in seconds of `time.monotonic`, which is
                 one clock for all processes of a machine, and its number of images
    peak_bytes   largest GPU memory that torch's allocator ever held for this process; 0 on a CPU
    host_bytes   main memory that this process and its loader's processes have for themselves,
                 without the data set
    """

    ends: tuple[tuple[float, int], ...]
    peak_bytes: int
    host_bytes: int


class Probe:
    """A trial that trains as long as it is told to, and neither validates nor saves.

    Make it in a process of its own, because a GPU's memory is given back only when the process
    ends. Raises the errors of `Trial`.
    """

    def __init__(
        self, config: TrialConfig, data: Dataset, weights: BaseWeights | None, device: str = "auto"
    ) -> None:
        self.device = resolve_device(device)
        on_gpu = self.device.type == "cuda"
        self._free = torch.cuda.mem_get_info(self.device)[0] if on_gpu else 0
        # With a very small learning rate nothing diverges, and the work is the same.
        slow = config.optim.model_copy(update={"learning_rate": 1e-12})
        self.data = data
        self.trial = Trial(config.model_copy(update={"optim": slow}), data, weights, device=device)
        self.config = self.trial.config

    def at_its_largest(self) -> Memory:
        """Train on the most crowded of the largest images, and predict a batch of the largest one.

        Returns the GPU's memory afterwards. Raises torch.OutOfMemoryError where that does not fit.
        """
        steps = min(PROBE_STEPS, self.trial.optim.schedule.steps)
        batches = _largest_batches(self.config, self.data, self._train_images)[:steps]
        with _at_the_largest_size(self.trial.model):
            # The first batch alone is a step, so that the others find AdamW's moments in memory
            # however many batches a step takes.
            for some in (batches[:1], batches[1:]):
                self._train(1, iter(some))
        self.trial.model.eval()
        largest = self.data.samples[_by_size(self.data, self._train_images)[0]]
        model, crop = self.trial.model, self.config.data.crop
        height, width = largest.image.shape[:2]
        predict = self.config.predict
        pieces = len(tiles(height, width, predict.tile or crop, predict.overlap))
        batch = [largest] * math.ceil(most_at_once(model) / pieces)
        look_at_samples([model], batch, [predict], lambda *_: None, tile=crop)
        if self.device.type != "cuda":
            return Memory()
        reserved = torch.cuda.memory_reserved(self.device)
        return memory_of(self._free, *torch.cuda.mem_get_info(self.device), reserved)

    def train(self, workers: int, threads: int, goes_on: Callable[[], bool]) -> Trained:
        """Train as a trial does, epoch after epoch, until `goes_on` returns False.

        workers   number of processes that read and augment images; 0 for this process
        threads   number of CPU threads of torch
        goes_on   called after each step, which a GPU may not have finished by then

        Raises ProcessLost where a process that prepares images was killed.
        """
        torch.set_num_threads(threads)
        clock = _Clock(self.device)
        batches = TrainingBatches(
            self.data, self._train_images, self.config, workers, self.device.type == "cuda"
        )
        ended = False

        def told(of_epoch: Iterator[Batch]) -> Iterator[Batch]:
            nonlocal ended
            for batch in of_epoch:
                yield batch
                clock.note(len(batch.images))
                ended = not goes_on()
                if ended:
                    return

        with batches.losses_named():
            for epoch in itertools.cycle(range(1, self.config.optim.epochs + 1)):
                self._train(epoch, told(batches.of_epoch(epoch)))
                if ended:
                    break
        on_gpu = self.device.type == "cuda"
        peak = torch.cuda.max_memory_reserved(self.device) if on_gpu else 0
        return Trained(clock.ends(), peak, _host_bytes(self.data))

    @property
    def _train_images(self) -> tuple[int, ...]:
        return self.trial.split.train

    def _train(self, epoch: int, batches: Iterator[Batch]) -> None:
        trial = self.trial
        with seeded(torch_seed(self.config.seed, Purpose.TRAIN, epoch), self.device):
            train_one_epoch(trial.model, batches, trial.optim, epoch)


@contextmanager
def _at_the_largest_size(model: Detector) -> Iterator[None]:
    """Have the network see every image at the largest of the sizes that training draws."""
    transforms = [one for one in model.modules() if isinstance(one, ImageTransform)]
    before = [one.least for one in transforms]
    try:
        for one in transforms:
            one.least = one.most
        yield
    finally:
        for one, least in zip(transforms, before, strict=True):
            one.least = least


class _Clock:
    """The times at which a device finished each step.

    A GPU runs behind the Python code that asks for its work, so it records the end of a step
    itself, as a CUDA event, and is waited for only once, in the end.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._noted: list[tuple[torch.cuda.Event | float, int]] = []
        if device.type == "cuda":
            self._began = self._event()
            torch.cuda.synchronize(device)
        self._seconds = time.monotonic()

    def note(self, images: int) -> None:
        """Note the end of a step of some images."""
        end = self._event() if self._device.type == "cuda" else time.monotonic()
        self._noted.append((end, images))

    def ends(self) -> tuple[tuple[float, int], ...]:
        """The time, in seconds of `time.monotonic`, at which each step ended, and its images."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return tuple((self._time(end), images) for end, images in self._noted)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _time(self, end: torch.cuda.Event | float) -> float:
        if isinstance(end, float):
            return end
        return self._seconds + float(self._began.elapsed_time(end)) / 1000


def _host_bytes(data: Dataset) -> int:
    """Main memory, in bytes, that this process and its children have for themselves.

    The data set does not count, because trials share it.
    """
    own = max(1024 * _kilobytes("/proc/self/status", "RssAnon") - data.nbytes, 0)
    for child in multiprocessing.active_children():
        file = f"/proc/{child.pid}/smaps_rollup"
        own += 1024 * (_kilobytes(file, "Private_Clean") + _kilobytes(file, "Private_Dirty"))
    return own


def _kilobytes(file: str, name: str) -> int:
    """A number of kB in one of the kernel's files about a process; 0 where it is not there."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
    except OSError:  # the process has ended
        return 0
    return int(found[1]) if found else 0


def _by_size(data: Dataset, indices: tuple[int, ...]) -> list[int]:
    """The indices of images sorted by number of pixels, then of instances, largest first."""
    return sorted(
        indices,
        key=lambda index: (
            -data.samples[index].image[..., 0].size,
            -len(data.samples[index].labels_N),
            index,
        ),
    )


def _largest_batches(config: TrialConfig, data: Dataset, train: tuple[int, ...]) -> list[Batch]:
    """PROBE_STEPS batches, as training would make them, each of the same images.

    These are the `batch_size` most crowded of the 4 x `batch_size` largest images.
    """
    largest = _by_size(data, train)[: 4 * config.optim.batch_size]
    crowded = sorted(
        largest, key=lambda index: -len(find_instances(data.samples[index].label_maps))
    )
    chosen = tuple(sorted(crowded[: config.optim.batch_size]))
    # An epoch is one batch of all chosen images; images that are shown again would make it two.
    once = config.model_copy(update={"data": config.data.model_copy(update={"repeat_rare": 0.0})})
    loader = TrainingBatches(data, chosen, once)
    return [batch for epoch in range(1, PROBE_STEPS + 1) for batch in loader.of_epoch(epoch)]
