"""What runs on the device: signed bundles are verified, installed, activated, served and taken back."""

import os

# From 1.29 on ONNX Runtime tells Microsoft about models and machine unless this was set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
