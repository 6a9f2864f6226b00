"""What all charts share: colours, the theme, and data that is small and readable.

A chart carries its own data, rounded, and no colour of the page: ink, grid and background come from
`theme`, so that one chart serves a dark page, a light one and paper.
"""

import colorsys
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from rsd.machine.files import written_aside
from rsd.report.table import method_name

# After Okabe and Ito, of a lightness that keeps 3:1 contrast on white and on near-black alike.
METHOD_COLOURS = {
    "teacher": "#7f8791",
    "scratch": "#d17a12",
    "rsd": "#2b7fc9",
    "kd": "#159a76",
    "dkd": "#c75f93",
    "dist": "#9a7bd0",
    "rkd": "#a88a00",
    "cc": "#3aa0a8",
    "crd": "#d1573b",
    "fitnet": "#8c6d52",
    "ofa": "#6f8f2d",
}
PRECISION_COLOURS = {"fp32": "#14917f", "fp16": "#9166cc", "int8": "#c2528b"}
NEUTRAL, ERROR = "#7f8791", "#d1573b"
POSITIVE, NEGATIVE = "#2b7fc9", "#d17a12"


Figure = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart | alt.HConcatChart

INK, MUTED, LINE, PAPER = "#1c2128", "#59636e", "#d1d9e0", "#ffffff"
"""Of a chart that stands alone."""


def method_order(methods: Iterable[str]) -> list[str]:
    """Teacher, scratch, then the distilled ones: the same order in every chart and table."""
    known = list(METHOD_COLOURS)
    return sorted(set(methods), key=lambda name: (known.index(name) if name in known else len(known), name))


def colour(method: str) -> str:
    """Of a sum of methods and of a user's own, a hue that its name decides."""
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    red, green, blue = colorsys.hls_to_rgb(crc32(method.encode()) / 2**32, 0.47, 0.4)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def theme(*, ink: str, muted: str, line: str) -> dict[str, object]:
    """A Vega-Lite config: colours may be CSS variables, since the page draws SVG."""
    return {
        "background": None,
        "padding": 2,
        "view": {"stroke": None, "continuousHeight": 220, "discreteWidth": 300},
        "axis": {
            "labelColor": muted,
            "titleColor": muted,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelPadding": 6,
            "titlePadding": 10,
            "gridColor": line,
            "domain": False,
            "ticks": False,
            "tickCount": 5,
        },
        "axisX": {"grid": False, "domain": True, "domainColor": line, "titleAnchor": "end"},
        "axisY": {
            "titleAngle": 0,
            "titleAlign": "left",
            "titleAnchor": "end",
            "titleBaseline": "bottom",
            "titleX": 0,
            "titleY": -8,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "symbolBaseFillColor": muted,
            "symbolBaseStrokeColor": muted,
            "orient": "top",
            "offset": 26,
            "columnPadding": 18,
            "symbolSize": 70,
            "symbolOpacity": 1,
            "layout": {"top": {"anchor": "start", "direction": "vertical", "margin": 6}},
        },
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": muted},
        "line": {"strokeCap": "round", "strokeJoin": "round"},
    }


def svg(figure: Figure) -> str:
    """A chart that stands alone, on white."""
    spec = figure.to_dict(validate=False) | {"background": PAPER}
    if spec.get("width") == "container":  # as wide as the page, where it stands in one
        spec["width"] = 640
    # Labels are set by the viewer, whose letters may be wider than those that the picture was measured with.
    padding = {"left": 28, "top": 12, "right": 12, "bottom": 12}
    spec["config"] = theme(ink=INK, muted=MUTED, line=LINE) | {"background": PAPER, "padding": padding}
    return str(vl_convert.vegalite_to_svg(spec))


def save_svg(figure: Figure, path: Path) -> None:
    with written_aside(path) as aside:
        aside.write_text(svg(figure))


def method_colour(methods: list[str]) -> alt.Color:
    return alt.Color(
        "method:N",
        legend=None,
        scale=alt.Scale(domain=[method_name(name) for name in methods], range=[colour(name) for name in methods]),
    )


def layered(*layers: alt.Chart, height: int) -> alt.LayerChart:
    """Layers as wide as the figure they stand in."""
    chart = alt.layer(*layers).properties(width="container", height=height)
    assert isinstance(chart, alt.LayerChart)  # a facet only where a layer is one
    return chart


def data(frame: pd.DataFrame) -> alt.InlineData:
    """The frame as the chart's own rows: readable names, five significant digits, null if missing."""
    if "method" in frame:
        frame = frame.assign(method=[method_name(name) for name in frame["method"]])
    rows = [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict(orient="records")]
    return alt.InlineData(values=rows)


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    return rounded(value) if isinstance(value, float) else value


def rounded(value: float) -> float:
    return float(f"{float(value):.5g}")
