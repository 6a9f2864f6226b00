"""Manifests of schema 2, whose files were for ONNX Runtime alone. Devices hold such releases, and serve them on."""

import contextlib
import json

from rsd_edge.records import ONNXRUNTIME


def upgraded(content: bytes) -> str:
    """A manifest of schema 2 as one of schema 3; what is malformed stays so, for `records.load` to refuse."""
    manifest = json.loads(content)
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        manifest["requires"]["openvino"] = None
        for model in manifest["models"].values():
            model["onnx"] = {ONNXRUNTIME: model["onnx"]}
        for precision, logits in manifest["golden"]["logits"].items():
            manifest["golden"]["logits"][precision] = {ONNXRUNTIME: logits}
    return json.dumps(manifest)
