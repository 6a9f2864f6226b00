"""From a template and charts to one self-contained HTML file, which needs no network.

`base.html` has the colours, the styles and the scripts that all pages share. The same content gives the same bytes.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from rsd.machine.files import written_aside
from rsd.report import verdict
from rsd.report.charts import style
from rsd.report.table import milliseconds, size


@dataclass(frozen=True)
class Figure:
    """A chart with its words."""

    name: str
    spec: Markup
    title: str = ""
    note: str = ""


def figure(name: str, chart: alt.LayerChart, title: str = "", note: str = "") -> Figure:
    """The chart under a name that is the only one of its page."""
    return Figure(name, _spec(chart), title, note)


def write(path: Path, template: str, *, package: str, **content: Any) -> None:
    """Fill `template`, a file of the Python package `package`; the page is written whole or left as it was."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("rsd.report", ".")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": verdict.percent,
        "points": verdict.points,
        "milliseconds": milliseconds,
        "size": size,
    }
    theme = style.theme(ink="var(--ink)", muted="var(--muted)", line="var(--line)")
    html = environment.get_template(template).render(**content, theme=_json(theme), vega=_vega())
    with written_aside(path) as aside:
        aside.write_text(html, encoding="utf-8")


@cache
def _vega() -> Markup:
    """Vega, Vega-Lite and vega-embed in one script; bundling takes seconds."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(script.replace("</script", r"<\/script"))  # noqa: S704 - the libraries' own code


def _spec(chart: alt.LayerChart) -> Markup:
    """The chart as JSON, without Altair's own look and without what changes from call to call."""
    spec = chart.to_dict(validate=False)  # slow, and a matter for the tests of `charts`
    for key in ("config", "$schema"):
        spec.pop(key, None)
    text = str(_json(spec))
    # Altair numbers its views over the life of the process.
    views = list(dict.fromkeys(re.findall(r'"view_\d+"', text)))
    return Markup(re.sub(r'"view_\d+"', lambda match: f'"view_{views.index(match.group())}"', text))  # noqa: S704


def _json(value: Any) -> Markup:
    """JSON for a script element: no "<" can close it, whatever a class is called."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", r"\u003c"))  # noqa: S704
