"""The plainly trained twin: the same student, recipe and seed, without a teacher."""

from rsd.methods.base import Distiller


class ScratchDistiller(Distiller, method="scratch"):
    """Cross-entropy against the ground truth only. It also pretrains teachers."""
