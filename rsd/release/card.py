"""A bundle's model card: the student's, with test accuracy, files and licence."""

from huggingface_hub import ModelCard

from rsd.export.options import NO_LICENSE
from rsd.models.card import model_card
from rsd.run.records import ConvertRecord, ExportRecord, StudentRecord, TeacherRecord
from rsd.sources.images import DatasetRecord


def bundle_card(
    student: StudentRecord,
    teacher: TeacherRecord,
    data: DatasetRecord,
    *,
    export: ExportRecord,
    converted: list[ConvertRecord],
) -> ModelCard:
    """The card of a bundle's folder."""
    served = converted[0].precision
    use = f"""A device takes the signed bundle with `rsd-edge install`. In Python, from the bundle's folder:

```python
import onnxruntime
session = onnxruntime.InferenceSession("{served}/model.onnx")
logits = session.run(["logits"], {{"image": images}})[0]  # images: uint8 [N, H, W, C]; logits: float32 [N, classes]
```

`preprocessing.json` says how images become this size, `labels.json` names the classes."""
    rows = "\n".join(
        f"| `{precision}/{file}` | {size / 1e6:.2f} MB | {top1:.2f} % |"
        for precision, file, size, top1 in dict.fromkeys(
            (one.precision, pair.file, pair.bytes, pair.test_top1) for one in converted for pair in one.pairs.values()
        )
    )
    stated = "none is stated" if export.license == NO_LICENSE else export.license
    files = f"""## Files

| file | size | test top-1 |
|---|---|---|
{rows}

Licence of the weights: {stated}. `licences/` holds those of the code and data behind them.

"""
    return model_card(
        student,
        teacher,
        data,
        use=use,
        library="onnx",
        test_top1=export.test_top1,
        files=files,
        licence=_licence(export.license),
    )


def _licence(spdx: str) -> dict[str, str]:
    """The hub's fields for an SPDX expression; its own names are SPDX's in small letters."""
    if spdx == NO_LICENSE:
        return {"license": "unknown"}
    if spdx.startswith("LicenseRef-") or " " in spdx:
        return {"license": "other", "license_name": spdx}
    return {"license": spdx.lower()}
