import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.pair import Case
from benchmarks.peers import __main__ as command
from benchmarks.peers import compare, trainers
from benchmarks.peers.compare import Way, check_agreement, compared, peak, rows, trainer, ways
from rsd.machine.errors import UserError
from rsd.methods.kd import KDDistiller, KDOptions
from rsd.models.make import ModelOptions

CPU = torch.device("cpu")
TINY = Case(
    ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}),
    ModelOptions(
        name="vit_tiny_patch16_224",
        args={"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2,
              "class_token": False, "global_pool": "avg"},
    ),
    shape=(16, 16, 1),
    batch=6,
    classes=5,
    images=9,
)  # fmt: skip
HAS_TORCHDISTILL = importlib.util.find_spec("torchdistill") is not None
NEEDS_TORCHDISTILL = pytest.mark.skipif(not HAS_TORCHDISTILL, reason="torchdistill is not installed")
PEERS = [
    pytest.param(Way(method, peer), id=f"{method}-{peer}", marks=[NEEDS_TORCHDISTILL] * (peer == "torchdistill"))
    for method, have in compare.COUNTERPARTS.items()
    for peer in have
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(trainers.CASES, "tiny", TINY)
    monkeypatch.setattr(trainers, "REMEMBERED", 40)
    monkeypatch.setitem(trainers.METHODS, "crd", (trainers.CRDDistiller, trainers.CRDOptions(width=8, negatives=20)))
    if HAS_TORCHDISTILL:
        from benchmarks.peers import boxes

        monkeypatch.setattr(boxes, "REMEMBERED", 40)


@pytest.fixture
def bench(tmp_path):
    return trainers.bench(TINY, tmp_path, CPU)


def furthest(one, other):
    """The largest difference between the weights of two models."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("way", PEERS)
def test_a_peer_with_our_loss_trains_our_student(bench, way):
    own, other = trainer(bench.copy(), Way(way.method, "ours")), trainer(bench.copy(), way)
    for step in range(3):
        for one in (own, other):
            torch.manual_seed(trainers.SEED)  # torchdistill's negatives are those of the first step
            one.step()
        moved = furthest(own.student, bench.student)
        assert moved > 1e-4
        assert (furthest(own.student, other.student) < 1e-3 * moved) == (way != compare.OTHER_LOSS), step


def test_every_way_trains_its_own_student_only(bench):
    for way in ways(["timm"]):
        own = bench.copy()
        made = trainer(own, way)
        made.step()
        assert furthest(made.student, bench.student) > 0, way
        assert furthest(own.teacher, bench.teacher) == 0, way


def test_a_peer_with_another_loss_voids_the_comparison(bench, monkeypatch):
    assert check_agreement(bench, Way("kd", "timm")) < 1e-5
    monkeypatch.setitem(trainers.METHODS, "kd", (KDDistiller, KDOptions(temperature=3.0)))  # timm's is at 4
    with pytest.raises(UserError, match="the comparison is void"):
        check_agreement(bench, Way("kd", "timm"))


def test_ways_are_timed_and_equal_losses_are_checked():
    wanted = ways(["timm"])
    assert [way for way in wanted if way.method == "kd"] == [Way("kd", by) for by in ("ours", "stored", "timm")]
    assert {way.method for way in wanted} == {"kd", "rsd"}
    clock = iter(range(1000))
    times, differs = compared("tiny", wanted, CPU, rounds=2, clock=lambda: float(next(clock)))
    assert list(times) == [" ".join(way) for way in wanted]
    assert (times == 1).all(axis=None)
    assert list(differs) == [Way("kd", "timm")]


def test_a_row_holds_the_peers_slowdown():
    wanted = [Way("rsd", by) for by in ("ours", "stored", "timm")]
    times = pd.DataFrame(np.array([[2.0, 1.0, 3.0], [4.0, 2.0, 6.0]]), columns=[" ".join(way) for way in wanted])
    (row,) = rows("a pair", times, {}, dict(zip(wanted, (500.0, 400.0, 600.0), strict=True)))
    assert row == {
        "pair": "a pair",
        "loss": "rsd",
        "peer": "timm",
        "ours, s": "3.00 (2.50 to 3.50)",
        "peer, s": "4.50 (3.75 to 5.25)",
        "peer / ours": "1.50 (1.50 to 1.50)",
        "peer / stored": "3.00 (3.00 to 3.00)",
        "ours, MB": "500",
        "stored, MB": "400",
        "peer, MB": "600",
        "gradients differ by": "another loss",
    }


def test_the_peak_is_that_of_the_process():
    assert peak("tiny", Way("kd", "ours"), CPU) > 100


def test_without_torchdistill_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected torchdistill, found none; `pip install .*`, .* --peers timm"):
        command.main()
