import pytest

from benchmarks.overhead import PAIRS, overhead, pair_files, row

# Millions, to the digits in which they are published or were counted: RSD with gamma 2, OFA.
PUBLISHED = {
    ("imagenet", "convnext_t-swin_n"): ("1.31", "28.187"),
    ("imagenet", "convnext_t-resmlp_s12"): ("0.89", "16.325"),
    ("imagenet", "convnext_t-deit_t"): ("0.37", "4.478"),
    ("imagenet", "swin_t-resnet18"): ("1.31", "4.395"),
    ("imagenet", "swin_t-mobilenetv2"): ("5.25", "7.141"),
    ("cifar100", "swin_t-resnet18"): ("1.31", "1.63"),
    ("cifar100", "swin_t-mobilenetv2"): ("5.25", "2.53"),
    ("cifar100", "convnext_t-swin_p"): ("0.89", "14.86"),
}


def millions(count: int, *, like: str) -> str:
    return f"{count / 1e6:.{len(like.partition('.')[2])}f}"


@pytest.mark.slow
def test_all_27_published_overheads_are_reproduced():
    result = {(file.parent.name, file.stem): overhead(file)[1] for file in pair_files()}
    assert len(result) == 27
    for pair, (rsd, ofa) in PUBLISHED.items():
        assert millions(result[pair]["RSD, gamma 2"], like=rsd) == rsd, pair
        assert millions(result[pair]["OFA"], like=ofa) == ofa, pair
    # The paper's "about 2.8" is gamma 4.
    assert millions(result["imagenet", "swin_t-resnet18"]["RSD, gamma 4"], like="2.63") == "2.63"


def test_a_line_holds_each_methods_millions_and_share():
    line = row(PAIRS / "cifar100" / "swin_t-resnet18.yaml")
    assert line == {
        "data": "cifar100",
        "teacher-student": "swin_t-resnet18",
        "student, M": "11.23",
        "RSD, gamma 2, M": "1.31 (12%)",
        "RSD, gamma 4, M": "2.63 (23%)",
        "OFA, M": "1.63 (14%)",
    }
