import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rsd.machine.errors import UserError
from rsd.report.page import write_page
from rsd.report.table import summary
from rsd.run.paths import Run
from rsd.run.records import Comparison, ProbeRecord
from stages.evaluate import MOST_IMAGES
from tests.rsd.run import small

from .conftest import COUNTS, page_arguments, start_from_weights, write, write_records


class Text(HTMLParser):
    """What a reader sees, and which addresses the page names in attributes that load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        self.addresses += [value for name, value in attributes if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def seen(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(out: Path) -> str:
    write_page(out / "report.html", **page_arguments(out))
    return (out / "report.html").read_text()


def seen(out: Path) -> str:
    return Text(written(out)).seen


def test_the_page_states_the_teachers_probe(out: Path) -> None:
    assert "before anything was distilled" not in seen(out)
    probe = ProbeRecord(
        top1=80.4, images=500, knn_top1=75.2, neighbours=20, labels=160, regularisation=0.01,
        select="cross_validation", select_labels=158, pixels_top1=70.1, beats_pixels=True,
    )  # fmt: skip
    Run(out).write(small.teacher("teacher").model_copy(update={"probe": probe}))
    text = seen(out)
    assert "its probe reaches 80.40 % top-1 on 500 validation images, kNN with k = 20 75.20 %; fitted to 160 l" in text
    assert "C = 0.01 chosen by cross-validation on 158 labels. A linear classifier on pixels" in text
    assert "not clearly more" not in text
    Run(out).write(
        small.teacher("teacher").model_copy(update={"probe": probe.model_copy(update={"beats_pixels": False})})
    )
    assert "found 80.40 %, which is not clearly more than the 70.10 % of a linear classifier on pixels" in seen(out)


def charts_of(html: str) -> dict[str, Any]:
    result = re.findall(r'<script type="application/json" data-chart="chart-([^"]+)">(.*?)</script>', html, re.S)
    return {name: json.loads(spec) for name, spec in result}


def test_one_file_holds_everything_and_stays_small(out: Path) -> None:
    html = written(out)
    assert len(html.encode()) < 5_000_000
    assert html.count("vegaEmbed = ") + html.count("vegaEmbed=") == 1
    assert all(address.startswith(("#", "data:")) for address in Text(html).addresses)
    assert "default-src 'none'" in html
    assert "@import" not in html


def test_the_same_records_give_the_same_bytes(out: Path) -> None:
    assert written(out) == written(out)


def test_every_part_of_the_run_has_its_chart(out: Path) -> None:
    terms = {"loss", "cross_entropy", "invariance", "redundancy", "diagonal_mean", "off_diagonal_rms"}
    single = {"accuracy", "validation", "classes", "confusion", "calibration"}
    single |= {"latency", "distribution", "size", "strays", "budget"}
    vitals = {"term-gradient_norm", "term-learning_rate"}
    inside = {"correlation-before", "correlation-after", "cka-scratch-0", "cka-rsd-0"}
    assert set(charts_of(written(out))) == single | vitals | inside | {f"term-{term}" for term in terms}


def test_charts_that_are_compared_share_one_scale(out: Path) -> None:
    drawn = charts_of(written(out))
    for names in (("correlation-before", "correlation-after"), ("cka-scratch-0", "cka-rsd-0")):
        one, other = ([layer["encoding"].get("opacity") for layer in drawn[name]["layer"]] for name in names)
        assert one == other
        assert any(opacity and opacity["scale"]["domain"][0] == 0 for opacity in one)


def test_the_correlation_stands_beside_chance_and_teacher(out: Path) -> None:
    text = seen(out)
    assert "Mean of the diagonal 0.90; RMS off the diagonal 0.050" in text
    assert "By chance alone the diagonal is near 0 and the RMS beside it 0.053" in text
    assert "0.210" in text
    assert "is the mean of a block" not in text


def test_every_embeddings_rank_stands_beside_its_width(out: Path) -> None:
    text = seen(out)
    assert "scratch 32 12.5 39 % 0.250 RSD 32 21.8 68 % 0.125" in text
    path = out / "evaluate" / "models.json"
    write(path, [{k: v for k, v in m.items() if k != "effective_rank"} for m in json.loads(path.read_text())])
    assert "effective rank" not in seen(out)


def test_a_matrix_that_was_made_smaller_says_so(out: Path) -> None:
    path = out / "evaluate" / "correlation.json"
    record = json.loads(path.read_text())
    write(path, record | {"correlation": record["correlation"] | {"width": 768}})
    assert "Each of the 16 by 16 cells is the mean of a block of the 768 by 768 matrix" in seen(out)


def test_the_likeness_names_its_stages_number_of_images(out: Path) -> None:
    assert f"on at most {MOST_IMAGES} test images" in seen(out)


def test_what_was_not_examined_is_named(out: Path) -> None:
    reason = "no RSD student was trained in this run"
    write(out / "evaluate" / "correlation.json", {"student": "scratch-0", "skipped": reason})
    (out / "evaluate" / "cka.csv").write_text("student,method,student_layer,teacher_layer,cka\n")
    text = seen(out)
    assert "The cross-correlation is not drawn: no RSD student was trained in this run." in text
    assert "No likeness of layers was recorded" in text


def test_images_and_the_epochs_choice_are_stated(out: Path) -> None:
    assert "best on validation; the test split" in Text(written(out)).seen
    record = json.loads((out / "data" / "dataset.json").read_text())
    write(out / "data" / "dataset.json", record | {"labelled": 20})
    recipe = json.loads((out / "params" / "recipe.json").read_text())
    write(out / "params" / "recipe.json", recipe | {"select": "last"})
    text = Text(written(out)).seen
    assert "Images: train 448 (20 with a label), validation 360, test 360." in text
    assert "The student is the last epoch;" in text


def test_few_labels_and_the_teachers_advantage_lead(out: Path) -> None:
    record = json.loads((out / "data" / "dataset.json").read_text())
    write(out / "data" / "dataset.json", record | {"counts": {**COUNTS, "teacher": 449}, "labelled": 20})
    teacher = small.teacher("teacher").model_copy(update={"learned_from": 449})
    Run(out).write(teacher)
    text = seen(out)
    first = text.index("With 20 labels the shipped student reaches")
    assert first < text.index("The teacher learned from 449 other images, all labelled;") < text.index("Test top-1")
    assert "the students' training 20 training" in text
    assert summary(Run(out)).splitlines()[5].endswith("the student has 20 labels and 428 images without one.")


def test_the_verdict_leads_with_gain_and_interval(out: Path) -> None:
    text = seen(out)
    models = {model["model"]: model for model in json.loads((out / "evaluate" / "models.json").read_text())}
    gains = [models[f"rsd-{seed}"]["top1"] - models[f"scratch-{seed}"]["top1"] for seed in range(3)]
    assert f"+{sum(gains) / 3:.2f} points" in text
    assert "95 % interval" in text
    assert "3 paired seeds" in text
    assert "2 of 2 passed" in text
    assert "Its method, RSD, is " in text
    assert re.search(r"points ahead of plain training \(95 % interval \+\d\.\d to \+\d\.\d\)\.", text)
    assert text.index("Parity gates") < text.index("Accuracy, side by side")


def test_students_with_weights_are_not_from_scratch(out: Path) -> None:
    start_from_weights(out)
    text = seen(out)
    assert "Every student starts from weights/lite0 (SHA-256 0123456789ab); scratch is fine-tuned plainly." in text
    assert "Gain over plain fine-tuning" in text
    assert "over scratch" not in text


def test_an_interval_with_zero_is_no_gain(out: Path) -> None:
    path = out / "evaluate" / "models.json"
    models = json.loads(path.read_text())
    for model in models:
        if model["method"] != "teacher":
            model["top1"] = (
                95
                + (0.4 if model["method"] == "rsd" else 0)
                + (model["seed"] == 1) * (2 if model["method"] == "scratch" else 0)
            )
    write(path, models)
    assert "3 seeds cannot tell" in seen(out)


def test_params_versions_device_and_the_command_are_there(out: Path) -> None:
    (out / "params.yaml").write_text("methods: [scratch, rsd]\n")
    text = seen(out)
    for words in (
        "make repro",
        "methods: [scratch, rsd]",
        "kappa 0.01",
        "torch 2.14.1",
        "Intel(R) Xeon(R)",
    ):
        assert words in text


def test_one_seed_is_said_in_words(tmp_path: Path) -> None:
    write_records(tmp_path, seeds=(4,))
    text = seen(tmp_path)
    assert "1 seed, too few for an interval" in text
    assert "95 % interval" not in text


def test_no_distilled_student_means_no_gain(out: Path) -> None:
    path = out / "evaluate" / "models.json"
    write(path, [model for model in json.loads(path.read_text()) if model["method"] != "rsd"])
    path = out / "export" / "export.json"
    write(path, json.loads(path.read_text()) | {"student": "scratch-0"})
    assert "the shipped student is the plainly trained one" in seen(out)


def test_surest_mistakes_show_the_teachers_and_twins_answers(out: Path) -> None:
    html = written(out)
    pictures = [address for address in Text(html).addresses if address.startswith("data:image/png;base64,")]
    answers = pd.read_csv(out / "evaluate" / "confusion" / "rsd-2.csv")
    wrong = int((answers["actual"] != answers["predicted"]).sum())
    assert len(pictures) == min(wrong, 12) > 3
    text = Text(html).seen
    assert text.count("sure true class ") == text.count(" scratch: ") == len(pictures)


def test_without_the_images_it_says_what_to_run(out: Path) -> None:
    (out / "convert" / "fp32" / "logits.npy").unlink()
    assert "No images are shown: expected the student's logits" in seen(out)


def test_a_large_page_stays_below_5_mb(tmp_path: Path) -> None:
    write_records(tmp_path, seeds=tuple(range(4)), epochs=300)
    evaluate = tmp_path / "evaluate"
    names = [f"a rather long name of class {i}" for i in range(1000)]
    models = json.loads((evaluate / "models.json").read_text())
    curves = pd.read_csv(evaluate / "curves.csv")
    distilled = [model for model in models if model["method"] == "rsd"]
    for method in ("kd", "dkd", "dist", "rkd", "cc", "crd", "fitnet", "ofa"):
        models += [{**model, "method": method, "model": f"{method}-{model['seed']}"} for model in distilled]
        rows = curves[curves["method"] == "rsd"].assign(method=method)
        curves = pd.concat([curves, rows.assign(model=method + rows["model"].str.removeprefix("rsd"))])
    write(evaluate / "models.json", [{**model, "per_class": dict.fromkeys(names, 71.23)} for model in models])
    curves.to_csv(evaluate / "curves.csv", index=False)
    actual = [names[i % 1000] for i in range(5000)]
    predicted = [names[(i * i) % 1000] for i in range(5000)]
    for model in models:
        answers = pd.DataFrame({"actual": actual, "predicted": predicted})
        answers.to_csv(evaluate / "confusion" / f"{model['model']}.csv", index=False)
    assert len(models) == 41
    assert len(written(tmp_path).encode()) < 5_000_000


def test_a_skipped_engine_and_missing_device_are_named(out: Path) -> None:
    reason = "no TensorRT library can build here; install tensorrt-rtx"
    write(
        out / "engines" / "fp16" / "engine.json",
        {"status": "skipped", "precision": "fp16", "library": "auto", "reason": reason},
    )
    text = seen(out)
    assert reason in text
    assert "not measured: no CUDA device" in text


def test_a_tail_without_enough_samples_is_named(out: Path) -> None:
    path = out / "benchmark" / "latency.json"
    record = json.loads(path.read_text())
    for row in record["rows"]:
        row["p99_ms"] = None
    write(path, record)
    assert "not measured too few samples for a tail" in seen(out)


def test_below_the_latencies_stand_their_conditions(out: Path) -> None:
    text = seen(out)
    assert "at least 2 s and 662 calls" in text
    assert "Cores 0, 1; clock 2600 MHz before" in text
    assert "The machine was noisy: the medians of the rounds differ by more than 10% in 1 of 4 rows" in text
    assert "12.0 ms 91.0 MB" in text  # cold start and peak memory


def test_an_engine_stands_beside_its_onnx_file(out: Path) -> None:
    assert seen(out).count("not measured: no CUDA device") == 4  # two engines, and their latencies
    path = out / "engines" / "fp16" / "engine.json"
    parity = json.loads((out / "convert" / "fp16" / "convert.json").read_text())["pairs"]["onnxruntime"]["parity"]
    comparison = {key: parity[key] for key in Comparison.model_fields}
    write(path, json.loads(path.read_text()) | {"parity": comparison})
    assert "same answer for 99.72\N{NO-BREAK SPACE}%, largest difference 8.4e-04" in written(out)


@pytest.mark.parametrize("missing", ["data", "students", "export", "convert", "engines", "benchmark", "device.json"])
def test_the_page_needs_no_other_stages_records(out: Path, missing: str) -> None:
    path = out / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "Accuracy, side by side" in seen(out)


@pytest.mark.parametrize("missing", ["curves.csv", "calibration.csv", "confusion", "cka.csv", "correlation.json"])
def test_the_page_needs_no_whole_evaluation(out: Path, missing: str) -> None:
    path = out / "evaluate" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "recorded" in seen(out)


def test_without_an_evaluation_the_old_page_stays(out: Path) -> None:
    before = written(out)
    (out / "evaluate" / "models.json").unlink()
    with pytest.raises(UserError, match="evaluate"):
        write_page(out / "report.html", **page_arguments(out))
    assert (out / "report.html").read_text() == before


def test_names_from_the_data_cannot_become_markup(out: Path) -> None:
    evil = "</script><b>cat & dog</b>"
    path = out / "evaluate" / "models.json"
    models = json.loads(path.read_text())
    for model in models:
        model["per_class"] = {evil if name == "3" else name: value for name, value in model["per_class"].items()}
    write(path, models)
    for file in (out / "evaluate" / "confusion").iterdir():
        file.write_text(file.read_text().replace("3", evil))
    html = written(out)
    assert evil not in html
    names = {row["class"] for rows in charts_of(html)["classes"]["datasets"].values() for row in rows}
    assert evil in names


def test_it_imports_no_torch() -> None:
    script = "import sys, rsd.report.page; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_accuracy_lost_has_its_interval(out: Path) -> None:
    assert '<td class="n">0.28 ± 0.54</td>' in written(out)
    assert '<td class="n">-0.00</td>' not in written(out)


def test_the_ladder_names_exact_stripping_and_float_layers(out: Path) -> None:
    path = out / "convert" / "fp16" / "convert.json"
    record = json.loads(path.read_text())
    stripped = {"rung": "stripped", "against": "as trained", "images": 512}
    pair = record["pairs"]["onnxruntime"]
    ladder = [pair["parity"] | stripped | {"max_difference": 0.0, "max_difference_share": 0.0}]
    made = {"nodes": 14, "in_float": [{"node": "node_linear", "operator": "Gemm", "error": 0.1}]}
    int8 = {"precision": "int8", "ladder": ladder, "pairs": {"onnxruntime": pair | {"details": made}}}
    write(out / "convert" / "int8" / "convert.json", record | int8)
    run = json.loads((out / "params" / "run.json").read_text())
    write(out / "params" / "run.json", run | {"precisions": ["fp32", "fp16", "int8"]})
    text = seen(out)
    assert "int8 ONNX Runtime 1 of 14 nodes in float" in text
    assert "answers exactly as with it, on 512 test images" in text
    assert "3 of 3 passed" in text
