"""Weights of others' formats, which timm knows how to read."""

import pytest
import torch

from rsd.models.outputs import outputs
from tests.rsd.teacher.small import VIT, data, options, saved_state, timm_model

CLIP = (
    ("patch_embed.proj", "conv1"), ("blocks.", "transformer.resblocks."), ("norm_pre", "ln_pre"), ("norm1", "ln_1"),
    ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"), ("norm.", "ln_post."), ("cls_token", "class_embedding"),
    ("pos_embed", "positional_embedding"),
)  # fmt: skip


@pytest.mark.parametrize("source", ["probe", "finetune"])
def test_a_clip_tower_in_openais_format_loads(tmp_path, source):
    name, args = "vit_base_patch16_clip_224", VIT | {"img_size": 16}
    net = timm_model(name, classes=5, channels=3, args=args)
    state = {"token_embedding.weight": torch.ones(2), "visual.proj": net.head.weight.T}
    for own, tensor in net.state_dict().items():
        if not own.startswith("head."):
            theirs = own
            for ours, open_ai in CLIP:
                theirs = theirs.replace(ours, open_ai)
            state[f"visual.{theirs}"] = tensor.squeeze(0) if own == "pos_embed" else tensor
    state["visual.class_embedding"] = net.cls_token[0, 0]
    path = saved_state(tmp_path / "clip.safetensors", state)
    teacher = options(source, path, name=name, args=args).start(data(channels=3)).model.eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(outputs(teacher, images).embedding, outputs(net, images).embedding)


def test_a_tower_of_openclip_loses_its_prefix(tmp_path):
    name, args = "vit_base_patch16_siglip_224", VIT | {"img_size": 16}
    net = timm_model(name, classes=0, channels=3, args=args)
    state = {f"visual.trunk.{own}": tensor for own, tensor in net.state_dict().items()}
    path = saved_state(tmp_path / "siglip.safetensors", state | {"logit_scale": torch.ones(1)})
    teacher = options("probe", path, name=name, args=args).start(data(channels=3)).model.eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(outputs(teacher, images).embedding, outputs(net, images).embedding)
    assert teacher.head.weight.shape == (3, 16)
