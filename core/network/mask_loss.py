"""The loss of the mask branch and its gradient, computed together, some proposals at a time.

For each proposal the branch keeps 1.8 MB of activations until its gradient is known, four times as
much where its masks have 56 cells a side instead of 28. In crowded images, which have up to 128
positive proposals each, this was most of the memory that instances added.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

CELLS_AT_ONCE = 64 * 14**2
"""Number of pooled cells whose activations are held at once: those of 64 proposals of 14 x 14,
which take 120 MB."""
CELLS_ON_A_GPU = 256 * 14**2
"""The same on a GPU, which would wait for Python between the parts: 460 MB. At the default
`model.box_samples` and `model.mask_side` a batch of two images has no more."""


def mask_loss(
    branch: nn.Module,
    features_PFHW: torch.Tensor,
    labels_P: torch.Tensor,
    wanted_PMM: torch.Tensor,
    weight_P: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean binary cross-entropy over each proposal's mask of the right class; a scalar, float32.

    branch          module from features to logits, float32 [P, classes + 1, M, M]
    features_PFHW   float32 [P, F, H, W], pooled from the pyramid
    labels_P        int64 [P], class numbers
    wanted_PMM      float32 [P, M, M] in 0..1
    weight_P        float32 [P], 1 for a proposal that counts and 0 for one that does not; None
                    where all count
    scale           factor by which the loss will be multiplied before its backward pass, a scalar;
                    None for 1. Gradients inside the branch are those of the multiplied loss, which
                    do not vanish in fp16

    The gradients, of the features and of the branch's parameters that train, are computed together
    with the loss and kept for one backward pass; a second pass raises RuntimeError. A branch whose
    batch norm takes its statistics from the batch gets all proposals at once. Without a proposal
    the loss is 0 and the gradients are zeros, not None: AdamW skips a parameter without a gradient,
    and would neither decay its weight nor update its moments.
    """
    learns = torch.is_grad_enabled()
    parameters = [
        parameter for parameter in branch.parameters() if parameter.requires_grad and learns
    ]
    loss: torch.Tensor = _LossAndGradient.apply(
        branch,
        labels_P,
        wanted_PMM,
        torch.ones_like(wanted_PMM[:, 0, 0]) if weight_P is None else weight_P,
        scale,
        features_PFHW if learns else features_PFHW.detach(),
        *parameters,
    )
    return loss


class _LossAndGradient(torch.autograd.Function):
    """The autograd function of `mask_loss`.

    The branch's parameters are arguments, so that autograd knows whose gradients these are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        branch: nn.Module,
        labels_P: torch.Tensor,
        wanted_PMM: torch.Tensor,
        weight_P: torch.Tensor,
        scale: torch.Tensor | None,
        features_PFHW: torch.Tensor,
        *parameters: nn.Parameter,
    ) -> torch.Tensor:
        """The loss; gradients are computed only for inputs that need one."""
        of_features = ctx.needs_input_grad[5]
        loss = wanted_PMM.new_zeros(())
        gradient_PFHW = torch.empty_like(features_PFHW) if of_features else None
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        proposals = weight_P.sum().clamp(min=1)
        most = CELLS_AT_ONCE if labels_P.device.type == "cpu" else CELLS_ON_A_GPU
        step = max(most // features_PFHW[0, 0].numel() if len(labels_P) else 0, 1)
        if takes_statistics(branch):
            step = max(len(labels_P), 1)
        for start in range(0, len(labels_P), step):
            some = slice(start, start + step)
            with torch.enable_grad():
                features_KFHW = features_PFHW[some].detach().requires_grad_(of_features)
                logits_KCMM = branch(features_KFHW)
                rows_K = torch.arange(len(logits_KCMM), device=logits_KCMM.device)
                total = functional.binary_cross_entropy_with_logits(
                    logits_KCMM[rows_K, labels_P[some]],
                    wanted_PMM[some],
                    weight_P[some, None, None],
                    reduction="sum",
                )
                part = total / (proposals * wanted_PMM[0].numel())
                multiplied = part if scale is None else part * scale
            loss += part.detach()
            inputs = [*parameters, features_KFHW] if of_features else [*parameters]
            if not inputs:
                continue
            found = torch.autograd.grad(multiplied, inputs)
            if gradient_PFHW is not None:
                gradient_PFHW[some] = found[-1]
            if gradients:
                torch._foreach_add_(gradients, found[: len(gradients)])
        ctx.gradients = gradient_PFHW, gradients
        ctx.scale = scale
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        """The gradients that were computed with the loss, times the loss's own gradient."""
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradient of the mask loss is kept for one backward pass, and this is the"
                " second"
            )
        gradient_PFHW, gradients = ctx.gradients
        ctx.gradients = None
        if ctx.scale is not None:
            outer = outer / ctx.scale
        if gradients:
            torch._foreach_mul_(gradients, outer)
        return (
            None,
            None,
            None,
            None,
            None,
            None if gradient_PFHW is None else gradient_PFHW.mul_(outer),
            *gradients,
        )


def takes_statistics(module: nn.Module) -> bool:
    """Whether batch norm in `module` takes its statistics from the batch."""
    return any(isinstance(one, nn.BatchNorm2d) and one.training for one in module.modules())
