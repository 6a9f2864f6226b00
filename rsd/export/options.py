"""`export` of params.yaml: how the student is traced and converted, and how far a file may stray."""

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, field_validator

from rsd.export.parity import Gates
from rsd.export.quantize import Int8Options
from rsd.machine.options import Options

INT8_OPSET = 20
"""From 21 on QuantizeLinear names its type; ONNX Runtime 1.32 keeps that name where it turns the int8 of a transformer
into uint8, and then refuses its own graph."""
NO_LICENSE = "NOASSERTION"
"""What SPDX writes where nobody has said."""


class ExportOptions(Options):
    """What is shipped, and how strict its checks are."""

    opset: int = Field(20, ge=18, le=23)
    ir_version: int = Field(10, ge=8, le=13)
    """onnx's own default is newer than what older runtimes read."""
    license: str = NO_LICENSE
    """Of the shipped weights, an SPDX expression; written into every file."""
    gates: Gates = Gates()
    int8: Int8Options = Int8Options()

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
