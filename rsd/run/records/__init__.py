"""What the stages write down: one type per record, each with one writer, which is a stage, and one reader, `Run`.

Every record says where it lies below the run's folder, and what it was made from.
"""

from rsd.run.records.base import Name, Record, Section, Written
from rsd.run.records.bundle import BundledModel, BundleRecord, Golden, Manifest, Origin, Requires
from rsd.run.records.data import DatasetRecord
from rsd.run.records.device import DeviceRecord
from rsd.run.records.files import (
    Comparison,
    ConvertRecord,
    Details,
    EngineRecord,
    ExportRecord,
    GraphInput,
    Harm,
    Pair,
    Parity,
    Port,
    Rounded,
    Stray,
)
from rsd.run.records.judged import Accuracy, Evaluation, EvaluationRecord, Summary
from rsd.run.records.params import Choice, Sources, Watched
from rsd.run.records.timed import Conditions, Latency, LatencyRecord, Timing
from rsd.run.records.trained import (
    CorrelationChange,
    CorrelationPicture,
    IndexedStudent,
    InsideRecord,
    Model,
    ProbeRecord,
    ShippedRecord,
    ShownRecord,
    StartingWeights,
    StudentIndex,
    StudentRecord,
    TeacherRecord,
    Validation,
)

__all__ = [
    "Accuracy", "BundleRecord", "BundledModel", "Choice", "Comparison", "Conditions", "ConvertRecord",
    "CorrelationChange", "CorrelationPicture", "DatasetRecord", "Details", "DeviceRecord", "EngineRecord", "Evaluation",
    "EvaluationRecord", "ExportRecord", "Golden", "GraphInput", "Harm", "IndexedStudent", "InsideRecord", "Latency",
    "LatencyRecord", "Manifest", "Model", "Name", "Origin", "Pair", "Parity", "Port", "ProbeRecord", "Record",
    "Requires", "Rounded", "Section", "ShippedRecord", "ShownRecord", "Sources", "StartingWeights", "Stray",
    "StudentIndex", "StudentRecord", "Summary", "TeacherRecord", "Timing", "Validation", "Watched", "Written",
]  # fmt: skip
