"""The distillation losses by their public names, for a training loop of one's own; each lives in its method's file."""

from rsd.methods.cc import cc_loss
from rsd.methods.dist import dist_loss
from rsd.methods.dkd import dkd_loss
from rsd.methods.kd import kd_loss
from rsd.methods.ofa import ofa_loss
from rsd.methods.rkd import rkd_loss
from rsd.methods.rsd import rsd_loss, rsd_terms

__all__ = ["cc_loss", "dist_loss", "dkd_loss", "kd_loss", "ofa_loss", "rkd_loss", "rsd_loss", "rsd_terms"]
