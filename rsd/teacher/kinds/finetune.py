"""A teacher that starts from others' weights, gets a new head, and is trained here."""

from typing import ClassVar

from rsd.teacher.base import FromWeights


class Finetune(FromWeights):
    """`teacher.source: finetune`; images are normalised as the weights were trained, of any classes."""

    trained: ClassVar[bool] = True
    recipe: str
