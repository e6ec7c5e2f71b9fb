"""Batch norm whose statistics and parameters are frozen, as pretrained backbones have it.

torchvision's takes seven operations, five of them on its own buffers and always with the same
result. A GPU waits for Python to launch each, and a ResNet-50 has 53 of these layers.
"""

import torch
from torch import nn
from torch.nn import functional


class FrozenBatchNorm(nn.Module):
    """torchvision's FrozenBatchNorm2d in one operation, with a scale and a shift that are kept.

    eps   number that is added to the variance
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._known: _Known | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [B, F, H, W], normalised by the frozen statistics, in the dtype of x."""
        if x.dtype != torch.float32:
            # The statistics stay float32 in reduced precision too. Autograd keeps x for this
            # operation, at half the size of float32.
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        scale, shift = self._scale_and_shift()
        return torch.addcmul(shift, x, scale)  # keeps nothing of the size of x for the gradient

    def _scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift, float32 [F, 1, 1] each, computed again only after a buffer changed."""
        buffers = self.weight, self.bias, self.running_mean, self.running_var
        # A tensor made in inference mode has no version, and cannot be written to outside of it.
        versions = [0 if buffer.is_inference() else buffer._version for buffer in buffers]
        state = self.eps, *versions
        known = self._known
        if (
            known is None
            or known[0] != state
            or any(old is not new for old, new in zip(known[1], buffers, strict=True))
        ):
            # Not in inference mode, because a later training may read them too.
            with torch.inference_mode(False), torch.no_grad():
                scale_F = self.weight * (self.running_var + self.eps).rsqrt()
                shift_F = self.bias - self.running_mean * scale_F
            self._known = known = state, buffers, scale_F[:, None, None], shift_F[:, None, None]
        return known[2:]


_Known = tuple[tuple[float, ...], tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]
"""eps and the versions of the buffers, the buffers themselves, and the scale and shift that were
computed from them."""
