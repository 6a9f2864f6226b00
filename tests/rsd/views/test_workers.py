import pytest
from torch.utils.data import Dataset

from rsd.machine.errors import UserError
from rsd.views.workers import in_order


class Images(Dataset):
    """The third of them is damaged."""

    def __getitem__(self, number):
        if number == 2:
            raise UserError("expected a usable image in 2.png, found: empty")
        return number


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_report_a_bad_image_alike(workers):
    assert list(in_order(Images(), range(2), workers=workers)) == [0, 1]
    with pytest.raises(UserError, match="^expected a usable image in 2.png, found: empty$"):
        list(in_order(Images(), range(4), workers=workers))
