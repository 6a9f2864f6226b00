"""The gate before all others: a student that has learned nothing is not exported."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.models.chance import too_weak


class StudentGate(Options):
    """What the section `student` asks of the trained student before anything is exported."""

    min_top1: float | None = Field(None, ge=0, le=100)
    """Test top-1 in per cent; null: it must be better than always giving the most frequent class, by a binomial
    test."""

    def check(self, name: str, logits: NDArray[np.float32], labels: NDArray[np.integer], classes: list[str]) -> None:
        """Stop a pipeline whose student has learned nothing.

        Args:
            logits: of the test images, `[N, classes]`.
            labels: of these images, `[N]`.

        Raises:
            UserError: its top-1 is too low.
        """
        answers = logits.argmax(axis=1)
        if fault := too_weak(100 * float((answers == labels).mean()), labels, self.min_top1):
            one = f", and the class '{classes[answers[0]]}' for every image" if len(np.unique(answers)) == 1 else ""
            raise UserError(
                f"expected of the student {name} {fault} on the test split{one}; nothing is exported: look at its "
                "curves in the history, lower recipe.learning_rate or the method's weight, train it longer, or lower "
                "student.min_top1"
            )
