"""What the server answers, over loopback."""

import io
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from .serving import LABELS, NAME, SHAPE, Tiny, always, ask, images, infer_body, png, served


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(always(Tiny())) as address:
        yield address


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_gets_the_runtime_s_logits(address: str, binary: bool) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    metadata = client.get_model_metadata(NAME)
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, len(LABELS)]}]
    config = client.get_model_config(NAME)
    assert json.loads(config["parameters"]["labels"]["string_value"]) == LABELS
    for count, packing in ((1, None), (3, "gzip"), (config["max_batch_size"], "deflate")):
        array = images(count)
        tensor = triton.InferInput("image", array.shape, "UINT8")
        tensor.set_data_from_numpy(array, binary_data=binary)
        outputs = [triton.InferRequestedOutput("logits", binary_data=binary)]
        for wanted in (outputs, None):
            result = client.infer(NAME, [tensor], outputs=wanted, request_id="7", request_compression_algorithm=packing)
            np.testing.assert_array_equal(result.as_numpy("logits"), Tiny().infer(array))
            assert result.get_response()["id"] == "7"
            assert result.get_response()["model_version"] == "1"
    with pytest.raises(InferenceServerException, match="expected the model 'tiny', found 'another'"):
        client.infer("another", [tensor])
    client.close()


def test_triton_s_client_gets_index_and_statistics() -> None:
    with served(always(Tiny())) as address:
        client = triton.InferenceServerClient(address)
        assert client.get_model_repository_index() == [{"name": NAME, "version": "1", "state": "READY", "reason": ""}]
        (before,) = client.get_inference_statistics()["model_stats"]
        assert (before["last_inference"], before["inference_count"]) == (0, 0)
        body, headers = infer_body(images(3), binary=True)
        for content in (body, body, body[:-1]):
            ask(address, "POST", f"/v2/models/{NAME}/infer", content, headers)
        for version in ("", "1"):
            (stats,) = client.get_inference_statistics(NAME, version)["model_stats"]
            assert (stats["name"], stats["version"]) == (NAME, "1")
            assert (stats["inference_count"], stats["execution_count"]) == (6, 2)
            assert {name: entry["count"] for name, entry in stats["inference_stats"].items()} == {
                "success": 2, "fail": 1, "queue": 2, "compute_input": 2, "compute_infer": 2, "compute_output": 2,
            }  # fmt: skip
            spent = stats["inference_stats"]
            assert 0 < spent["compute_infer"]["ns"] < spent["success"]["ns"]
            assert abs(time.time() - stats["last_inference"] / 1e3) < 60
        with pytest.raises(InferenceServerException, match="expected the model 'tiny', found 'another'"):
            client.get_inference_statistics("another")
        client.close()


def test_an_image_is_classified_as_the_model_says(address: str) -> None:
    for pixels, format_ in ((images(1)[0], "PNG"), (np.full((60, 30, 3), 200, np.uint8), "JPEG")):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format_)
        status, _, body = ask(address, "POST", "/v1/classify", buffer.getvalue())
        assert status == 200
        answer = json.loads(body)
        model = Tiny()
        logits = model.infer(model.pixels(buffer.getvalue())[None])[0].astype(float)
        shares = np.exp(logits) / np.exp(logits).sum()
        assert (answer["model"], answer["release"]) == (NAME, 1)
        assert [entry["label"] for entry in answer["classes"]] == [LABELS[index] for index in np.argsort(-shares)]
        for entry in answer["classes"]:
            assert entry["probability"] == pytest.approx(shares[entry["index"]], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "/v1/classify", b"", 400, "expected a JPEG, PNG, WebP, BMP or TIFF image"),
        ("POST", "/v1/classify", b"GIF89a" + bytes(100), 400, "expected a JPEG, PNG, WebP, BMP or TIFF image"),
        ("GET", "/v1/classify", None, 405, "expected POST"),
        ("DELETE", "/", None, 405, "expected GET or HEAD"),
        ("GET", "/nowhere", None, 404, "expected a path of this server"),
        ("GET", "/../../etc/passwd", None, 404, "expected a path of this server"),
        ("GET", "/v2/models/another", None, 404, "expected the model 'tiny', found 'another'"),
        ("POST", "/v2/models/another/infer", b"{}", 404, "expected the model 'tiny'"),
        ("POST", "/v2/models/tiny/versions/9/infer", b"{}", 404, "expected version 1"),
        ("POST", "/v2/models/tiny/infer", b"{}", 400, "expected a list with one tensor as inputs"),
        ("POST", "/v2/models/tiny/load", b"{}", 404, "expected a path of this server"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(
    address: str, method: str, path: str, body: bytes | None, status: int, sentence: str
) -> None:
    code, _, text = ask(address, method, path, body)
    assert code == status
    assert sentence in json.loads(text)["error"]


def test_logits_that_are_not_finite_are_refused() -> None:
    class Overflowing(Tiny):
        def infer(self, images: np.ndarray) -> np.ndarray:
            return super().infer(images) + np.float32("inf")

    with served(always(Overflowing())) as address:
        requests: list[tuple[str, bytes, dict[str, str]]] = [("/v1/classify", png(images(1)[0]), {})]
        requests += [(f"/v2/models/{NAME}/infer", *infer_body(images(2), binary=binary)) for binary in (True, False)]
        for path, body, headers in requests:
            status, _, text = ask(address, "POST", path, body, headers)
            assert status == 422
            assert "expected finite logits of this input, found NaN or infinity" in json.loads(text)["error"]


def test_a_model_failure_is_answered_logged_and_counted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken(Tiny):
        def infer(self, images: np.ndarray) -> np.ndarray:
            if images.any():
                raise RuntimeError("out of memory")
            return super().infer(images)

    with served(always(Broken())) as address:
        status, _, body = ask(address, "POST", "/v1/classify", png(images(1)[0]))
        assert (status, json.loads(body)["error"]) == (500, "the server failed at this request; its log says how")
        assert ask(address, "GET", "/v2/health/ready")[0] == 200
        assert b'requests_total{code="500",route="classify"} 1.0\n' in ask(address, "GET", "/metrics")[2]
    assert "RuntimeError: out of memory" in capfd.readouterr().err


def test_prometheus_reads_the_metrics_of_every_request() -> None:
    with served(always(Tiny(release=4))) as address:
        ask(address, "POST", "/v1/classify", png(images(1)[0]))
        ask(address, "POST", "/v1/classify", b"no image")
        for _ in range(3):
            body, headers = infer_body(images(1), binary=True)
            ask(address, "POST", f"/v2/models/{NAME}/infer", body, headers)
        ask(address, "GET", "/nowhere")
        ask(address, "GET", "/v1/classify")
        status, headers, body = ask(address, "GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert {name: family.type for name, family in families.items()} == {
        "rsd_edge_requests": "counter", "rsd_edge_request_seconds": "histogram",
        "rsd_edge_inference_seconds": "histogram", "rsd_edge_release": "gauge", "rsd_edge_ready": "gauge",
        "rsd_edge_admitted_requests": "gauge", "rsd_edge_switches": "counter", "rsd_edge_switch_failures": "counter",
        "rsd_edge_start_time_seconds": "gauge", "rsd_edge_resident_bytes": "gauge",
    }  # fmt: skip
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    inference = families["rsd_edge_inference_seconds"].samples
    bounds = [sample.labels["le"] for sample in inference if "le" in sample.labels]
    assert " ".join(bounds) == "0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 +Inf"
    count = "rsd_edge_requests_total"
    assert samples[count, ("code", "200"), ("route", "classify")] == 1
    assert samples[count, ("code", "400"), ("route", "classify")] == 1
    assert samples[count, ("code", "405"), ("route", "classify")] == 1
    assert samples[count, ("code", "404"), ("route", "unknown")] == 1
    assert samples[count, ("code", "200"), ("route", "infer")] == 3
    assert samples["rsd_edge_request_seconds_count", ("route", "infer")] == 3
    assert samples["rsd_edge_request_seconds_bucket", ("le", "+Inf"), ("route", "infer")] == 3
    assert samples["rsd_edge_inference_seconds_count",] == 4
    assert samples["rsd_edge_resident_bytes",] > 1e6
    release = {"model": NAME, "release": "4", "precision": "fp32", "runtime": "onnxruntime", "threads": "1"}
    release |= {"provider": "CPUExecutionProvider"}
    assert samples["rsd_edge_release", *sorted(release.items())] == 1


def test_the_page_runs_nothing_but_its_own_script(address: str) -> None:
    status, headers, body = ask(address, "GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200
    assert b"<script>" in body
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
