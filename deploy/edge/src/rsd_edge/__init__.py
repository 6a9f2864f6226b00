"""The device's package: verifies, installs, activates, serves and takes back signed bundles."""

import os

# From 1.29 on, ONNX Runtime reports models and machine to Microsoft unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
