"""Names of the files in a run's folders. No other module of `rsd` and `stages` spells one."""

# A teacher's and a student's folder.
WEIGHTS = "model.safetensors"
SCAFFOLD = "scaffold.safetensors"
CONFIG = "config.json"
HISTORY = "history.csv"
CARD = "README.md"

# A split of the data, and the view store.
DATASET = "dataset.json"
IMAGE_ARRAY = "images.npy"
IMAGE_LABELS = "labels.npy"
PATHS = "paths.txt"
SIZES = "sizes.npy"
DIGESTS = "digests.npy"
HEADER = "header.json"

# Exported files and engines.
ONNX = "model.onnx"
LOGITS = "logits.npy"
ENGINE = "model.engine"
ENGINE_RECORD = "engine.json"
BUILD_LOG = "build.log"

# Tables of the evaluation and the benchmark.
CURVES = "curves.csv"
CALIBRATION = "calibration.csv"
LIKENESS = "cka.csv"
CONFUSION = "confusion"
SAMPLES = "samples.csv.gz"

# A bundle.
MANIFEST = "manifest.json"
LABELS = "labels.json"
PREPROCESSING = "preprocessing.json"
GOLDEN = "golden"
