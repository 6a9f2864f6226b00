"""The students' records -> out/students.json, this run's students, and out/shipped.json, the one that ships.

Runs at every `dvc repro`, so that what another choice of methods and seeds left behind is gone before it is counted in.
"""

from rsd.machine.words import counted
from rsd.run.selection import forget_others, index, shipped
from stages import OUT, run


def main() -> None:
    choice = OUT.choice()
    forget_others(OUT, choice)
    students = index(OUT)
    OUT.write(students)
    selected = shipped(students.students, choice.ships)
    OUT.write(selected)
    print(f"{counted(len(students.students), 'student')}; {selected.student.name} ships: {selected.reason}")


if __name__ == "__main__":
    run(main)
