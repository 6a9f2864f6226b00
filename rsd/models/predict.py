"""What a model says of a whole split, shared out over all processes."""

import torch
from torch import Tensor, nn

from rsd.machine import parallel
from rsd.models.timm_model import PixelNormalize, predict
from rsd.sources.images import Images


def predict_together(
    model: nn.Module, normalize: PixelNormalize, images: Images, *, batch_size: int, workers: int = 0
) -> Tensor:
    """Logits `[N, classes]`, float32 on the CPU, of raw images `[N, H, W, C]`; the same in all processes.

    Every process calls it. Each takes whole batches, those that one process alone would make, so the bits are that
    one's, too. The model's buffers become the leading process's.
    """
    if parallel.processes() == 1:
        return predict(model, normalize, images, batch_size=batch_size, workers=workers).logits
    parallel.from_leader(model)
    count = len(images)
    own = parallel.own_share(-(-count // batch_size))
    logits = torch.zeros(count, int(model.num_classes))  # type: ignore[arg-type]
    if own.start < own.stop:
        told = predict(
            model, normalize, images, batch_size=batch_size, workers=workers, numbers=range(own.start, own.stop)
        )
        logits[own.start * batch_size : own.stop * batch_size] = told.logits
    return torch.stack(parallel.all_of(logits)).sum(dim=0)
