"""Correlation congruence (ICCV 2019, arXiv 1904.01802)."""

from pydantic import Field
from torch import Tensor, nn

from rsd.machine.parallel import gather
from rsd.methods._batches import pair
from rsd.methods._linear_embeddings import LinearEmbeddings
from rsd.methods.base import Distiller, MethodOptions, Setting, Step, WeightOptions
from rsd.models.outputs import embedding_width


class CCOptions(WeightOptions):
    """Options of `method.cc`."""

    width: int = Field(128, gt=0, le=65536)
    """To which both embeddings are mapped."""


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence (ICCV 2019, arXiv 1904.01802): `0.02 mean_i sum_d D_id D_(i+1)d`, `D = |z_s - z_t|`.

    Pairs each image with the next one, so it depends on the order of the batch.

    Args:
        student, teacher: `[B, D]`, B >= 2, each after its linear embedding.
    """
    student, teacher = pair(student, teacher, at_least=2)
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() * (0.02 / (len(difference) - 1))


class CCDistiller(Distiller, method="cc"):
    """Cross-entropy + `weight` x CC between linear maps of both embeddings, which are trained."""

    needs = frozenset({"embedding"})
    Options = CCOptions
    options: CCOptions

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        return True

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module:
        assert setting.teacher_width is not None  # the constructor has checked what `needs` asks for
        return LinearEmbeddings(embedding_width(student), setting.teacher_width, self.options.width)

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss = cc_loss(*(gather(mapped) for mapped in step.adapted))
        return self.options.weight * loss, {"cc": loss}
