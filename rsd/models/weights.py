"""Where weights lie: timm's hub, a file or folder, or a repository of the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import EntryNotFoundError, HFValidationError, validate_repo_id
from pydantic import AfterValidator
from timm.models._hub import hf_split

from rsd.machine.errors import UserError, first_line
from rsd.machine.options import at_home
from rsd.run.names import CONFIG, WEIGHTS
from rsd.run.paths import Run
from rsd.sources.listing import NAMES, weights_file

HUB = "hub"
_REPOSITORY = "hf-hub:"


def check_weights(weights: str) -> str:
    """The place of weights, with the home folder for `~`; for validators.

    Raises:
        ValueError: it is no name on the hub, or a path below the run's folder: each run would start from what the last
            one has written.
    """
    if weights == HUB:
        return weights
    if not weights.startswith(_REPOSITORY):
        path, run = at_home(Path(weights)), Run().folder
        if path.resolve().is_relative_to(run.resolve()):
            raise ValueError(
                f"expected weights that no run replaces, found {weights}, and {run}/ is written anew by every run; "
                "copy them out of it first, and give the copy's path"
            )
        return str(path)
    name = weights.removeprefix(_REPOSITORY)
    try:
        validate_repo_id(name.partition("@")[0])
    except HFValidationError as error:
        raise ValueError(f"expected hf-hub:ORG/NAME, found '{weights}': {first_line(error)}") from error
    if "/" not in name:
        raise ValueError(f"expected hf-hub:ORG/NAME, found '{weights}'")
    return weights


Weights = Annotated[str, AfterValidator(check_weights)]
"""`hub` takes timm's weights for the model's name. `hf-hub:ORG/NAME` takes a repository in timm's format; `@REVISION`
may follow. Anything else is a path: a `.safetensors`, a timm-style `.pth` of tensors, or a folder with
`model.safetensors` and `config.json`, as `timm.models.save_for_hf` and rsd write it. `~` is the home folder."""


def watched_weights(weights: str) -> list[Path]:
    """The path, if `weights` is one."""
    return [] if weights == HUB or weights.startswith(_REPOSITORY) else [Path(weights)]


def local_weights(weights: str, *, role: str = "teacher") -> Path | None:
    """The file of weights, fetched if need be, and its `config.json` if any; None for timm's hub. UserError if none."""
    if weights == HUB:
        return None
    if not weights.startswith(_REPOSITORY):
        return weights_file(Path(weights))
    repository, revision = hf_split(weights.removeprefix(_REPOSITORY))
    try:
        hf_hub_download(repository, CONFIG, revision=revision)
        try:
            return Path(hf_hub_download(repository, WEIGHTS, revision=revision))
        except EntryNotFoundError:
            return Path(hf_hub_download(repository, NAMES[-1], revision=revision))
    except Exception as error:  # whatever the hub's client or the network raise
        raise UserError(
            f"expected {CONFIG} and {WEIGHTS} of '{weights}' on the hub or in its cache, found that they cannot be had "
            f"({first_line(error)}); {in_place_of_the_network(role)}"
        ) from error


def in_place_of_the_network(role: str) -> str:
    """What to do without a network, to end a sentence with."""
    return (
        "run this once where there is a network and set HF_HOME to a copy of that cache here, or download the "
        f"repository's {CONFIG} and {WEIGHTS} into one folder and give that folder as {role}.weights"
    )
