"""What tests look at on a device."""

import numpy as np
from rsd_edge.model import Model


def events(releases):
    return [event["event"] for event in releases.status()["events"]]


def works(folder):
    """Whether a release is whole and infers."""
    model = Model.open(folder)
    expected = np.load(folder / "golden" / "logits.fp32.onnxruntime.npy")
    logits = model.infer(np.load(folder / "golden" / "images.npy"))
    model.close()
    return np.allclose(logits, expected, atol=1e-3)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lose_state(releases, content=None):
    path = releases.root / "state.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
