"""What the stages write down: one type per record, each with one writer, which is a stage, and one reader, `Run`.

Every record says where it lies below the run's folder, and what it was made from.
"""

from rsd.run.records.base import Name, Part, Record, Section, Written
from rsd.run.records.data import DatasetRecord
from rsd.run.records.device import CPU, GPU, DeviceRecord, Fingerprinted
from rsd.run.records.files import (
    BundleRecord,
    Comparison,
    ConvertRecord,
    Details,
    EngineRecord,
    ExportRecord,
    GraphInput,
    Harm,
    Origin,
    Parity,
    Port,
    Rounded,
    ServedSize,
)
from rsd.run.records.judged import Evaluation, EvaluationRecord, Summary
from rsd.run.records.params import Choice, Sources, Watched
from rsd.run.records.timed import Conditions, Latency, LatencyRecord, Timing
from rsd.run.records.trained import (
    CorrelationChange,
    CorrelationPicture,
    IndexedStudent,
    InsideRecord,
    Model,
    ShippedRecord,
    ShownRecord,
    StudentIndex,
    StudentRecord,
    TeacherRecord,
    TrainedRecord,
    Validation,
)

__all__ = [
    "CPU",
    "GPU",
    "BundleRecord",
    "Choice",
    "Comparison",
    "Conditions",
    "ConvertRecord",
    "CorrelationChange",
    "CorrelationPicture",
    "DatasetRecord",
    "Details",
    "DeviceRecord",
    "EngineRecord",
    "Evaluation",
    "EvaluationRecord",
    "ExportRecord",
    "Fingerprinted",
    "GraphInput",
    "Harm",
    "IndexedStudent",
    "InsideRecord",
    "Latency",
    "LatencyRecord",
    "Model",
    "Name",
    "Origin",
    "Parity",
    "Part",
    "Port",
    "Record",
    "Rounded",
    "Section",
    "ServedSize",
    "ShippedRecord",
    "ShownRecord",
    "Sources",
    "StudentIndex",
    "StudentRecord",
    "Summary",
    "TeacherRecord",
    "Timing",
    "TrainedRecord",
    "Validation",
    "Watched",
    "Written",
]
