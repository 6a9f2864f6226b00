import pytest

from rsd.methods.cc import CCDistiller
from rsd.methods.losses import cc_loss
from rsd.models.timm_model import outputs
from tests.rsd.methods.tiny import images, made, stepped, told


def test_both_embeddings_are_mapped_to_one_width_before_they_are_compared():
    task = made(CCDistiller, width=7).eval()
    result = stepped(task)
    maps = task.get_task_state()["projection"]
    own, other = outputs(task.get_eval_model(), images()).embedding, told().embedding
    mapped = [z @ maps[f"{side}.weight"].T + maps[f"{side}.bias"] for side, z in (("student", own), ("teacher", other))]
    assert mapped[0].shape[1] == 7
    assert result["cc"].item() == pytest.approx(cc_loss(*mapped).item(), rel=1e-5)
    assert task.extra_parameters == 7 * (16 + 1 + 20 + 1)
