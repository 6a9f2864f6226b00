"""Raw pixels to model input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """One value per channel: the given ones, or their mean where there is another number of them, as in timm."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


class PixelNormalize(nn.Module):
    """Raw pixels to model input: uint8 `[N, H, W, C]` -> standardised float32 `[N, C, H, W]`.

    Training and evaluation use this module, so they feed the model the same.

    Args:
        mean, std: per channel, of pixels in [0, 1].
        size: side, or height and width, to which images of another size are resized first, with antialiasing, as
            timm prepares images, without rounding to 8 bits. None takes images as they are.
        interpolation: timm's name. Torch antialiases bilinear and bicubic; any other becomes bicubic.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: int | tuple[int, int] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size
        self.mode = "bilinear" if interpolation == "bilinear" else "bicubic"
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.float() / 255.0
        if self.size is not None and pixels.shape[1:3] != self.size:
            planes = pixels.permute(0, 3, 1, 2)
            resized = nn.functional.interpolate(planes, self.size, mode=self.mode, antialias=True)
            pixels = resized.clamp(0, 1).permute(0, 2, 3, 1)  # bicubic weights overshoot at edges
        return ((pixels - self.mean) / self.std).permute(0, 3, 1, 2)


class RawPixels(nn.Module):
    """A model that normalises its input itself: uint8 `[N, H, W, C]` -> float32 logits `[N, classes]`.

    The same as `PixelNormalize` but for rounding, by one batch norm: one node of an exported graph. For three
    broadcasts ONNX Runtime takes as long as for a sixth of a MobileNetV2.

    Args:
        mean, std: per channel, of pixels in [0, 1].
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(mean), persistent=False)
        self.register_buffer("variance", (255 * torch.tensor(std)).square(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        # The cast comes first: TensorRT allows no other operation on uint8.
        planes = image.float().permute(0, 3, 1, 2)
        return self.model(nn.functional.batch_norm(planes, self.mean, self.variance, eps=0.0)).float()
