"""Titles of the columns of a training history, and what to look for in their curves."""

TERMS = {
    "loss": ("Total loss", "What the optimiser sees: cross-entropy plus the weighted distillation terms."),
    "cross_entropy": ("Cross-entropy", "Against the labels of the training views."),
    "invariance": (
        "Invariance, Σ (Pᵢᵢ \N{MINUS SIGN} 1)²",
        "Falls as each student dimension finds its teacher dimension.",
    ),
    "redundancy": (
        "Redundancy, Σ Pᵢⱼ²",
        "Off the diagonal, before κ. What the teacher's own dimensions share remains.",
    ),
    "diagonal_mean": ("Mean of the diagonal of P", "1 is full agreement with the teacher, 0 is none."),
    "off_diagonal_rms": ("RMS off the diagonal of P", "Dotted: two unrelated batches, by chance alone."),
    "kd": ("KD", "Divergence of the student's class probabilities from the teacher's; 0 where they agree."),
    "dkd": ("DKD", "Divergence over the target class and over all others, weighted apart; 0 where both agree."),
    "dist": ("DIST", "1 \N{MINUS SIGN} correlation with the teacher over the classes and over the batch; 0 is both."),
    "rkd": ("RKD", "Distances and angles between the images of a batch against the teacher's; 0 where they agree."),
    "cc": ("CC", "Products of neighbouring images' deviations from the teacher; 0 where the embeddings agree."),
    "crd_student": ("CRD, of the student", "How badly an image's own teacher vector is told from other images'."),
    "crd_teacher": ("CRD, of the teacher", "How badly an image's own student vector is told from other images'."),
    "ofa_logits": ("OFA, the student's logits", "Against the teacher's class probabilities, the target class raised."),
    "gradient_norm": ("Gradient norm", "The mean over an epoch."),
    "learning_rate": ("Learning rate", "The schedule."),
    "skipped_steps": (
        "Skipped steps",
        "Share of the steps whose fp16 gradient overflowed; a few at the start are usual.",
    ),
}

_SPACES = {"logits": "of the logits", "embedding": "of the embedding"}


def caption(term: str) -> tuple[str, str]:
    """Title and note of a column; a column that is not known has its own name for a title."""
    if term in TERMS:
        return TERMS[term]
    first, _, rest = term.partition("_")
    if first in _SPACES and rest in TERMS:
        title, note = TERMS[rest]
        return f"{title}, {_SPACES[first]}", note
    if first in ("ofa", "fitnet") and rest.isdigit():
        notes = {
            "ofa": "Logits of a branch at this stage against the teacher's class probabilities.",
            "fitnet": "Mean squared difference of the aligned features.",
        }
        return f"{'OFA' if first == 'ofa' else 'FitNet'}, stage {rest}", notes[first]
    return term.replace("_", " ").capitalize(), ""
