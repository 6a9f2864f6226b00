"""A student's model card, in the Hugging Face hub's format: what it is, how it was trained, what it cannot do."""

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rsd.machine.words import counted
from rsd.run.records import Section, StudentRecord, TeacherRecord
from rsd.sources.images import DatasetRecord

MOST_CLASSES = 20  # a card names no more classes than this; `config.json` names all


def student_card(student: StudentRecord, teacher: TeacherRecord, data: DatasetRecord) -> ModelCard:
    """The card of a student's folder."""
    from rsd.models.mlp import default_cfgs  # here, so that a bundle's card needs no timm

    register = f"import rsd.models.mlp  # timm has no `{student.model.name}`; this adds it\n"
    use = f"""FOLDER is the folder of this card:

```python
import timm
{register if student.model.name in default_cfgs else ""}\
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

`hf upload YOU/{student.name} FOLDER` puts it on the Hugging Face hub."""
    return model_card(student, teacher, data, use=use, library="timm")


def model_card(
    student: StudentRecord,
    teacher: TeacherRecord,
    data: DatasetRecord,
    *,
    use: str,
    library: str,
    test_top1: float | None = None,
    files: str = "",
    licence: dict[str, str] | None = None,
) -> ModelCard:
    """The card of a student, in whatever files it comes. The same arguments give the same text.

    Args:
        use: how to load it, in Markdown.
        library: what loads it, by the hub's name.
        test_top1: per cent; None before the student is evaluated.
        files: a section on the files, in Markdown.
        licence: the hub's fields of it; None leaves them to whoever publishes the student.
    """
    top1 = {"validation": student.validation.top1} | ({} if test_top1 is None else {"test": test_top1})
    about = ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        tags=["image-classification", *(["knowledge-distillation", student.method] if student.taught else [])],
        datasets=[data.source],
        metrics=["accuracy"],
        model_name=student.name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=data.source,
                dataset_name=data.source,
                dataset_split=split,
                metric_type="accuracy",
                metric_value=round(value / 100, 4),
            )
            for split, value in top1.items()
        ],
        license=(licence or {}).get("license"),
        license_name=(licence or {}).get("license_name"),
    )
    height, width, channels = student.image_shape
    training = "fine-tuned" if student.start else "trained"
    source = (
        f"It was distilled by the method `{student.method}` from a `{teacher.model.name}`, the teacher."
        if student.taught
        else f"It was {training} without a teacher: distilled students are compared with it."
    )
    teaching = (
        f"- teacher: `{teacher.model.name}`, {teacher.parameters:,} parameters, validation top-1 "
        f"{teacher.validation.top1:.2f} %\n- trained beside the student and not kept: {student.extra_parameters:,} "
        "parameters\n"
    )
    selection = (
        "These are the weights of the last epoch: no image chose them."
        if student.recipe.root.get("select") == "last"
        else "The validation images chose these weights, so their figure flatters the student; test images do not."
    )
    classes = ", ".join(data.classes[:MOST_CLASSES])
    if len(data.classes) > MOST_CLASSES:
        classes += f" and {len(data.classes) - MOST_CLASSES} more"
    accuracy = "\n".join(f"| {split} | {value:.2f} % |" for split, value in top1.items())
    return ModelCard(f"""---
{about.to_yaml()}
---

# {student.name}

An image classifier for {len(student.classes)} classes: a `{student.model.name}` with {student.parameters:,} parameters
for images of {height} x {width} pixels and {counted(channels, "channel")}. {source}

## Use

{use}

{files}## Accuracy

| split | top-1 |
|---|---|
{accuracy}

{selection}

## Training

- method: `{student.method}`{_listed(student.options)}
{teaching if student.taught else ""}\
- recipe: {student.steps:,} steps{_listed(student.recipe)}
- seed: {student.seed}
- start: {_start(student)}

## Data

Images of `{data.source}`: {data.stated_counts}. Classes, in the order of the logits: {classes}.

## Limits

- The accuracy holds for images like those of `{data.source}`; nothing else was tried.
- It gives one of its classes for every image, also for an image of none of them.
- Its probabilities are not calibrated.
""")


def _start(student: StudentRecord) -> str:
    """The weights before training."""
    if student.start is None:
        return "random weights"
    start = student.start
    head = "with a new head" if start.new_head else "with their head"
    return f"the weights `{start.name}` {head}; SHA-256 {start.sha256}; licence {start.license or 'unknown'}"


def _listed(section: Section) -> str:
    """Plain options with a value, after a comma."""
    plain = {name: value for name, value in section.root.items() if isinstance(value, str | int | float)}
    return "".join(f", {name} {value}" for name, value in plain.items())
