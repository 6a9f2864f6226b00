"""Prefect flows. They start stages through DVC and never repeat the graph."""

import sys

from rsd.machine.errors import UserError
from rsd.machine.extras import needs

try:
    needs("pipeline", "dvc", "prefect", "psutil")
except UserError as error:
    sys.exit(f"error: {error}")
