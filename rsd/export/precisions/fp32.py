"""The exported graph as it is."""

import onnx

from rsd.export.parity import MaxDifference
from rsd.export.precisions.base import Precision
from rsd.machine.options import Options
from rsd.sources.images import Images


class Fp32(Precision[Options]):
    section = Options
    gate = MaxDifference
    limit = 1e-4
    tolerance = 1e-4
    golden = 1e-3

    def graph(self, graph: onnx.ModelProto, options: Options, images: Images, *, runs_on: str) -> onnx.ModelProto:
        return graph


PRECISION = Fp32()
