"""Embeddings and logits of a whole split, in one process or in several."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rsd.machine import parallel
from rsd.machine.progress import progress
from rsd.models.outputs import Outputs, outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import Images
from rsd.views.workers import in_order


@torch.no_grad()
def predict(
    model: nn.Module,
    normalize: PixelNormalize,
    images: Images,
    *,
    batch_size: int,
    workers: int = 0,
    index: np.ndarray | None = None,
    name: str | None = None,
) -> Outputs:
    """Embeddings and logits of a model in eval mode, float32 on the CPU, for raw images `[N, H, W, C]`.

    Runs on the device of `normalize`. A model in training mode is in training mode again afterwards.

    Args:
        workers: processes that read and decode the images; the pixels do not depend on them.
        index: the images to take, at least one, int64 `[N]`; None takes all.
        name: of a progress bar; None shows none.
    """
    was_training = model.training
    model.eval()
    parts = []
    batches = _Raw(images, batch_size, np.arange(len(images)) if index is None else index)
    with progress(total=len(batches.index), name=name or "", unit="images", shown=name is not None) as bar:
        for raw in in_order(batches, range(len(batches)), workers=workers):
            batch = outputs(model, normalize(raw.to(normalize.mean.device)))
            parts.append(Outputs(*(tensor.float().cpu() for tensor in batch)))
            bar.update(len(raw))
    model.train(was_training)
    return Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def predict_together(
    model: nn.Module, normalize: PixelNormalize, images: Images, *, batch_size: int, workers: int = 0
) -> Tensor:
    """Logits `[N, classes]`, float32 on the CPU, of raw images `[N, H, W, C]`; the same in all processes.

    Every process calls it and takes some of the batches that one process alone would make: the bits are the same.
    The model gets the leading process's buffers.
    """
    if parallel.processes() == 1:
        return predict(model, normalize, images, batch_size=batch_size, workers=workers).logits
    parallel.from_leader(model)
    share = parallel.own_share(-(-len(images) // batch_size))
    index = np.arange(len(images))[share.start * batch_size : share.stop * batch_size]
    logits = torch.zeros(len(images), int(model.num_classes))  # type: ignore[arg-type]
    if len(index):
        logits[index] = predict(model, normalize, images, batch_size=batch_size, workers=workers, index=index).logits
    return torch.stack(parallel.all_of(logits)).sum(dim=0)


class _Raw(Dataset[Tensor]):
    """Raw images in batches, uint8 `[B, H, W, C]`."""

    def __init__(self, images: Images, batch_size: int, index: np.ndarray) -> None:
        self.images, self.batch_size, self.index = images, batch_size, index

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __getitem__(self, number: int) -> Tensor:
        index = self.index[number * self.batch_size :][: self.batch_size]
        return torch.from_numpy(np.array(self.images[index]))  # a copy: a map is read-only
