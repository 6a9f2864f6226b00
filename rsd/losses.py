"""The distillation losses by their public names, for a training loop of one's own; each lives in `rsd.methods`."""

from rsd.methods.losses import (
    cc_loss,
    dist_loss,
    dkd_loss,
    kd_loss,
    ofa_loss,
    rkd_loss,
    rsd_loss,
    rsd_terms,
)

__all__ = ["cc_loss", "dist_loss", "dkd_loss", "kd_loss", "ofa_loss", "rkd_loss", "rsd_loss", "rsd_terms"]
