"""Teachers of a few thousand weights, and the data they are for."""

import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from rsd.sources.images import DatasetRecord
from rsd.teacher.base import TeacherOptions

ARGS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def timm_model(name="resnet18", classes=3, channels=1, args=ARGS):
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=classes, in_chans=channels, **args).eval()


def data(classes=3, channels=1, side=16):
    return DatasetRecord(
        source="any",
        classes=[f"class {i}" for i in range(classes)],
        height=side,
        width=side,
        channels=channels,
        mean=[0.4] * channels,
        std=[0.2] * channels,
        counts={},
        checksums={},
    )


def options(source, path=None, **more):
    where = {"weights": str(path)} if path else {}
    values = {"name": "resnet18", "args": ARGS, "source": source, "recipe": "any"}
    return TeacherOptions.model_validate(values | where | more)


def model(classes=3):
    return options("pretrain").new_model(data(classes), None)


def saved(path, net):
    return saved_state(path, net.state_dict())


def saved_state(path, state):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def saved_for_hub(folder, net, *, label_names=None, safe=True, **pixels):
    """A folder as timm writes it for the hub; `pixels` goes into its `pretrained_cfg`."""
    config = {"pretrained_cfg": pixels} | ({"label_names": label_names} if label_names else {})
    save_for_hf(net, folder, model_config=config, safe_serialization=safe)
    return folder


def same(ours, theirs, *, but=()):
    state, expected = ours.state_dict(), theirs.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], expected[name]) for name in expected if name not in but
    )
