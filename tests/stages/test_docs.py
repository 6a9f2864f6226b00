"""The pages of docs/ are true: a test writes their files, runs their commands and compares the output."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import typer

from rsd.cli.main import app
from rsd.machine.fingerprint import fingerprint, short_name
from rsd.machine.yaml_file import read_yaml
from tests.readme import PAGES, README, blocks
from tests.stages.conftest import ROOT, Project, copy_of_the_project
from tests.stages.test_folder import CLASSES, draw

PAIRS = ROOT / "conf" / "pair"
PUBLISHED = ("scratch", "kd", "dkd", "ofa", "rsd")


def without_figures(text: str) -> list[str]:
    """Lines without values that differ between runs and machines: numbers, and the width that they give a table."""
    text = text.replace(short_name(fingerprint()), "AMD EPYC, 2 cores").replace(" (noisy)", "")
    text = re.sub(r"\([0-9a-f]{4}\)", "(0)", text)  # distinguishes two devices of one kind
    text = re.sub(r"-{3,}", "---", re.sub(r"\d[\d.,]*", "0", text))
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]


def play(page: str, project: Project, home: Path, *, port: int = 8080) -> str:
    """Write the files of a page and run its commands, except those that need more than this machine.

    Every line that the page shows must be printed, where `...` stands for anything. A server listens on `port`.

    Returns:
        All that the commands printed.
    """
    output = ""
    for block in blocks(PAGES[page].replace("8080", str(port))):
        if block.file:
            (project.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / block.file).write_text(block.text)
        elif block.language == "sh" and not block.needs:
            printed = project.run("bash", "-euo", "pipefail", "-c", block.text, HOME=str(home)).stdout
            print(block.text, printed, sep="\n")
            lines = without_figures(printed.replace("\r", "\n").replace(str(home), "~"))
            for expected in without_figures(block.printed):
                pattern = re.escape(expected).replace(re.escape("..."), ".*")
                assert any(re.fullmatch(pattern, line) for line in lines), f"not printed: {expected}"
            output += printed
    return output


@pytest.mark.slow
def test_the_images_page_ends_in_a_signed_bundle(tmp_path):
    for name in CLASSES:
        (tmp_path / "my-images" / name).mkdir(parents=True)
        for number in range(60):
            draw(name, number).save(tmp_path / "my-images" / name / f"{number:02}.jpg", quality=90)
    (tmp_path / "project").mkdir()
    project = copy_of_the_project(tmp_path / "project")
    default = read_yaml(ROOT / "params.yaml")
    chosen = {key: default[key] for key in ("methods", "export")}
    project.edit("params.yaml", override={}, precisions=["fp32"], **chosen)  # one seed and brief timings stay
    play("images", project, tmp_path)
    assert (tmp_path / "releases" / "mine-1" / "model.sig").is_file()


@pytest.mark.slow
def test_the_budget_page_runs(project, tmp_path):
    play("budget", project, tmp_path)


@pytest.mark.slow
def test_parameters_that_methods_add_are_as_counted(tmp_path):
    rows = re.findall(r"^\| (?:cifar100|imagenet) .* \|$", PAGES["experiments"], re.M)
    assert len(rows) == 3
    assert {*rows} <= {*play("experiments", Project(ROOT), tmp_path).splitlines()}


@pytest.mark.slow
def test_a_device_answers_as_the_pages_say(reproduced, tmp_path):
    shutil.copytree(reproduced.folder, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    play("deploy", project, tmp_path)
    try:
        play("serve", project, tmp_path, port=port)
    except BaseException:
        if (file := tmp_path / "device" / "server.pid").exists():
            os.kill(int(file.read_text()), signal.SIGKILL)
        raise


@pytest.mark.slow
def test_the_triton_page_writes_a_model_repository(project, tmp_path):
    play("triton", project, tmp_path)
    assert (project.folder / "models" / "digits_few-fp32-onnx" / "1" / "model.onnx").is_file()


@pytest.mark.slow
def test_the_reports_page_compares_runs(reproduced, tmp_path):
    shutil.copytree(reproduced.folder, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    play("reports", project, tmp_path)
    html = (project.out / "compare.html").read_text()
    assert "method.rsd.weight" in html
    assert "The same in every run, seed by seed: teacher, scratch." in html


@pytest.mark.slow
def test_the_method_page_draws_its_pictures(project, tmp_path):
    pictures = set(re.findall(r"\((method_\w+\.\w+)\)", PAGES["method"]))
    for name in pictures:
        (project.folder / "docs" / name).unlink()
    play("method", project, tmp_path)
    assert len(pictures) == 4
    assert all((project.folder / "docs" / name).stat().st_size > 5_000 for name in pictures)


@pytest.mark.slow
def test_the_papers_costs_are_as_counted(tmp_path):
    printed = play("paper", Project(ROOT), tmp_path)
    table = re.findall(r"^\| .* \|$", printed, re.M)
    assert len(table) == 2 + 27
    assert "\n".join(table) in PAGES["paper"]
    (total,) = re.findall(r"[\d,]+ hours$", printed, re.M)
    assert total in PAGES["paper"]


def test_the_paper_page_has_a_command_per_pair():
    pairs = re.findall(r"^dvc exp run -S pair=(\S+) -S protocol=paper -S views.count=0$", PAGES["paper"], re.M)
    files = sorted(PAIRS.glob("cifar100/*.yaml")) + sorted(PAIRS.glob("imagenet/*.yaml"))
    assert pairs == [f"{file.parent.name}/{file.stem}" for file in files]
    assert len(pairs) == 27


def test_the_published_accuracies_are_those_of_the_pairs():
    rows = re.findall(r"^\| ((?:cifar100|imagenet)/\S+) \|(.*) \|$", PAGES["paper"], re.M)
    accuracies = {pair: [cell.strip() for cell in cells.split("|")] for pair, cells in rows}
    published = {
        f"{file.parent.name}/{file.stem}": read_yaml(file).get("published", {})
        for file in [*PAIRS.glob("cifar100/*.yaml"), *PAIRS.glob("imagenet/*.yaml")]
    }
    assert accuracies == {
        pair: [f"{known[method]:.2f}" if method in known else "" for method in PUBLISHED]
        for pair, known in published.items()
        if "rsd" in known
    }


PLAYED = {"images", "budget", "deploy", "serve", "triton", "reports", "method", "paper", "experiments"}
"""Pages whose commands the tests above run."""


def test_every_page_ends_with_what_can_go_wrong():
    for page in PAGES.keys() - {"index"}:
        assert re.findall(r"^## .*", PAGES[page], re.M)[-1] == "## What can go wrong", page


def test_a_command_runs_or_states_its_needs():
    for page in PAGES.keys() - PLAYED:
        for block in blocks(PAGES[page]):
            assert block.language != "sh" or block.needs, f"{page}: {block.text}"


COMMANDS = [
    pytest.param(block.text, id=f"{page}-{number}")
    for page, text in PAGES.items()
    for number, block in enumerate(blocks(text))
    if block.language == "sh"
]


@pytest.mark.parametrize("commands", COMMANDS)
def test_every_command_and_its_options_exist(commands):
    assert subprocess.run(["bash", "-n"], input=commands, text=True, check=False).returncode == 0
    for module in re.findall(r"python -m ([\w.]+)", commands):
        assert importlib.util.find_spec(module), module
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", commands, re.M)) <= targets
    params = read_yaml(ROOT / "params.yaml")
    for key in re.findall(r"-S '?([a-z_.]+)=", commands):
        place = params
        for part in key.split("."):
            assert part in place, key
            place = place[part]


@pytest.mark.parametrize("page", ["README", *PAGES])
def test_every_rsd_command_and_its_options_exist(page):
    text = README if page == "README" else PAGES[page]
    shell = "\n".join(block.text for block in blocks(text) if block.language == "sh")
    for line in re.findall(r"`rsd ([a-z][^`\n]*)`", text) + re.findall(r"^rsd ([^#\n]*)", shell, re.M):
        words, command = line.split(), typer.main.get_command(app)
        while words and (subcommands := getattr(command, "commands", None)):
            assert words[0] in subcommands, line
            command = subcommands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        own = words[: words.index("--")] if "--" in words else words  # what follows is another command
        assert {word for word in own if word.startswith("--")} <= options, line


def test_every_module_named_in_passing_exists():
    for page, text in PAGES.items():
        for module in re.findall(r"`python -m ([\w.]+)", text):
            assert importlib.util.find_spec(module), f"{page}: {module}"
