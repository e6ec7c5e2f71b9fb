"""The memory and the time that a trial takes of a device, measured in a few of its steps."""

import resource
import time
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from core.config import TrialConfig
from core.data.dataset import Dataset
from core.device import resolve
from core.labels.label_maps import find_instances
from core.network.weights import BaseWeights
from core.prediction.detect import predict
from core.randomness import Purpose, torch_seed
from core.training.loop import Batch, TrainingBatches, seeded, train_one_epoch
from core.training.trial import Trial

STEPS = 4
"""Number of training steps that are measured, after as many that only warm up."""


@dataclass(frozen=True)
class Probe:
    """The memory and the time that one trial takes of a device.

    device              name of the GPU, or cpu
    total_bytes         memory of the GPU; 0 on a CPU
    peak_bytes          largest part of it that the process held, in training and prediction:
                        torch's allocator and CUDA's own context; on a CPU the memory of the process
    busy                fraction of the training time in which the GPU computed, in (0, 1]; 1 on a
                        CPU
    images_per_second   training images per second
    host_bytes          largest part of the machine's memory that the process held, the data set
                        included; 0 if not measured
    """

    device: str
    total_bytes: int
    peak_bytes: int
    busy: float
    images_per_second: float
    host_bytes: int = 0


def measure(
    config: TrialConfig, data: Dataset, weights: BaseWeights | None, device: str = "auto"
) -> Probe:
    """Train and predict a little, with the largest images of the training part.

    Call it in a process of its own: the memory of the trial is given back only when the process
    ends. Raises torch.OutOfMemoryError where one trial alone is too large for the device, and
    whatever `Trial` raises.
    """
    where = resolve(device)
    # With a very small learning rate nothing diverges, and the work is the same.
    config = config.model_copy(
        update={"optim": config.optim.model_copy(update={"learning_rate": 1e-12})}
    )
    free = torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else 0
    trial = Trial(config, data, weights, device=device)
    batches = _largest_batches(config, data, trial.split.train)[: trial.schedule.steps]
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)

    def train() -> float:
        begin = time.perf_counter()
        with seeded(torch_seed(config.seed, Purpose.TRAIN, 1), where):
            train_one_epoch(
                trial.model, batches, trial.optimizer, trial.schedule, 1, config.optim, where
            )
        return time.perf_counter() - begin

    train()
    busy = 1.0
    if where.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as watched:
            seconds = train()
        computed = sum(event.self_device_time_total for event in watched.key_averages()) / 1e6
        busy = min(max(computed / seconds, 0.01), 1.0)
    seconds = train()  # once more, because the profiler slows the training that it watches
    trial.model.eval()
    predict(
        trial.model,
        data.samples[_by_size(data, trial.split.train)[0]].image,
        config.predict,
        config.data.crop,
    )
    images = sum(len(batch.images) for batch in batches)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if where.type != "cuda":
        return Probe("cpu", 0, held, busy, images / seconds, held)
    # Memory that is gone beyond torch's allocator was taken by CUDA for this process.
    context = max(free - torch.cuda.mem_get_info(where)[0] - torch.cuda.memory_reserved(where), 0)
    return Probe(
        torch.cuda.get_device_name(where),
        torch.cuda.mem_get_info(where)[1],
        torch.cuda.max_memory_reserved(where) + context,
        busy,
        images / seconds,
        held,
    )


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
    """STEPS batches, as training would make them, each of the same images.

    These are the most crowded `batch_size` of the 4 x `batch_size` largest images.
    """
    largest = _by_size(data, train)[: 4 * config.optim.batch_size]
    crowded = sorted(
        largest, key=lambda index: -len(find_instances(data.samples[index].label_maps))
    )
    chosen = tuple(sorted(crowded[: config.optim.batch_size]))
    loader = TrainingBatches(data, chosen, config)
    return [batch for epoch in range(1, STEPS + 1) for batch in loader.of_epoch(epoch)]
