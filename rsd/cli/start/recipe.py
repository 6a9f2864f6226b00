"""How long and how fast to train, for so many images."""

from rsd.training.recipe import Recipe

STEPS = {"random": 1_000, "pretrained": 500}
"""Updates, whatever the number of images: from random weights, a thousand images need as many as ten thousand."""
LEAST_EPOCHS, MOST_EPOCHS = 10, 300
LEARNING_RATES = {"random": 3e-3, "pretrained": 3e-4}
LEAST_VALIDATION = 50  # with fewer validation images the last epoch is kept: so few cannot tell one epoch from the next


def fitting_recipe(images: int, *, pretrained: bool, validation: int) -> Recipe:
    """A recipe for so many training and validation images, from `pretrained` or from random weights."""
    kind = "pretrained" if pretrained else "random"
    batch = 64 if images >= 256 else max(2, min(32, images // 4))
    epochs = min(max(-(-STEPS[kind] // max(images // batch, 1)), LEAST_EPOCHS), MOST_EPOCHS)
    return Recipe(
        epochs=epochs,
        batch_size=batch,
        optimizer="adamw",
        learning_rate=LEARNING_RATES[kind],
        weight_decay=0.05,
        warmup_epochs=max(1, epochs // 10),
        label_smoothing=0.1,
        augment={"crop": {"scale": [0.6, 1.0]}},  # type: ignore[arg-type]
        select="last" if validation < LEAST_VALIDATION else "best",
    )


def recipe_text(recipe: Recipe, title: str) -> str:
    """The recipe as a file of conf/recipe."""
    low, high = recipe.augment.crop.scale if recipe.augment.crop else (1.0, 1.0)
    return f"""# {title}
epochs: {recipe.epochs}
batch_size: {recipe.batch_size}
optimizer: {recipe.optimizer}
learning_rate: {recipe.learning_rate}
weight_decay: {recipe.weight_decay}
schedule: {recipe.schedule}
warmup_epochs: {recipe.warmup_epochs}
label_smoothing: {recipe.label_smoothing}
augment: {{crop: {{scale: [{low}, {high}]}}, flip: false}} # flip: true if a mirrored image keeps its class
select: {recipe.select} # best: the best epoch on validation, which takes {LEAST_VALIDATION} images; or last
"""
