"""Export: a student out of training, as ONNX and as TensorRT engines."""

from rsd.machine.extras import needs

needs("export", "onnx", "onnxscript", "onnxruntime")
