"""On random images with a linear rule, tiny enough for a second a run."""

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.pair import random_store
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.methods.kd import KDDistiller
from rsd.methods.rsd import RSDDistiller
from rsd.methods.scratch import ScratchDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.teacher import store as store_module
from rsd.teacher.store import StoredTeacher
from rsd.training import checkpoint
from rsd.training.loop import Data, Session, train, validate
from rsd.training.recipe import Recipe
from rsd.views.augment import AugmentOptions, ViewChoice, views

NORMALIZE = PixelNormalize([0.5], [0.25])
RECIPE = Recipe(
    epochs=4,
    batch_size=16,
    optimizer="adamw",
    learning_rate=1e-2,
    warmup_epochs=1,
    augment=AugmentOptions(shift=1, flip=True),
)


def images(count, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    pixels = generator.integers(0, 100, (count, 8, 8, 1), dtype=np.uint8)
    pixels[labels == 1] += 100
    return LabelledImages(pixels, labels, ["dark", "bright"])


TRAIN, VALIDATION = images(70, 0), images(40, 1)
DATA = Data(TRAIN, VALIDATION, NORMALIZE)


def student(drop=0.0):
    torch.manual_seed(0)
    args = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "drop_rate": drop}
    return create(ModelOptions(name="vit_tiny_patch16_224", args=args), classes=2, image_shape=(8, 8, 1))


def teacher(raw, index, view):
    """Deterministic in the pixels, as a real teacher is."""
    flat = raw.float().flatten(1) / 255
    return Outputs(flat @ torch.linspace(-1, 1, 64 * 6).reshape(64, 6).sin(), flat[:, :2])


def rsd_run(state=None, recipe=RECIPE, seed=3, taught_by=teacher, **session):
    """A training by RSD, whose teacher is `asked`."""
    task = RSDDistiller(student(drop=0.2), Setting(teacher_width=6))
    return train(task, DATA, recipe, Session(seed, ViewChoice(0, 2), taught_by, state=state, name="t", **session))


def scratch_run(model=None, **session):
    task = ScratchDistiller(student() if model is None else model)
    return train(task, DATA, RECIPE, Session(0, ViewChoice(0), **session))


def column(trained, name):
    return [row[name] for row in trained.history]


def same(a, b):
    return (
        a.history == b.history
        and a.selected == b.selected
        and all(torch.equal(a.student[k], b.student[k]) for k in a.student)
        and all(torch.equal(a.scaffold[k], b.scaffold[k]) for k in a.scaffold)
    )


def test_it_learns_and_the_history_has_every_term():
    trained = rsd_run(recipe=RECIPE.model_copy(update={"epochs": 15}))
    assert trained.selected["validation_top1"] > 90
    assert {"epoch", "learning_rate", "loss", "cross_entropy", "invariance", "redundancy", "gradient_norm",
            "validation_top1", "validation_loss"} <= set(trained.history[0])  # fmt: skip
    assert column(trained, "epoch") == list(range(1, 16))


def test_one_seed_gives_the_same_bits():
    first = rsd_run()
    assert same(first, rsd_run())
    assert not same(first, rsd_run(seed=4))


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_run_killed_between_epochs_resumes_bit_identically(tmp_path, monkeypatch, killed_after):
    undisturbed = rsd_run()
    state = tmp_path / "run" / "digest" / "checkpoint.pt"
    saves = iter(range(1, 100))
    real = checkpoint.save

    def save_then_die(path, content):
        real(path, content)
        if next(saves) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        rsd_run(state)
    torch.manual_seed(99)  # a new process has another random state
    assert same(rsd_run(state), undisturbed)


def test_the_selected_epoch_is_best_or_last():
    best = rsd_run(recipe=RECIPE.model_copy(update={"epochs": 8}))
    assert best.selected["validation_top1"] == max(column(best, "validation_top1"))
    model = student(drop=0.2)
    model.load_state_dict(best.student)
    measured = validate(model.eval(), NORMALIZE, VALIDATION, batch_size=16)
    assert measured["validation_top1"] == best.selected["validation_top1"]
    last = rsd_run(recipe=RECIPE.model_copy(update={"epochs": 8, "select": "last"}))
    assert last.selected["epoch"] == 8


def test_the_learning_rate_follows_the_schedule_by_step():
    """After the warm-up of one epoch, a cosine from the start of training to zero at its end."""
    share_done = np.arange(1, 5) / 4
    expected = 1e-2 * (1 + np.cos(np.pi * share_done)) / 2
    assert column(rsd_run(), "learning_rate") == pytest.approx(expected, abs=1e-9)


def test_a_nonfinite_loss_stops_with_the_step():
    def broken(raw, index, view):
        outputs = teacher(raw, index, view)
        return outputs if view[0] == 0 else outputs._replace(embedding=outputs.embedding * float("nan"))

    with pytest.raises(UserError) as caught:
        rsd_run(taught_by=broken)
    text = str(caught.value)
    assert "found nan at step 4 " in text  # 70 images are 4 batches of 16; view 1 begins with the second epoch
    assert "invariance" in text
    assert "lower recipe.learning_rate" in text


def test_a_resumed_run_reports_the_last_finite_values(tmp_path, monkeypatch):
    def broken(raw, index, view):
        outputs = teacher(raw, index, view)
        return outputs._replace(embedding=outputs.embedding * float("nan"))

    real = checkpoint.save

    def save_then_die(path, content):
        real(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_then_die)
        rsd_run(tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"found nan at step 4 .*last finite values: loss \d"):
        rsd_run(tmp_path / "c.pt", taught_by=broken)


def test_a_nonfinite_validation_loss_stops_with_the_step():
    model = student()
    model.head.register_forward_hook(lambda head, _, logits: logits if head.training else logits * float("nan"))
    with pytest.raises(UserError, match=r"validation loss, found nan after step 4 .last values of training: loss \d"):
        scratch_run(model)


def test_student_and_teacher_see_the_same_views():
    taught_by = []

    def spy(raw, index, view):
        taught_by.append((raw.numpy().copy(), index, view))
        return teacher(raw, index, view)

    train(RSDDistiller(student(), Setting(teacher_width=6)), DATA, RECIPE, Session(0, ViewChoice(5, 2), spy))
    assert [view[0] for _, _, view in taught_by] == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    for raw, index, view in taught_by:
        expected = views(TRAIN.images, index, RECIPE.augment, seed=5, view=view)
        assert np.array_equal(raw, expected)


def test_training_leaves_no_aad_in_the_student():
    assert rsd_run().student.keys() == student().state_dict().keys()
    assert scratch_run().scaffold == {}


def test_training_ends_early_when_validation_stalls():
    whole = rsd_run(recipe=RECIPE.model_copy(update={"epochs": 12, "learning_rate": 3e-2}))
    patient = rsd_run(recipe=RECIPE.model_copy(update={"epochs": 12, "learning_rate": 3e-2, "patience": 2}))
    assert len(patient.history) < 12
    assert patient.history == whole.history[: len(patient.history)]
    assert len(patient.history) == patient.selected["epoch"] + 2
    assert patient.steps == 4 * len(patient.history)


def test_the_average_of_weights_is_validated_and_kept():
    averaged = rsd_run(recipe=RECIPE.model_copy(update={"ema_decay": 0.8}))
    model = student(drop=0.2)
    model.load_state_dict(averaged.student)
    assert averaged.student.keys() == student().state_dict().keys()
    assert (
        validate(model.eval(), NORMALIZE, VALIDATION, batch_size=16)["validation_loss"]
        == (averaged.selected["validation_loss"])
    )
    plain = rsd_run()
    trained = [name for name in plain.history[0] if not name.startswith("validation")]
    assert all(column(averaged, name) == column(plain, name) for name in trained)  # it watches, and changes nothing
    assert averaged.history != plain.history


@pytest.mark.parametrize("often", [0.0, 1e9])
def test_when_checkpoints_are_written_changes_no_bit(tmp_path, often):
    assert same(rsd_run(tmp_path / "c.pt", save_seconds=often), rsd_run())


def test_a_collapsed_student_stops_after_the_warm_up():
    """Weights that the first step has thrown far off: every unit is dead, every image looks the same."""
    model = student()
    torch.nn.init.zeros_(model.norm.weight)
    model.norm.weight.requires_grad_(False)
    with pytest.raises(UserError, match="the same output for all 40 validation images after step 8 .*collapsed"):
        scratch_run(model)


def test_one_class_for_all_images_is_named(capsys):
    """A head whose bias outweighs all that the images say."""
    model = student()
    with torch.no_grad():
        model.head.bias[1] = 20.0
    scratch_run(model)
    lines = [line for line in capsys.readouterr().err.splitlines() if "gives the class" in line]
    assert len(lines) == 1
    assert "after epoch 2 the student gives the class 'bright' for all 40 validation images" in lines[0]
    scratch_run()
    assert "gives the class" not in capsys.readouterr().err


def test_a_kill_after_the_last_epoch_loses_nothing(tmp_path, monkeypatch):
    def save_then_die(path, content):
        save(path, content)
        if len(content["progress"]["history"]) == RECIPE.epochs:
            raise KeyboardInterrupt

    save = checkpoint.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_then_die)
        rsd_run(tmp_path / "c.pt", logs=tmp_path)
    trained = rsd_run(tmp_path / "c.pt", logs=tmp_path)
    assert pd.read_csv(tmp_path / "t.csv").epoch.to_list() == column(trained, "epoch")


def test_the_log_has_times_and_the_history_none(tmp_path):
    history = pd.DataFrame(scratch_run(logs=tmp_path, name="scratch-0").history)
    log = pd.read_csv(tmp_path / "scratch-0.csv")
    times = ["images_per_second", "seconds", "peak_megabytes"]
    assert list(log) == [*history, *times]
    assert np.allclose(log[list(history)], history)
    assert (log[times] > 0).all().all()


def hidden(every=8):
    """The training images, of which only each `every`th keeps its label."""
    kept = np.arange(len(TRAIN.labels)) % every == 0
    return Data(TRAIN._replace(labels=np.where(kept, TRAIN.labels, -1)), VALIDATION, NORMALIZE)


class Asked:
    """A teacher that remembers which images it was asked about."""

    def __init__(self):
        self.images = []

    def __call__(self, raw, index, view):
        self.images += [index]
        return teacher(raw, index, view)


def partly_labelled_run(task=None, recipe=RECIPE, data=None, taught_by=teacher, **session):
    task = task or RSDDistiller(student(drop=0.2), Setting(teacher_width=6))
    return train(task, data or hidden(), recipe, Session(3, ViewChoice(0, 2), taught_by, **session))


def test_the_teacher_speaks_of_every_image():
    taught_by = Asked()
    partly_labelled_run(taught_by=taught_by)
    assert set(np.concatenate(taught_by.images)) == set(range(70))
    known = hidden().train.labels >= 0
    assert all(known[batch][:8].all() and not known[batch][8:].any() for batch in taught_by.images)


def test_hidden_labels_are_learned_from_the_teacher_only():
    plain = partly_labelled_run()
    assert np.isfinite(column(plain, "cross_entropy")).all()
    assert column(plain, "invariance")[-1] < column(plain, "invariance")[0]
    assert same(plain, partly_labelled_run())
    assert not same(plain, partly_labelled_run(data=DATA))


def test_the_twin_trains_on_the_labelled_images_only():
    shown = []

    class Twin(ScratchDistiller, method="twin"):
        def forward(self, input, target, teacher=None, index=None, *, labelled=None, logged=True):
            shown.append((index.numpy(), target.numpy(), labelled))
            return super().forward(input, target, teacher, index, labelled=labelled)

    trained = partly_labelled_run(Twin(student()))
    known = hidden().train.labels
    assert all(len(index) == 8 and labelled is None for index, _, labelled in shown)
    assert all(np.array_equal(target, known[index]) for index, target, _ in shown)
    assert trained.steps == len(shown) == 4 * (70 // 16)
    assert trained.batch_size == 8
    del Twin.registry["twin"]


@pytest.mark.parametrize("change", [{}, {"accumulation": 1, "augment": AugmentOptions(mixup=0.4, flip=True)}])
def test_a_partly_labelled_run_resumes_bit_for_bit(tmp_path, change):
    recipe = RECIPE.model_copy(update=change)
    whole = partly_labelled_run(recipe=recipe)

    class Once(Asked):
        def __call__(self, raw, index, view):
            if len(self.images) == 7:
                raise KeyboardInterrupt
            return super().__call__(raw, index, view)

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        partly_labelled_run(recipe=recipe, state=state, save_seconds=0.0, taught_by=Once())
    assert state.is_file()
    assert same(whole, partly_labelled_run(recipe=recipe, state=state))


def test_accumulated_parts_of_a_partly_labelled_batch_agree():
    def run(parts):
        task = distiller("kd")(student(), Setting(teacher_width=6))
        return partly_labelled_run(task, RECIPE.model_copy(update={"accumulation": parts}))

    whole, halves = run(1), run(2)
    for term in ("loss", "cross_entropy", "kd", "validation_loss"):
        assert column(halves, term) == pytest.approx(column(whole, term), rel=1e-3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stores_rows_are_read_ahead(tmp_path, monkeypatch, accumulation):
    monkeypatch.setattr(store_module, "RESIDENT_BYTES", 1)  # as if it were large
    store = random_store(tmp_path, len(TRAIN.labels), 6, 2, torch.device("cpu"))
    recipe = RECIPE.model_copy(update={"accumulation": accumulation, "epochs": 2})

    def looked_up(raw, index, view):
        return Outputs(*(torch.from_numpy(values[view, index]) for values in (store.embedding, store.logits)))

    def run(taught_by):
        task = KDDistiller(student(), Setting(teacher_width=6))
        return train(task, DATA, recipe, Session(3, ViewChoice(0, 1), taught_by))

    expected, real, calls = run(looked_up), StoredTeacher.__call__, []

    def watched(self, *arguments):
        calls.append(len(self.ahead))
        return real(self, *arguments)

    monkeypatch.setattr(StoredTeacher, "__call__", watched)
    assert same(run(store), expected)
    assert len(calls) == 2 * 4 * accumulation
    assert min(calls[:-accumulation]) > accumulation  # its own and the next step's
    assert not store.ahead


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumes_with_a_stores_rows(tmp_path, monkeypatch, workers):
    random_store(tmp_path, len(TRAIN.labels), 6, 2, torch.device("cpu"))
    real = StoredTeacher.__call__

    def run(state=None, last=99):
        store, calls = StoredTeacher(tmp_path, made_from={}, device=torch.device("cpu")), []

        def answers(self, *arguments):
            calls.append(1)
            if len(calls) > last:
                raise KeyboardInterrupt
            return real(self, *arguments)

        monkeypatch.setattr(StoredTeacher, "__call__", answers)
        task = RSDDistiller(student(drop=0.2), Setting(teacher_width=6))
        compute = ComputeOptions(workers=workers)
        return train(task, DATA, RECIPE, Session(3, ViewChoice(0, 1), store, compute, state=state, save_seconds=0.0))

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state" / "checkpoint.pt", last=6)
    assert same(run(tmp_path / "state" / "checkpoint.pt"), run())
