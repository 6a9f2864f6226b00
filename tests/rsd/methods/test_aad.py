import torch

from rsd.methods.aad import AAD


def test_maps_the_students_width_to_the_teachers():
    assert AAD(6, 10, gamma=2.0)(torch.randn(4, 6)).shape == (4, 10)


def test_has_two_linears_without_bias_and_a_norm_between():
    aad = AAD(6, 10, gamma=2.0)
    # 6*12 + (12 + 12 of the norm) + 12*10
    assert sum(p.numel() for p in aad.parameters()) == 6 * 12 + 24 + 12 * 10


def test_weights_start_small_with_standard_deviation_002():
    aad = AAD(64, 512, gamma=2.0)
    assert abs(aad.get_parameter("3.weight").std().item() - 0.02) < 0.001


def test_extra_parameters_of_published_pairs():
    """Millions, from the paper's pairs: student width -> teacher width at gamma 2."""
    for student, teacher, millions in [(512, 768, "1.31"), (1280, 768, "5.25"), (384, 768, "0.89"), (192, 768, "0.37")]:
        assert f"{sum(p.numel() for p in AAD(student, teacher).parameters()) / 1e6:.2f}" == millions
    assert f"{sum(p.numel() for p in AAD(512, 768, gamma=4).parameters()) / 1e6:.2f}" == "2.63"


def test_a_cap_holds_the_hidden_width_of_wide_students_and_leaves_others_alone():
    assert AAD(6, 10, gamma=2.0, max_hidden=8).get_parameter("0.weight").shape == (8, 6)
    assert AAD(6, 10, gamma=2.0, max_hidden=99).get_parameter("0.weight").shape == (12, 6)
