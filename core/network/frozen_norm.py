"""Batch norm whose statistics and parameters are frozen, as pretrained backbones have it.

torchvision's asks for seven operations, five of them on its own buffers and always with the same result. A GPU waits
for Python to ask for each, and a ResNet-50 has 53 of these layers.
"""

import torch
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d


class FrozenBatchNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """torchvision's, with one multiplication and addition: scale and shift are computed once from its four buffers."""

    _known: tuple[tuple[float, ...], tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor] | None = None
    """What scale and shift were computed from, and they."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W], normalised by the frozen statistics, in the dtype of x."""
        if x.dtype != torch.float32:
            # In a reduced precision too the statistics stay float32; autograd keeps x for it, of half the size.
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        scale, shift = self._scale_and_shift()
        return torch.addcmul(shift, x, scale)  # keeps nothing of the size of x for the gradient

    def _scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [C, 1, 1] each; computed again where a buffer was replaced or written to."""
        buffers = self.weight, self.bias, self.running_mean, self.running_var
        # A tensor made in inference mode counts no versions, and is never written to outside.
        state = self.eps, *(0 if buffer.is_inference() else buffer._version for buffer in buffers)
        known = self._known
        if (
            known is None
            or known[0] != state
            or any(old is not new for old, new in zip(known[1], buffers, strict=True))
        ):
            with torch.inference_mode(False), torch.no_grad():  # who trains later reads them, too
                scale_C = self.weight * (self.running_var + self.eps).rsqrt()
                shift_C = self.bias - self.running_mean * scale_C
            self._known = known = state, buffers, scale_C[:, None, None], shift_C[:, None, None]
        return known[2:]
