"""Fetch one file of a public data set, by torchvision's downloader."""

from http.client import HTTPException
from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.files import written_aside


def download(url: str, path: Path, *, md5: str) -> None:
    """Fetch `url` to `path`, whole and with the right MD5 or not at all; UserError says what was in the way."""
    from torchvision.datasets.utils import download_url  # seconds to import, and rarely needed

    try:
        with written_aside(path) as aside:
            download_url(url, str(aside.parent), aside.name, md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"expected to download {url} to {path}, found: {error}; without a network fetch it elsewhere, "
            f"put it there as {path.name}, and set data.download to false"
        ) from error
