"""NVIDIA's TensorRT, of data centres and Jetsons: builds for the GPU that it finds."""

from rsd.export.runtimes._tensorrt import TensorRT


class DataCentre(TensorRT):
    titles = {"": "TensorRT", "compute only": "TensorRT, without copies"}  # noqa: RUF012
    module = "tensorrt"
    needs_gpu = True
    capabilities = ("current",)
    version_compatible = True


RUNTIME = DataCentre()
