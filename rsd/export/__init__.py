"""Export: a student out of training, as ONNX and as TensorRT engines."""
