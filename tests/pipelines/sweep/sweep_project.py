"""A small real DVC project with methods, seeds and a teacher, and what of it ran where."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pipelines.conftest import ToyRepo
from tests.rsd.run.small import CHOICE, EVALUATED, STUDENT

DVC_YAML = """
stages:
  teacher:
    cmd: python work.py teacher
    deps: [work.py]
    params: [pair]
    outs: [out/teacher.json]
  distill:
    matrix:
      method: ${methods}
      seed: ${seeds}
    cmd: python work.py distill ${item.method} ${item.seed}
    deps: [work.py, out/teacher.json]
    params: ["method.${item.method}"]
    outs: ["out/students/${item.method}-${item.seed}/student.json"]
  evaluate:
    cmd: python work.py evaluate
    deps: [work.py, out/students, out/teacher.json]
    params: [methods, seeds]
    outs: [out/params/run.json, out/evaluate/models.json]
    metrics: [out/evaluate/metrics.json]
"""

PARAMS = """\
pair: near # or far
methods: [scratch, rsd]
seeds: [0, 1]
method:
  scratch: {}
  rsd: {weight: 0.1}
  kd: {weight: 1.0}
"""

WORK = """
import json, os, sys, time
from pathlib import Path

from ruamel.yaml import YAML

params = YAML(typ="safe", pure=True).load(Path("params.yaml"))
whole = json.loads(Path("records.json").read_text())
stage, *cell = sys.argv[1:]
name = "-".join([stage, *cell])
weight = params["method"].get(cell[0], {}).get("weight", 0) if cell else 0
what = f"{name} {weight}" if cell else name
seen = Path(os.environ["SEEN"])
print("begin", what, flush=True)


def note(**more):
    with open(seen / "runs.jsonl", "a") as file:
        line = {"what": what, "pair": params["pair"], "folder": os.getcwd(), "pid": os.getpid(), "time": time.time()}
        file.write(json.dumps({**line, **more}) + "\\n")


def write(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


state = Path(".state") / name
steps = int(state.read_text()) if state.exists() else 0
note(event="begin", steps=steps)
if what in os.environ.get("BREAK", "").split(","):
    sys.exit("error: expected calm, found a storm; wait")
state.parent.mkdir(exist_ok=True)
state.write_text("7")
while what in os.environ.get("HOLD", "").split(",") and not (seen / "go").exists():
    time.sleep(0.05)
if stage == "teacher":
    write("out/teacher.json", {"top1": 98.0 if params["pair"] == "near" else 90.0})
elif stage == "distill":
    time.sleep(float(os.environ.get("SECONDS_EACH", "0")))
    top1 = 90 + int(cell[1]) / 10 + (10 * weight if cell[0] == "rsd" else 0)
    who = {"method": cell[0], "seed": int(cell[1]), "weights_sha256": f"{params['pair']} {what}"}
    record = whole["student"] | who | {"validation": {"top1": top1, "loss": 0.5}}
    write(f"out/students/{'-'.join(cell)}/student.json", record)
else:
    models = []
    for method in params["methods"]:
        for seed in params["seeds"]:
            student = json.loads(Path(f"out/students/{method}-{seed}/student.json").read_text())
            who = {"model": f"{method}-{seed}", "method": method, "seed": seed}
            who |= {"top1": student["validation"]["top1"] - 1, "weights_sha256": student["weights_sha256"]}
            models.append(whole["evaluation"] | who)
    write("out/evaluate/models.json", models)
    write("out/params/run.json", whole["choice"] | {key: params[key] for key in ("pair", "methods", "seeds")})
    write("out/evaluate/metrics.json", {model["model"]: model["top1"] for model in models})
state.unlink()
note(event="end")
"""

RECORDS = {"student": STUDENT, "evaluation": EVALUATED, "choice": CHOICE}
"""What the stages write, but for the figures that they make."""


class SweepRepo(ToyRepo):
    """The DVC project above, committed, in a folder of its own; a stage notes in `seen` that it ran."""

    def __init__(self, path: Path, make: Callable[[Path], ToyRepo]) -> None:
        self.path = make(path).path
        self.seen = path.with_name(f"{path.name}-seen")
        self.seen.mkdir()
        for name, text in {
            "dvc.yaml": DVC_YAML,
            "params.yaml": PARAMS,
            "work.py": WORK,
            "records.json": json.dumps(RECORDS),
            ".gitignore": "/out/\n",
        }.items():
            (path / name).write_text(text)
        self.git("add", "-A")
        self.git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "A project")

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.path, check=True, capture_output=True, text=True).stdout

    def noted(self, event: str = "end") -> list[dict[str, Any]]:
        """What began or ended, in that order: what, pair, folder, pid, time, steps of its checkpoint."""
        log = self.seen / "runs.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["event"] == event]

    def experiments(self) -> list[str]:
        """The names that DVC itself lists."""
        return self.dvc("exp", "list", "--name-only").split()

    def environment(self, server: dict[str, str], **more: str) -> dict[str, str]:
        project = str(Path(__file__).parents[3])
        return {**os.environ, **server, "SEEN": str(self.seen), "PYTHONPATH": project, **more}

    def sweep(self, server: dict[str, str], *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start `python -m pipelines.sweep`, as the user's terminal would: a group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.sweep", *arguments],
            cwd=self.path,
            env=self.environment(server, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
