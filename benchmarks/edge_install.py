"""How long `rsd-edge install` takes for a large bundle, against the least that it must do: read, hash and write it.

    python -m benchmarks.edge_server    # prints this table, too

Half a minute. A bundle that is not signed yet is filled up to the size with random bytes, signed with a new key, and
installed in turn: as a folder, as a tar file, and as a plain copy that is hashed and synced. Each
is a process of its own, so the start of Python and its imports count.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.interleaved import interleaved, markdown, spread
from rsd.machine.files import read_json, sha256, write_json
from rsd.release import sign

ROUNDS = 7
COPY = """
import sys
from pathlib import Path
from rsd_edge import disk
source, target = map(Path, sys.argv[1:])
for path in source.rglob("*"):
    if path.is_file():
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        disk.digest(path, path.stat().st_size, copy=target / path.relative_to(source))
"""


def filled(bundle: Path, folder: Path, megabytes: float, key: Path) -> Path:
    """A signed copy of `bundle`, filled up to about `megabytes`."""
    work = folder / "filled"
    shutil.copytree(bundle, work)
    manifest = read_json(work / "manifest.json")
    missing = int(megabytes * 1e6) - sum(facts["bytes"] for facts in manifest["files"].values())
    (work / "filling.bin").write_bytes(np.random.default_rng(0).bytes(max(missing, 0)))
    manifest["files"]["filling.bin"] = {"bytes": max(missing, 0), "sha256": sha256(work / "filling.bin")}
    write_json(work / "manifest.json", manifest)
    sign.sign(work, folder / "signed", key)
    return folder / "signed"


def table(bundle: Path, megabytes: float, rounds: int = ROUNDS) -> str:
    """A Markdown table of the seconds that each way takes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        key, public = sign.make_key(folder / "key")
        (folder / "pinned").mkdir()
        shutil.copy(public, folder / "pinned")
        signed = filled(bundle, folder, megabytes, key)
        subprocess.run(["tar", "-C", signed, "-cf", folder / "bundle.tar", "."], check=True)

        def run(*command: str | Path) -> None:
            shutil.rmtree(folder / "device", ignore_errors=True)
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

        def install(source: Path) -> Callable[[], None]:
            at: list[str | Path] = ["--root", folder / "device", "--keys", folder / "pinned"]
            return lambda: run("-m", "rsd_edge", *at, "install", source)

        ways: dict[str, Callable[[], object]] = {
            "copy, hash and sync alone": lambda: run("-c", COPY, signed, folder / "device"),
            "rsd-edge install, folder": install(signed),
            "rsd-edge install, tar file": install(folder / "bundle.tar"),
        }
        times = interleaved(ways, rounds=rounds, warmup=1)
        least = times.iloc[:, 0]
        size = sum(path.stat().st_size for path in signed.rglob("*") if path.is_file())
        rows = [
            {f"{size / 1e6:.0f} MB": way, "s": spread(times[way]), "ratio": spread(times[way] / least)} for way in ways
        ]
    return markdown(rows)
