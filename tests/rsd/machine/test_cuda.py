import pytest

from rsd.machine.cuda import Gpu, NoDriverError, driver


def test_the_driver_names_its_cuda_and_every_device(gpus):
    gpus("8.7", "12.0", version=12060)
    result = driver()
    assert result.cuda == (12, 6)
    assert result.gpus == [Gpu("NVIDIA Fake", "8.7", 8192), Gpu("NVIDIA Fake", "12.0", 8192)]


def test_each_fault_of_a_driver_has_its_sentence(no_driver, request):
    with pytest.raises(NoDriverError, match="found none .libcuda.so.1 cannot be loaded.; install the driver"):
        driver()
    gpus = request.getfixturevalue("gpus")
    gpus("8.6", status=803)
    with pytest.raises(NoDriverError, match="CUDA error 803 from cuInit"):
        driver()
    gpus()
    with pytest.raises(NoDriverError, match="a driver without any; look at CUDA_VISIBLE_DEVICES"):
        driver()
