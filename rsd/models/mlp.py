"""MLPs of any size for timm: importing this module registers `resmlp` and `mlp_mixer`.

timm's own entries, such as `resmlp_12_224` and `mixer_b16_224`, fix patch size, depth and width. These two take all
arguments of `timm.models.mlp_mixer.MlpMixer`, so they can be made for small images and small devices. They have no
pretrained weights.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

_CFG = {"fixed_input_size": True, "first_conv": "stem.proj", "classifier": "head"}
default_cfgs = generate_default_cfgs({"mlp_mixer.untrained": _CFG, "resmlp.untrained": _CFG})
"""`register_model` looks here for the description of each."""


@register_model
def mlp_mixer(pretrained: bool = False, **args: Any) -> MlpMixer:
    """MLP-Mixer (Tolstikhin et al., NeurIPS 2021)."""
    return build_model_with_cfg(MlpMixer, "mlp_mixer", pretrained, **args)


@register_model
def resmlp(pretrained: bool = False, **args: Any) -> MlpMixer:
    """ResMLP (Touvron et al., TPAMI 2022)."""
    own: dict[str, Any] = {"mlp_ratio": 4, "block_layer": ResBlock, "norm_layer": Affine}
    return build_model_with_cfg(MlpMixer, "resmlp", pretrained, **(own | args))
