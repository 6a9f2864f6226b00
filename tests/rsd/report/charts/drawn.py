"""What a chart holds, read from its Vega-Lite."""

from typing import Any


def datasets(chart: Any) -> list[list[dict[str, Any]]]:
    return list(chart.to_dict()["datasets"].values())


def scale(chart: Any, channel: str) -> dict[str, Any]:
    """The first scale that a layer of the chart names for a channel."""
    layers = [layer["encoding"][channel] for layer in chart.to_dict()["layer"] if channel in layer["encoding"]]
    return next(dict(encoding["scale"]) for encoding in layers if encoding.get("scale"))
