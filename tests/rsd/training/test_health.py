import math
import sys
import types

import pandas as pd
import pytest
import torch

from rsd.machine.errors import UserError
from rsd.training.health import Log, check_finite, check_validation, check_varied, has_stalled, mean_row


def scalars(**values):
    return {key: torch.tensor(value) for key, value in values.items()}


def test_a_nonfinite_term_stops_with_step_and_hint():
    check_finite(scalars(loss=1.0, rkd=2.0), torch.tensor(3.0), step=7, last={})
    with pytest.raises(UserError) as caught:
        check_finite(scalars(loss=math.nan, rkd=math.inf), torch.tensor(1.0), step=7, last=scalars(loss=0.5, rkd=2.0))
    assert "found nan at step 7 (not finite: loss, rkd; last finite values: loss 0.5, rkd 2)" in str(caught.value)
    assert "lower recipe.learning_rate" in str(caught.value)
    with pytest.raises(UserError, match="expected a finite gradient norm, found inf at step 7"):
        check_finite(scalars(loss=1.0), torch.tensor(math.inf), step=7, last={})


def test_so_does_a_validation_loss():
    check_validation(1.0, step=40, last={})
    with pytest.raises(UserError, match="found inf after step 40 .last values of training: loss 2.; lower recipe"):
        check_validation(math.inf, step=40, last=scalars(loss=2.0))


def test_a_collapsed_student_stops_with_the_step():
    same = torch.randn(1, 5).expand(30, 5) * (1 + 1e-7 * torch.randn(30, 1))  # but for rounding
    with pytest.raises(UserError, match="after step 40 .last values: loss 2.*collapsed; lower recipe.learning_rate"):
        check_varied(same, epoch=3, warmup_epochs=2, step=40, last=scalars(loss=2.0))
    check_varied(same, epoch=2, warmup_epochs=2, step=40, last={})  # the warm-up may hardly have moved it


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_weak_student_has_not_collapsed(scale):
    weak = torch.ones(5) + 1e-3 * torch.randn(30, 5)
    check_varied(scale * weak, epoch=3, warmup_epochs=0, step=1, last={})


def test_training_stalls_patience_epochs_after_the_best():
    history = [{"validation_top1": score} for score in (1.0, 3.0, 2.0, 3.0)]
    assert has_stalled(history, 2)  # to be as good as before is no improvement
    assert not has_stalled(history, 3)
    assert not has_stalled(history, None)
    assert not has_stalled([], 1)


def test_skipped_steps_count_in_no_gradient_norm():
    sums = scalars(loss=8.0, gradient_norm=6.0, skipped_steps=1.0)
    row = mean_row(sums, dict.fromkeys(sums, 4))
    assert row == {"loss": 2.0, "gradient_norm": 2.0, "skipped_steps": 1.0}
    del sums["skipped_steps"]
    assert mean_row(sums, dict.fromkeys(sums, 4)) == {"loss": 2.0, "gradient_norm": 1.5}


def test_a_mean_is_over_the_steps_that_count():
    assert mean_row(scalars(loss=8.0, seldom=3.0), {"loss": 4, "seldom": 1}) == {"loss": 2.0, "seldom": 3.0}


def test_the_log_needs_no_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    rows = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}]
    Log(tmp_path, "rsd-0").write(rows)
    assert pd.read_csv(tmp_path / "rsd-0.csv").to_dict("records") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["rsd-0.csv"]
    Log(None, "rsd-0").write(rows)


def test_tensorboard_is_cut_back_on_resume(tmp_path, monkeypatch):
    """With a stand-in: TensorBoard is optional and not among the tested versions."""
    calls = []

    class SummaryWriter:
        def __init__(self, folder, *, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, *call):
            calls.append(call)

        def flush(self):
            pass

    module = types.ModuleType("tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Log(tmp_path, "rsd-0", epochs=1).write([{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}])
    assert calls == [(str(tmp_path / "rsd-0"), 2), ("epoch", 2.0, 2), ("loss", 1.0, 2)]
