"""`export` of params.yaml: how the student is traced and converted, and how far a file may stray."""

from functools import cache
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, create_model, field_validator

from rsd.export import precisions
from rsd.export.parity import Gate, MaxDifference
from rsd.machine.options import Options

NO_LICENSE = "NOASSERTION"  # what SPDX writes where nobody has said


class Gates(Options):
    """Limits: this one, and one of each precision."""

    stripped_max_difference: float = Field(default=0.0, ge=0)
    """Largest absolute logit difference of the stripped student from the one in its training-only module, as a
    share of the logit range: none, since the weights and the operations are the same."""


class ExportOptions(Options):
    """What all precisions have in common; `export_options` adds what each has."""

    opset: int = Field(20, ge=18, le=23)
    ir_version: int = Field(10, ge=8, le=13)
    """onnx's own default is newer than what older runtimes read."""
    license: str = NO_LICENSE
    """Of the shipped weights, an SPDX expression; written into every file."""
    gates: Gates = Gates()

    @field_validator("license")
    @classmethod
    def _spdx(cls, license: str) -> str:
        if license == NO_LICENSE:
            return license
        try:
            return canonicalize_license_expression(license)
        except InvalidLicenseExpression as error:
            raise ValueError(
                f"expected an SPDX expression, such as Apache-2.0 or LicenseRef-Ours, or {NO_LICENSE} where none is "
                f"stated, found {license!r}"
            ) from error

    def gate(self, rung: str) -> Gate:
        """Of `stripped` or of a precision."""
        kind = MaxDifference if rung == "stripped" else precisions.get(rung).gate
        return kind(rung, getattr(self.gates, f"{rung}_{kind.key}"))

    def of(self, name: str) -> Options:
        """The section of a precision."""
        return getattr(self, name)


@cache
def export_options() -> type[ExportOptions]:
    """The whole section, with a part and a gate for each precision that there is."""
    kinds = {name: precisions.get(name) for name in precisions.names()}
    limits: dict[str, Any] = {
        f"{name}_{kind.gate.key}": (float, Field(default=kind.limit, ge=0)) for name, kind in kinds.items()
    }
    gates = create_model("Gates", __base__=Gates, **limits)
    parts: dict[str, Any] = {name: (kind.section, kind.section()) for name, kind in kinds.items()}
    return create_model("ExportOptions", __base__=ExportOptions, gates=(gates, gates()), **parts)
