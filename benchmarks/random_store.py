"""A view store to time steps with."""

from pathlib import Path

import numpy as np
import torch

from rsd.machine.files import write_json
from rsd.teacher.store import StoredTeacher, StoreHeader


def random_store(folder: Path, *, images: int, width: int, classes: int, device: torch.device) -> StoredTeacher:
    """A store of one view of each image, whose numbers do not matter for its speed."""
    generator = np.random.default_rng(0)
    for name, columns in (("embedding", width), ("logits", classes)):
        np.save(folder / f"{name}.npy", generator.standard_normal((1, images, columns)).astype(np.float16))
    header = StoreHeader(views=1, seed=0, images=images, made_from={}, embedding_width=width, logits_width=classes)
    write_json(folder / "header.json", header.model_dump(exclude_none=True))
    return StoredTeacher(folder, made_from={}, device=device)
