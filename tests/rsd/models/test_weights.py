from pathlib import Path

import huggingface_hub.constants
import pytest
from pydantic import TypeAdapter, ValidationError

from rsd.machine.errors import UserError
from rsd.models.weights import Weights, local_weights, watched_weights
from tests.rsd.teacher.small import data, options, same, saved_for_hub, timm_model

CHECKED = TypeAdapter(Weights)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache as its client lays it out, without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("source", ["probe", "finetune", "file"])
def test_a_repository_of_the_hub_is_a_folder(cache, source):
    repository = cache / "models--mine--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    saved_for_hub(repository / "snapshots" / ("0" * 40), net := timm_model(), mean=[0.5], std=[0.3])
    start = options(source, "hf-hub:mine/net", input_size=16).start(data())
    assert same(start.model, net)
    assert start.preprocessing == ([0.5], [0.3], 16, "bicubic")


@pytest.mark.parametrize("source", ["probe", "finetune", "file"])
def test_no_network_says_where_the_files_go(cache, source):
    sentence = "of 'hf-hub:mine/net' on the hub .* cannot be had .* into one folder and give that folder as teacher.w"
    with pytest.raises(UserError, match=sentence):
        options(source, "hf-hub:mine/net").start(data())


def test_only_paths_are_watched():
    assert watched_weights("hub") == watched_weights("hf-hub:mine/net") == []
    assert watched_weights("mine.pth") == [Path("mine.pth")]
    assert local_weights("hub") is None


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:net", "hf-hub:a/b/c", "hf-hub:a b/c"])
def test_a_wrong_repository_name_is_refused(name):
    with pytest.raises(ValidationError, match="expected hf-hub:ORG/NAME, found"):
        CHECKED.validate_python(name)
    assert CHECKED.validate_python("hf-hub:mine/net@v1") == "hf-hub:mine/net@v1"


def test_timms_weights_are_no_finished_file():
    with pytest.raises(ValidationError, match="found 'hub'; source hub takes timm's own weights"):
        options("file", "hub")
