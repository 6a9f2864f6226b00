"""A small model of each of timm's families says in every form what PyTorch says: stripped, and in each precision.

The models are untrained, but as lively as trained ones: a model whose logits hardly depend on the image proves nothing.
Those of `LARGE` are tried in each precision only, without the blocks that repeat the one before: the graph still has
every kind of block, and is traced in seconds.
"""

from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import model_entrypoint
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn
from torch.optim.swa_utils import update_bn

from rsd.export import precisions
from rsd.export.ladder import Ladder
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.strip import AsTrained, judge_stripped
from rsd.export.ungated import write_files
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize, RawPixels
from rsd.sources.images import ArrayImages, LabelledImages
from tests.rsd.export.conftest import MEAN, STD, lively, squares, telling
from tests.rsd.export.test_strip import DATA, EXACT, trained

OF_32 = """
beit_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny deit_tiny_patch16_224 eca_botnext26ts_256
efficientformerv2_s0 eva02_tiny_patch14_224 gcvit_xxtiny levit_128s mixer_s16_224 nest_tiny pit_xs_224
mvitv2_tiny tnt_s_legacy_patch16_224 visformer_tiny vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
xcit_nano_12_p16_224
"""
"""Models whose argument `img_size` is 32 here."""
ANY_SIZE = """
convmixer_768_32 cpubone_nano cs3darknet_focus_s cspnext_tiny davit_tiny densenet121 dla34 dpn48b efficientvim_m1
efficientvit_b0 fasternet_t0 fastvit_t8 focalnet_tiny_srf ghostnet_050 hardcorenas_b iformer_t inception_next_atto
lcnetv2_small legacy_seresnet18 lowformer_b0 mobilenetv3_small_050 mobilevit_xxs naflexvit_so400m_patch16_siglip
nextvit_small pnasnet5large poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny repghostnet_050 repvit_m0_9 resnest26d
resnetv2_18 rexnet_100 sam2_hiera_tiny selecsls42 shvit_s1 skresnet18 starnet_s050 tiny_vit_5m_224 tresnet_m xception41
"""
"""Models that take images of 32 x 32 as they are. PNASNet costs most: no argument makes a smaller one."""
SWINS = ("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window16_256")
LARGE: dict[str, dict[str, Any]] = {
    **{name: {"img_size": 32} for name in OF_32.split()},
    **{name: {} for name in ANY_SIZE.split()},
    "crossvit_tiny_240": {},
    "csatv2": {},
    "davit_tiny": {"depths": (1, 1), "embed_dims": (96, 192), "num_heads": (3, 6)},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2)},
    "dpn48b": {"k_sec": (1, 1, 1, 1)},
    "efficientformer_l1": {},
    "inception_resnet_v2": {},
    "inception_v3": {},
    "inception_v4": {},
    "legacy_xception": {},
    "mobilenetv5_base": {
        "block_args": decode_arch_def(
            [
                ["er_r1_k3_s2_e4_c32"],
                ["uir_r1_a3_k5_s2_e6_c32"],
                ["uir_r1_a5_k5_s2_e6_c64", "mqa_r1_k3_h2_s2_d16_c64", "uir_r1_a0_k0_s1_e2_c64"],
            ]
        ),
        "num_features": 128,
    },
    "nasnetalarge": {"num_features": 192, "stem_size": 8},
    "rdnet_tiny": {"num_blocks_list": (1,) * 7},
    "repvit_m0_9": {"embed_dim": (48, 96), "depth": (2, 2)},
    "resnest26d": {"layers": (1, 1, 1, 1)},
    "rexnet_100": {"width_mult": 0.5, "depth_mult": 0.5},
    "sam2_hiera_tiny": {"stages": (1, 1, 2, 1), "global_att_blocks": (3,)},
    "sequencer2d_s": {"img_size": 28},
    **{name: {"img_size": 32, "depths": (2, 2), "num_heads": (3, 6)} for name in SWINS},
}
"""Models that lose their repeated blocks; of some, stages as well."""
SMALL: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"embed_dim": 64, "depth": 1, "num_heads": 2},
    "edgenext_xx_small": {"depths": (1, 1, 2, 1)},
    "efficientvit_m0": {"img_size": 64, "depth": (1, 1, 1), "num_heads": (2, 2, 2)},
    "ese_vovnet19b_slim_dw": {},
    "gemma4_vit_167m": {
        "embed_dim": 64,
        "depth": 1,
        "num_heads": 2,
        "head_dim": 32,
        "intermediate_size": 128,
        "position_embedding_size": 16,
    },
    "hgnet_tiny": {},
    "hiera_tiny_224": {"img_size": 64, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)},
    "hrnet_w18_small": {},
    "regnetx_002": {},
    "res2net50_14w_8s": {"layers": (1, 1, 1, 1)},
    "samvit_base_patch16_224": {
        "img_size": 64,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 2,
        "window_size": 2,
        "global_attn_indexes": (1,),
    },
    "swiftformer_xs": {"layers": (1, 1, 1, 1)},
    "twins_svt_small": {
        "img_size": 32,
        "embed_dims": (32, 64),
        "depths": (2, 1),
        "num_heads": (2, 4),
        "mlp_ratios": (4, 4),
        "wss": (7, 7),
        "sr_ratios": (8, 4),
    },
    "vgg11_bn": {"mlp_ratio": 0.02},
    **{name: {} for name in timm.list_models("test_*") if name not in ("test_vit2", "test_vit3", "test_vit4")},
}
SIDES = {
    **dict.fromkeys(ANY_SIZE.split(), 32),
    **dict.fromkeys(SMALL.keys() - {"swiftformer_xs", *timm.list_models("test_*")}, 32),
    "csatv2": 64,
    "deepseek_vit_412m": 28,
    "efficientformer_l1": 224,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
    "legacy_xception": 64,
    "mobilenetv5_base": 32,
    "nasnetalarge": 32,
}
"""Of the images, where the model takes others than its own."""
LEAST = {"fp32": 1 - 1e-6, "fp16": 0.999, "int8": 0.9}
"""Cosine with PyTorch's logits, of which the mean over the images is 0."""
UNSTEADY = """
cs3darknet_focus_s cspnext_tiny dla34 eca_botnext26ts_256 efficientvim_m1 efficientvit_b0 efficientvit_m0
ese_vovnet19b_slim_dw ghostnet_050 hardcorenas_b hgnet_tiny hrnet_w18_small inception_resnet_v2 inception_v3
inception_v4 lcnetv2_small mobilenetv3_small_050 mobilevit_xxs nasnetalarge pnasnet5large regnetx_002 repghostnet_050
rexnet_100 selecsls42 xception41
"""
"""Deep stacks, in which rounding grows from layer to layer without training; pixels that are off by 2 of 255 change
their logits as much. Their fp16 and int8 files must run and give finite logits, no more."""
PIXELS: dict[str, Any] = {"mean": MEAN * 3, "std": STD * 3}


def test_every_family_is_tried():
    tried = {model_entrypoint(name).__module__.removeprefix("timm.models.") for name in SMALL | LARGE}
    assert tried == {*timm.list_modules()} - {"mlp"}  # rsd.models.mlp, which is ours


class First(nn.Module):
    """Stands where a block was."""

    def forward(self, features: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return features


def thinned(model: nn.Module) -> nn.Module:
    """The model without the blocks that are made as the one before them."""
    for parent in model.modules():
        if type(parent) in (nn.Sequential, nn.ModuleList):
            kept = [next(group) for _, group in groupby(parent.named_children(), lambda item: _made(item[1]))]
            numbered = isinstance(parent, nn.ModuleList)
            parent._modules = {str(place) if numbered else name: block for place, (name, block) in enumerate(kept)}
    for (_, before), (name, block) in pairwise([*model.named_children()]):
        if name.startswith(("cell", "block")) and _made(block) == _made(before):  # of NASNet, PNASNet, Xception
            setattr(model, name, First())
    return model


def _made(block: nn.Module) -> list[tuple[Any, ...]]:
    """Of what kinds, options and shapes a block is."""
    return [
        (
            name,
            type(part),
            {key: value for key, value in vars(part).items() if isinstance(value, int | float | str | tuple)},
            [parameter.shape for parameter in part.parameters(recurse=False)],
        )
        for name, part in block.named_modules()
        if type(part).__name__ != "DropPath"
    ]


def small(name: str) -> tuple[nn.Module, np.ndarray]:
    """The model, and images `[N, H, W, C]` for it."""
    args = (SMALL | LARGE)[name]
    side = args.get("img_size") or SIDES.get(name) or timm.get_pretrained_cfg(name).input_size[-1]  # type: ignore[union-attr]
    images = squares(16, side, 3)
    torch.manual_seed(0)
    model = create(ModelOptions(name=name, args=args), classes=10, image_shape=images.shape[1:])
    model = lively(thinned(model) if name in LARGE else model)
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.std() < 0.03:  # timm's 0.02 lets a ConvNeXt's blocks add next to nothing
            nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    update_bn([torch.from_numpy(images)], RawPixels(model, **PIXELS))
    return telling(model.eval(), images, **PIXELS), images


def in_torch(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return RawPixels(model, **PIXELS)(torch.from_numpy(images)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL | LARGE)
def test_every_precision_of_a_family_answers_like_pytorch(tmp_path: Path, name: str) -> None:
    model, images = small(name)
    expected = in_torch(model, images)
    assert expected.std(axis=0).mean() > 0.05
    paths = {precision: tmp_path / f"{precision}.onnx" for precision in precisions.names()}
    calibration = ArrayImages(images)
    write_files(model, paths, **PIXELS, image_shape=images.shape[1:], classes=10, calibration=calibration)
    for precision, path in paths.items():
        logits = logits_of(path, images)
        cosine = np.sum(logits * expected) / np.linalg.norm(logits) / np.linalg.norm(expected)
        assert np.isfinite(logits).all()
        if precision == "fp32" or name not in UNSTEADY.split():
            assert cosine > LEAST[precision], precision


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_stripped_student_of_a_family_is_unchanged(tmp_path: Path, name: str) -> None:
    model, images = small(name)
    record, teacher = trained(tmp_path, "rsd", model, images.shape[1:])
    within = AsTrained(record, teacher, image_count=100)
    ladder = Ladder(in_torch(model, images), LabelledImages(images, np.zeros(len(images), np.int64), DATA.classes))
    assert judge_stripped(ladder, EXACT, model, PixelNormalize(**PIXELS), within).max_difference == 0
