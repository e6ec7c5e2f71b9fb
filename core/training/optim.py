"""From losses to weights: gradients, learning rates, AdamW, and the average of the weights."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from core.config import OptimConfig
from core.errors import SettingError
from core.network.detector import Detector
from core.text import many
from core.training.average import WeightAverage
from core.values import as_number, as_setting


class Schedule:
    """The learning rate of each optimizer step: linear warm-up, then cosine cycles with restarts.

    The T = epochs x steps_per_epoch steps begin with w = round(warmup_epochs x steps_per_epoch)
    steps of warm-up. The rest is divided into restarts + 1 cycles. Cycle k, counted from 0, has
    floor(L m^k) steps, where m is the multiplier and L the largest whole number for which all
    cycles fit; the last cycle takes the remainder.

    Step s of the warm-up has the rate `learning_rate` (s + 1) / w, so the first is above 0 and the
    last is the full rate. Step t of a cycle of n steps has `learning_rate` (1 + cos(pi t / n)) / 2:
    the first is the full rate, and 0 would be reached at t = n, where the next cycle begins
    (Loshchilov and Hutter, SGDR, 2017, equation 5).

    A restart changes only the learning rate: AdamW keeps its moments and its step count.

    Raises SettingError where the steps are too few for the cycles.
    """

    def __init__(self, config: OptimConfig, steps_per_epoch: int) -> None:
        assert steps_per_epoch >= 1
        self.peak = config.learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.steps = config.epochs * steps_per_epoch
        self.warmup = round(config.warmup_epochs * steps_per_epoch)
        cycles, left = config.restarts + 1, self.steps - self.warmup
        shares = [config.restart_multiplier**k for k in range(cycles)]
        first = math.floor(left / sum(shares))
        if first < 1:
            needed = as_number(math.ceil(sum(shares)), 6)
            raise SettingError(
                f"optim.restarts ({config.restarts}) and optim.restart_multiplier"
                f" ({as_setting(config.restart_multiplier)}) make"
                f" {many(cycles, 'cycle')} of together at least {needed} optimizer"
                f" {'step' if needed == '1' else 'steps'}, and {left} are left after the warm-up:"
                f" optim.epochs is {config.epochs}, with"
                f" {many(steps_per_epoch, 'step')} an epoch; use fewer restarts or more epochs"
            )
        lengths = [math.floor(first * share) for share in shares[:-1]]
        lengths.append(left - sum(lengths))
        starts = [self.warmup + sum(lengths[:k]) for k in range(cycles)]
        self.cycles = tuple(zip(starts, lengths, strict=True))
        """(first step, number of steps) of each cosine cycle, in order."""

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, in (0, `optim.learning_rate`].

        step   0 <= step < `steps`, counted from 0 over the whole trial
        """
        assert 0 <= step < self.steps, f"step {step} of {self.steps}"
        if step < self.warmup:
            return self.peak * ((step + 1) / self.warmup)
        start, length = max(cycle for cycle in self.cycles if cycle[0] <= step)
        return self.peak * (1 + math.cos(math.pi * (step - start) / length)) / 2


class Optimization:
    """The optimizer steps of a network: AdamW with its schedule, fp16 scaling and weight average.

    model     the detector that trains, on its device
    batches   number of batches in an epoch; `config.accumulate` of them make one optimizer step,
              and those that remain at the end of the epoch make one too

    Its attributes:

    optimizer   AdamW over the parameters that train
    schedule    the learning rate of each optimizer step
    scaler      scales the losses under fp16, so that their gradients do not vanish, and skips a
                step whose gradients are not finite; does nothing in another precision
    average     the moving average of the weights; None where `config.ema` is 0

    For each epoch call `begin`, `learn` for each batch, and `end`. Raises SettingError where the
    trial has too few steps for the cycles of the schedule.
    """

    def __init__(self, model: Detector, config: OptimConfig, batches: int) -> None:
        self.config = config
        device = next(model.parameters()).device
        self.schedule = Schedule(config, math.ceil(batches / config.accumulate))
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.average = (
            WeightAverage(model, config.ema * self.schedule.steps_per_epoch) if config.ema else None
        )
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._parameters = {
            names[parameter]: parameter
            for group in self.optimizer.param_groups
            for parameter in group["params"]
        }
        """The parameters that train, by name, in the optimizer's order."""
        self._one = torch.ones((), device=device)
        self._step = 0
        self._images: list[int] = []

    def begin(self, epoch: int) -> None:
        """Begin an epoch, counted from 1; batches of an epoch that broke off are forgotten."""
        self._step = (epoch - 1) * self.schedule.steps_per_epoch
        self._images = []

    @property
    def loss_scale(self) -> torch.Tensor | None:
        """The factor on the next batch's losses, a scalar on the device; None for 1."""
        return self.scaler.scale(self._one) if self.scaler.is_enabled() else None

    def learn(self, loss: torch.Tensor, images: int) -> None:
        """Add the gradient of a batch's loss, and make the step if the batch is its last.

        loss     scalar, the mean over the batch's images
        images   number of images in the batch

        The gradient of a step is the mean over the images of its batches: each batch's gradient
        counts by its number of images. Python does not wait for the GPU.
        """
        if not self._images:
            self.optimizer.zero_grad()
        self._images.append(images)
        loss = loss * (images / self._images[0])
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if len(self._images) == self.config.accumulate:
            self._make_step()

    def end(self) -> None:
        """End an epoch: batches that are left make its last step."""
        if self._images:
            self._make_step()

    def _make_step(self) -> None:
        """Make the optimizer step of the batches since the last step; gradients are summed up."""
        rate = self.schedule.learning_rate(self._step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        parameters = [*self._parameters.values()]
        batches = sum(self._images) / self._images[0]
        if batches != 1:
            gradients = [one.grad for one in parameters if one.grad is not None]
            torch._foreach_mul_(gradients, 1 / batches)
        if self.config.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._step += 1
        self._images = []
        if self.average is not None:
            self.average.update(self._step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state of the optimization beside the two networks, by name.

        It is AdamW's `optimizer.KEY.NAME` of each parameter, and under fp16 `scaler.KEY`.
        """
        found = {
            f"optimizer.{key}.{name}": value
            for name, parameter in self._parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        scaler = self.scaler.state_dict()
        return found | {f"scaler.{key}": torch.tensor(value) for key, value in scaler.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore the state that `tensors` returned; other names are ignored.

        Raises KeyError where the state of the scaler is missing.
        """
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for index, (name, parameter) in enumerate(self._parameters.items()):
            found = {
                key: tensors.get(f"optimizer.{key}.{name}")
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
            moments[index] = {
                # The fused optimizer needs a weight and its moments in the same memory format.
                key: (
                    torch.empty_like(parameter, device="cpu").copy_(value)
                    if key != "step"
                    else value
                )
                for key, value in found.items()
                if value is not None
            }
        state = {index: values for index, values in moments.items() if values}
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        scaler = {key: tensors[f"scaler.{key}"].item() for key in self.scaler.state_dict()}
        if scaler:
            self.scaler.load_state_dict(scaler)


def build_optimizer(model: Detector, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`.

    It is torch's fused form: a step of 31 million parameters took 0.05 s on one CPU core, and
    0.20 s with the plain form.
    """
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def parameter_groups(model: Detector, config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters of a network that train, in groups that AdamW treats alike.

    A group has `params`, `weight_decay`, and `factor`, the ratio of its learning rate to that of
    the heads. With the default settings there is one group: all parameters decay, norms and biases
    too, as in the reference report, and have one rate.
    """
    of_backbone = {*model.backbone_parameters()} if config.backbone_factor != 1 else set()
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.backbone_factor if parameter in of_backbone else 1.0
            decays = config.decay_norms or not _is_norm_or_bias(name, parameter)
            decay = config.weight_decay if decays else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def _is_norm_or_bias(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether a parameter is a scale, a shift or a bias, tables of biases included.

    ConvNeXt's scale of a layer is one number for each feature, too, in the shape [F, 1, 1].
    """
    return parameter.shape[1:].numel() == 1 or "bias" in name.rpartition(".")[2]
