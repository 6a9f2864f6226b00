"""NVIDIA's TensorRT for RTX: builds for named GPU generations, without a GPU, too."""

from rsd.export.runtimes._tensorrt import TensorRT


class Rtx(TensorRT):
    titles = {"": "TensorRT for RTX", "compute only": "TensorRT for RTX, without copies"}  # noqa: RUF012
    module = "tensorrt_rtx"
    needs_gpu = False
    capabilities = ("8.6", "8.9", "12.0")  # RTX 30, 40 and 50
    version_compatible = False  # it has the flag, but its engines fit their own release alone (its guide)


RUNTIME = Rtx()
