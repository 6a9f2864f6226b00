import json

import pytest
import torch

from benchmarks import method_pictures as pictures
from rsd.machine.errors import UserError


def test_more_kappa_shrinks_the_diagonal_and_the_rest():
    frame = pictures.kappas(60, (1e-3, 10.0)).pivot(index="kappa", columns="what", values="value")
    for what in ("P, mean of the diagonal", "P, RMS off the diagonal"):
        assert frame[what].iloc[0] > frame[what].iloc[1]


def test_the_pull_grows_with_width_as_published():
    frame = pictures.pulls()
    paper = frame[(frame.scale == "the paper's sums") & (frame.batch == "batch 128")].set_index("width").pull
    assert paper.is_monotonic_increasing
    assert paper[768] == pytest.approx(pictures.PUBLISHED_PULL, rel=0.1)


def test_both_ways_are_timed_and_give_a_ratio():
    threads = torch.get_num_threads()
    frame = pictures.gram(1, batches=(4,), widths=(32,))
    torch.set_num_threads(threads)
    assert frame[["batch", "width"]].to_numpy().tolist() == [[4, 32]]
    assert frame.faster[0] > 0


def test_a_record_gives_two_matrices_none_a_sentence(tmp_path):
    with pytest.raises(UserError, match="run `dvc repro evaluate`"):
        pictures.correlations(tmp_path / "correlation.json")
    side = {"diagonal_mean": 0.5, "off_diagonal_rms": 0.1, "matrix": [[1.0, 0.0], [0.0, 1.0]]}
    facts = {"caption": "P.", "images": 4, "width": 2, "cells": 2, "chance": 0.5, "teacher_rms": 0.4}
    record = {"student": "rsd-0", "correlation": {**facts, "before": side, "after": side}}
    (tmp_path / "correlation.json").write_text(json.dumps(record))
    assert len(pictures.correlations(tmp_path / "correlation.json").hconcat) == 2
