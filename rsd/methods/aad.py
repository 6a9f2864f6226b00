"""The throw-away module between the student's embedding and the loss."""

from torch import nn


class AAD(nn.Sequential):
    """Architecture-agnostic decoupler: maps `[B, D_s]` to `[B, D_t]` while training, then is thrown away.

    `Linear(D_s, gamma * D_s) -> BatchNorm -> GELU -> Linear(gamma * D_s, D_t)`, both without bias, weights
    truncated-normal with standard deviation 0.02 (arXiv 2507.21844). It soaks up what is peculiar to the
    two architectures, so that the student's own embedding need not.

    Args:
        max_hidden: a cap on the hidden width `gamma * D_s`, for students with a wide embedding; None for none.
    """

    def __init__(
        self, student_width: int, teacher_width: int, *, gamma: float = 2.0, max_hidden: int | None = None
    ) -> None:
        hidden = max(1, round(gamma * student_width))
        hidden = hidden if max_hidden is None else min(hidden, max_hidden)
        super().__init__(
            nn.Linear(student_width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, teacher_width, bias=False),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
