"""The training images in their order, and one epoch of plain training."""

import itertools
import math
import multiprocessing
import multiprocessing.connection
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from core.augment import pipeline as augment
from core.config import TrialConfig
from core.data.dataset import Dataset
from core.device import autocast
from core.errors import ProcessLost, TrialDiverged
from core.labels import label_maps as masks
from core.network.detector import Detector
from core.network.resizing import largest_sides, shape_by_shape
from core.randomness import Purpose, generator
from core.sample import Target
from core.training.optim import Optimization
from core.training.visits import Visits
from core.values import as_number

DEATH_SECONDS = 1.0
"""Seconds that are waited, up to three times, until the death of a loader's process is known."""

MOST_LOSS = 1e6
"""Largest loss that does not count as divergence. In a training that works the sum of the five
terms begins below 20; the largest first loss that settings can cause is 4e4, with a random frozen
ResNet-101. At a loss of a million the right class has a probability of about e to the power of
minus some hundred thousand, or boxes are off by as many times their sides: the network has lost all
it had learned. Trainings with smaller spikes may recover and go on."""

LEAST_SCALE = 1.0
"""Least factor on the losses under fp16. The factor begins at 65,536 and is halved by each step
whose gradients are not finite. Below 1 it no longer keeps gradients from vanishing; those that are
still too large then come from weights that have lost all they had learned."""

READ_EVERY = 20
"""Number of batches after which losses are read from a GPU, because each reading waits for it."""


@dataclass(frozen=True)
class Batch:
    """The images that the network sees at once.

    images    uint8 [3, H, W] each, RGB, of any sizes
    targets   one for each image
    packed    uint8 memory of which all tensors are views, so that one copy takes them to a GPU;
              None where each tensor has memory of its own
    """

    images: list[torch.Tensor]
    targets: list[Target]
    packed: torch.Tensor | None = None

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors: the images, then those of each target."""
        return [*self.images, *(tensor for one in self.targets for tensor in one.tensors)]

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, which a GPU can copy while the CPU goes on."""
        return self.pack(pin_memory=True)

    def pack(self, *, pin_memory: bool = False) -> "Batch":
        """The same batch with all tensors in one piece of memory, which may be page-locked."""
        ends = [*itertools.accumulate(_padded_bytes(tensor) for tensor in self.tensors)]
        packed = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=pin_memory)
        batch = self._in(packed)
        for place, tensor in zip(batch.tensors, self.tensors, strict=True):
            place.copy_(tensor)
        return batch

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        if self.packed is not None:
            return self._in(self.packed.to(device, non_blocking=True))
        return Batch(
            [image.to(device) for image in self.images],
            [target.to(device) for target in self.targets],
        )

    def _in(self, packed: torch.Tensor) -> "Batch":
        """The batch as views of `packed`, in which its tensors lie in the order of `tensors`."""
        views, start = [], 0
        for tensor in self.tensors:
            of_bytes = packed[start : start + tensor.nbytes]
            views.append(of_bytes.view(tensor.dtype).view(tensor.shape))
            start += _padded_bytes(tensor)
        images, rest = views[: len(self.images)], iter(views[len(self.images) :])
        targets = [one.of(itertools.islice(rest, len(one.tensors))) for one in self.targets]
        return Batch(images, targets, packed)


def _padded_bytes(tensor: torch.Tensor) -> int:
    """Bytes that a tensor takes in packed memory, rounded up to a multiple of 16."""
    return -(-tensor.nbytes // 16) * 16


Address = tuple[int, int, int]
"""Epoch, index of the image in the data set, and number of its earlier visits in the epoch."""


class _TrainingImages(torch.utils.data.Dataset[tuple[torch.Tensor, Target]]):
    """Augmented training images by their address, the same in every process."""

    def __init__(self, data: Dataset, indices: tuple[int, ...], config: TrialConfig) -> None:
        self.samples = data.samples
        self.config = config
        self.augmenter = augment.build_augmenter(config.augment)
        self.mixer = augment.build_mixer(config.augment, [data.samples[index] for index in indices])

    def __getitem__(self, address: Address) -> tuple[torch.Tensor, Target]:
        epoch, index, visit = address
        # The first visit has the address that it has in versions without second visits.
        where = address if visit else (epoch, index)
        sample, config = self.samples[index], self.config
        # The crop comes first: like the tiles in prediction it is cut from the image at full
        # resolution. Instances of other images are pasted at that resolution too, which is theirs.
        if config.data.crop:
            rng = generator(config.seed, Purpose.CROP, *where)
            image, label_maps = augment.random_crop(
                sample.image, sample.label_maps, config.data.crop, rng
            )
            sample = replace(sample, image=image, label_maps=label_maps)
        if self.mixer is not None:
            sample = self.mixer(sample, generator(config.seed, Purpose.MIX, *where))
        # With several sizes in training the largest of them decides how many pixels are kept.
        sides = largest_sides(config.model)
        image, label_maps = augment.shrink(sample.image, sample.label_maps, *sides)
        if self.augmenter is not None:
            rng = generator(config.seed, Purpose.AUGMENT, *where)
            image, label_maps = self.augmenter(image, label_maps, rng)
        target = masks.target_of(label_maps, sample.labels_N, sample.crowd_N)
        # A copy in any case: the data set's arrays may be shared and read-only.
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")), target


class _Order:
    """The addresses of an epoch's images, batch by batch.

    The loader iterates over it in the main process.
    """

    def __init__(self, visits: Visits, seed: int, batch_size: int) -> None:
        self.visits = visits
        self.seed = seed
        self.batch_size = batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.visits.number / self.batch_size)

    def __iter__(self) -> Iterator[list[Address]]:
        visits = self.visits.of_epoch(self.epoch)
        order = generator(self.seed, Purpose.ORDER, self.epoch).permutation(visits).tolist()
        for start in range(0, len(order), self.batch_size):
            yield [
                (self.epoch, index, visit)
                for index, visit in order[start : start + self.batch_size]
            ]


class TrainingBatches:
    """The training part of a data set as the batches of an epoch.

    They are the same, bit for bit, with any number of workers. Worker processes are forked, so they
    read the data set where it lies in memory, and live as long as this object.

    indices      the images of the training part, one at least
    workers      number of processes that read and augment images; 0 for this process
    pin_memory   whether batches lie in page-locked memory

    The attribute `images` is the number of images that an epoch shows; an image counts as often as
    it is shown.
    """

    def __init__(
        self,
        data: Dataset,
        indices: tuple[int, ...],
        config: TrialConfig,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        assert indices
        visits = Visits(data, indices, config.data.repeat_rare, config.seed)
        self.images = visits.number
        self.order = _Order(visits, config.seed, config.optim.batch_size)
        if workers:
            cv2.setNumThreads(0)  # OpenCV's thread pool does not survive a fork
        self.loader = DataLoader(
            _TrainingImages(data, indices, config),
            batch_sampler=self.order,
            collate_fn=_collate,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # The loader draws a seed that nobody uses; it must not come from the global generator.
            generator=torch.Generator(),
        )
        self._processes: set[multiprocessing.process.BaseProcess] = set()

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.order)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; `epoch` counts from 1."""
        self.order.epoch = epoch
        others = set(multiprocessing.active_children())
        batches = iter(self.loader)
        self._processes |= set(multiprocessing.active_children()) - others
        return batches

    @contextmanager
    def losses_named(self) -> Iterator[None]:
        """Raise ProcessLost in place of an exception that the death of a loader's process caused.

        That exception is a RuntimeError of torch's signal handler, which may come at any point of
        the block, or an error of reading from the dead process.
        """
        try:
            yield
        except (RuntimeError, OSError, EOFError):
            died = self._death()
            if died is None:
                raise
            raise ProcessLost(f"a process that prepares images {died}") from None

    def _death(self) -> str | None:
        """How a process of the loader died; None if none died (see DEATH_SECONDS)."""
        for _ in range(3 if self._processes else 0):
            try:
                ended = multiprocessing.connection.wait(
                    [one.sentinel for one in self._processes], DEATH_SECONDS
                )
                for one in self._processes:
                    if one.sentinel in ended:
                        one.join(DEATH_SECONDS)
                codes = [one.exitcode for one in self._processes if one.exitcode]
                return _how(codes[0]) if codes else None
            except RuntimeError:  # raised by torch's signal handler during the wait
                continue
        return None


def _how(exit_code: int) -> str:
    """An exit code in words: a status, or the signal that killed the process."""
    if exit_code > 0:
        return f"ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was killed ({name})" + (
        "; the machine may be short of memory" if name == "SIGKILL" else ""
    )


def _collate(items: list[tuple[torch.Tensor, Target]]) -> Batch:
    images, targets = zip(*items, strict=True)
    return Batch(list(images), list(targets))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore their former state after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train_one_epoch(
    model: Detector,
    batches: Iterable[Batch],
    optim: Optimization,
    epoch: int,
    read_every: int | None = None,
) -> dict[str, float]:
    """One pass over `batches`; `epoch` counts from 1.

    read_every   number of batches after which losses are read from the device; None for 1 on a CPU
                 and READ_EVERY on a GPU

    Random draws come from torch's global generator, which the caller seeds. Returns the mean over
    images of each loss term, and of their sum as 'loss'. Raises TrialDiverged for the first loss
    that is not finite or is above MOST_LOSS, as soon as it is read: with `read_every` 1 before the
    optimizer step of that loss. Raises it after the last step, too, where a weight or a statistic
    of batch norm is not finite, or where the scale of fp16 gradients fell below LEAST_SCALE.
    """
    model.train()
    device = next(model.parameters()).device
    losses = _Losses(epoch, read_every or (1 if device.type == "cpu" else READ_EVERY))
    optim.begin(epoch)
    for batch in batches:
        moved = batch.to(device)
        inputs = shape_by_shape(moved.images, lambda images: images.float() / 255)
        model.loss_scale = optim.loss_scale
        with autocast(device, optim.config.precision):
            terms = model.losses(inputs, moved.targets)
        optim.learn(losses.add(terms, len(inputs)), len(inputs))
    optim.end()
    losses.read()
    place = f"epoch {epoch}, batch {len(losses.images)}"
    _check_state(model, place, losses.last)
    if optim.scaler.get_scale() < LEAST_SCALE:
        raise TrialDiverged(
            f"{place}: gradients are not finite in fp16, even with the loss multiplied by"
            f" {as_number(optim.scaler.get_scale(), 6)}; optim.precision bf16 or fp32 has a wider"
            " range"
        )
    return losses.means()


class _Losses:
    """The losses of an epoch, read from their device every `read_every` batches.

    epoch        number of the epoch, counted from 1, for messages
    read_every   number of batches after which losses are read
    """

    def __init__(self, epoch: int, read_every: int) -> None:
        self.epoch = epoch
        self.read_every = read_every
        self.names: list[str] = []
        self.sums: dict[str, float] = defaultdict(float)
        self.images: list[int] = []
        self.last = 0.0
        self._unread: list[torch.Tensor] = []

    def add(self, terms: dict[str, torch.Tensor], images: int) -> torch.Tensor:
        """Note the loss terms of a batch, scalars, and return their sum.

        images   number of images in the batch

        Every `read_every`-th call reads (see `read`), and may raise TrialDiverged.
        """
        values = torch.stack([term.float() for term in terms.values()])
        loss = values.sum()
        self.names = [*terms, "loss"]
        self.images.append(images)
        self._unread.append(torch.cat([values.detach(), loss.detach()[None]]))
        if len(self._unread) == self.read_every:
            self.read()
        return loss

    def read(self) -> None:
        """Read all losses up to now from their device, and add them to the sums.

        Raises TrialDiverged for the first that is not finite or is above MOST_LOSS.
        """
        if not self._unread:
            return
        first = len(self.images) - len(self._unread)
        batches = torch.stack(self._unread).tolist()
        self._unread = []
        for number, values in enumerate(batches, first):
            self.last = values[-1]
            place = f"epoch {self.epoch}, batch {number + 1}"
            if not math.isfinite(self.last):
                raise TrialDiverged(f"{place}: loss is {self.last}")
            if self.last > MOST_LOSS:
                raise TrialDiverged(
                    f"{place}: loss is {as_number(self.last)}, and no training that works has one"
                    f" above {round(MOST_LOSS):,}"
                )
            for name, value in zip(self.names, values, strict=True):
                self.sums[name] += value * self.images[number]

    def means(self) -> dict[str, float]:
        """The mean over images of each term, and of their sum as 'loss'."""
        return {name: value / sum(self.images) for name, value in self.sums.items()}


def _check_state(model: Detector, place: str, loss: float) -> None:
    """Raise TrialDiverged where a tensor that training changes is not finite.

    The loss does not show all of this. A finite loss can have a gradient that is not finite. Some
    weights of a class that is in no batch enter no loss. Batch norm's running variance can exceed
    float32 while the losses, which do not use it, stay finite.

    place   epoch and batch, for the message
    loss    the last loss
    """
    state = {
        name: value for name, value in model.trained_state().items() if value.is_floating_point()
    }
    # Python waits for the GPU here, once an epoch.
    largest = torch.nn.utils.get_total_norm(state.values(), math.inf).item()
    if math.isfinite(largest):
        return
    name, value = next((name, value) for name, value in state.items() if not value.isfinite().all())
    bad = value[~value.isfinite()][0].item()
    raise TrialDiverged(
        f"{place}: {name} is {bad} after the step, and the loss was {as_number(loss)}"
    )
