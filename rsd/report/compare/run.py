"""One run among those that are compared."""

from dataclasses import dataclass

import pandas as pd

from rsd.report.records import Records


@dataclass(frozen=True)
class ComparedRun:
    """A run by its name, its records and its code."""

    name: str
    """As the user named it: a branch, a tag, a commit, an experiment, or `workspace`."""
    commit: str | None
    """None: the workspace, which need not be committed."""
    records: Records
    bundle_bytes: int | None
    test_data: str | None
    """A digest of the test split; None where it is not known."""
    code: tuple[str, ...] = ()
    """Files of code that differ from the first run's."""

    def scores(self, method: str, metric: str) -> pd.Series:
        """A metric on the test split by seed, of one method's students; empty if it has none, or none was measured.

        `gain` is top-1 over the scratch twin of the same seed, in points.
        """
        if metric == "gain":
            return pd.Series(self.records.evaluation.gains(method), dtype=float)
        models = self.records.evaluation.by_method(method)
        figures = [getattr(model, metric) for model in models]
        seeds = [-1 if model.seed is None else model.seed for model in models]  # the teacher has no seed
        return pd.Series(figures, index=seeds, dtype=float).dropna()

    @property
    def device(self) -> str | None:
        """Where its latencies were measured."""
        return self.records.benchmark.device.full_name if self.records.benchmark else None

    @property
    def seeds(self) -> list[int]:
        return sorted({model.seed for model in self.records.models if model.seed is not None})

    def bytes_of(self, precision: str) -> int | None:
        """Of the exported file."""
        return next((file.main.bytes for file in self.records.exports if file.precision == precision), None)
