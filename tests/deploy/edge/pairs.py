"""Bundles whose files several runtimes read, and what a device chose of them."""

import hashlib

import numpy as np
from rsd_edge.records import Pair

from tests.bundles import edit

ORT32, ORT16 = Pair("fp32", "onnxruntime"), Pair("fp16", "onnxruntime")
OV32, OV16 = Pair("fp32", "openvino"), Pair("fp16", "openvino")


def add_openvino(bundle, add=0.0):
    """Let OpenVINO read the same files, with golden logits that are `add` beside ONNX Runtime's."""

    def change(manifest):
        manifest["requires"]["openvino"] = "2024.4"
        for precision, model in manifest["models"].items():
            model["onnx"]["openvino"] = model["onnx"]["onnxruntime"]
            path = bundle / "golden" / f"logits.{precision}.openvino.npy"
            np.save(path, np.load(bundle / f"golden/logits.{precision}.onnxruntime.npy") + np.float32(add))
            manifest["golden"]["logits"][precision]["openvino"] = f"golden/{path.name}"
            facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            manifest["files"][f"golden/{path.name}"] = facts

    edit(bundle / "manifest.json", change)


def chosen(releases):
    choice = releases.status()["choice"]
    return Pair(choice["precision"], choice["runtime"]), choice["threads"]


def logged(releases, name):
    return [event for event in releases.events.all() if event["event"] == name]


def place(releases):
    current = releases.current().name
    return releases.root, current, releases.status()["manifest_sha256"]
