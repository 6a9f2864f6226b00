"""What a trained student is worth, and how alike two models are."""

from rsd.machine.extras import needs

needs("pipeline", "pandas", "torchmetrics")
