"""Which training images have a label: studies hide the labels of the others."""

import numpy as np

from rsd.machine.errors import UserError

NO_LABEL = -1  # in the place of a class index


def hide_labels(labels: np.ndarray, labelled: int | float, classes: list[str], *, seed: int) -> np.ndarray:
    """`labels` with -1 in the place of all but some, in the classes' proportions and at least one of each class.

    With one seed the images that keep their label for a small number keep it for a larger one, too.

    Args:
        labels: int64 `[N]`; -1 where there is none already.
        labelled: how many keep their label; a float is a share of all.

    Raises:
        UserError: there are more classes than labels to keep, or fewer images.
    """
    known = np.flatnonzero(labels >= 0)
    count = labelled if isinstance(labelled, int) else round(labelled * len(known))
    if not len(classes) <= count <= len(known):
        raise UserError(
            f"data.labelled: expected between {len(classes)}, one for each class, and {len(known)}, the student's "
            f"training images with a label, found {count}"
        )
    order = known[np.random.default_rng([seed, 4]).permutation(len(known))]
    place = np.empty(len(labels))
    for label in np.unique(labels[known]):
        members = order[labels[order] == label]
        # The middle of its share of the class, so that every class gives up its images evenly.
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        place[members[0]] = -1
    with_label = np.argsort(place[order], kind="stable")[:count]
    hidden = np.full_like(labels, NO_LABEL)
    hidden[order[with_label]] = labels[order[with_label]]
    return hidden
