"""One stage per GPU, whoever starts it: stages of flows that know nothing of each other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from prefect import get_client

from pipelines import gpus
from pipelines.gpus import create_limits, limit_of, reserved, visible_gpus
from tests.pipelines.conftest import wait_until


@pytest.fixture
def two(prefect_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    monkeypatch.setattr(gpus, "POLL_SECONDS", 0.1)
    names = visible_gpus()
    create_limits(names)
    return names


def test_each_visible_gpu_has_a_limit_of_one(two: list[str]) -> None:
    assert two == ["2", "3"]
    with get_client(sync_client=True) as client:
        limits = {limit.name: limit.limit for limit in client.read_global_concurrency_limits()}
    assert [limits[limit_of(name)] for name in two] == [1, 1]


@pytest.mark.parametrize("wanted", [[1, 1, 1, 1], [2, 1, 2]])
def test_each_stage_sees_only_its_own_gpus(two: list[str], wanted: list[int]) -> None:
    taken: list[str] = []
    lock = threading.Lock()

    def stage(count: int) -> None:
        with reserved(count, two, threading.Event(), print) as environment:
            mine = environment["CUDA_VISIBLE_DEVICES"].split(",")
            with lock:
                assert not set(mine) & set(taken)
                taken.extend(mine)
            assert len(mine) == count
            time.sleep(0.2)
            with lock:
                for name in mine:
                    taken.remove(name)

    with ThreadPoolExecutor(len(wanted)) as pool:
        stages = [pool.submit(copy_context().run, stage, count) for count in wanted]  # as Prefect starts its tasks
        for one in stages:
            one.result(timeout=60)


def test_a_waiting_stage_says_so_and_holds_nothing(two: list[str]) -> None:
    stop = threading.Event()
    lines: list[str] = []
    with reserved(1, two[:1], threading.Event(), print), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(copy_context().run, reserved(2, two, stop, lines.append).__enter__)
        wait_until(lambda: bool(lines), 30)
        time.sleep(0.5)
        assert not waiting.done()
        stop.set()
        assert waiting.result(timeout=10) == {}
    assert lines == ["GPU 2 is in use; waiting"]


def test_without_a_gpu_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    with reserved(1, visible_gpus(), threading.Event(), print) as environment:
        assert environment == {}
