"""Small models of each family."""

from rsd.models.make import ModelOptions

SHAPE = (16, 16, 1)
RESNET = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})
FAMILIES = {
    "cnn": RESNET,
    "vit": ModelOptions(
        name="vit_tiny_patch16_224",
        args={"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    ),
    "convnext": ModelOptions(
        name="convnext_atto", args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "patch_size": 1}
    ),
}
