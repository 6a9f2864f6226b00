"""A scaffold that several methods train."""

from torch import Tensor, nn

from rsd.models.outputs import Outputs


class LinearEmbeddings(nn.Module):
    """A scaffold of two linear maps: the embeddings of student and teacher, each to `[B, width]`."""

    def __init__(self, student_width: int, teacher_width: int, width: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_width, width)
        self.teacher = nn.Linear(teacher_width, width)

    def forward(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        stored = teacher.embedding.to(self.teacher.weight.dtype)  # the view store holds fp16
        return self.student(student.embedding), self.teacher(stored)
