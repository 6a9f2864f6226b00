"""The code that is one method's own: what its cells of `distill` depend on, and no other method's cells."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from rsd import methods

SUM = "rsd.methods._sum"  # the module that adds methods up; the cell of a sum depends on it
EVERY_CELL = ("rsd.methods", "rsd.methods.base")  # modules that every cell depends on anyway
HANDED_ON = ("rsd", "rsd.losses")  # modules that hand on the names of others


def method_code(method: str) -> str:
    """The text of a method's file, then of each file in `rsd/methods/` and `methods/` that it imports, also indirectly.

    Of a sum, the texts of all its methods. Other files are left out: `distill` depends on their rooms.
    """
    own = [f"{'methods' if part in methods.own_methods() else 'rsd.methods'}.{part}" for part in methods.parts(method)]
    own += [SUM] if len(own) > 1 else []
    texts, waiting = dict[str, str](), [*own]
    while waiting:
        module = waiting.pop()
        file = _file(module)
        if module not in texts and file:
            texts[module] = file.read_text()
            waiting += _imports(texts[module], module.rpartition(".")[0])
    order = [*own, *sorted(texts.keys() - {*own})]
    return "\n\n".join(f"# {module.replace('.', '/')}.py\n{texts[module]}" for module in order)


def _file(module: str) -> Path | None:
    """The file of a module of methods; None for any other module."""
    room, _, name = module.rpartition(".")
    folder = {"rsd.methods": Path(methods.__file__).parent, "methods": methods.OWN}.get(room)
    file = folder / f"{name}.py" if folder and module not in EVERY_CELL else None
    return file if file and file.is_file() else None


@cache  # a sweep reads the same methods for each of its cells
def _imports(code: str, room: str) -> tuple[str, ...]:
    """Names of all modules that the code of a module in `room` may import, also inside functions."""
    return tuple(_imported(ast.parse(code), room))


def _imported(code: ast.Module, room: str) -> Iterator[str]:
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _homes(alias.name, ["*"]) if alias.name in HANDED_ON else [alias.name]
        elif isinstance(node, ast.ImportFrom):
            module = f"{room}.{node.module}" if node.level and node.module else node.module or room
            names = [alias.name for alias in node.names]
            yield from [module, *(f"{module}.{name}" for name in names)]
            if module in HANDED_ON:
                yield from _homes(module, names)
            for handing in {f"{module}.{name}" for name in names} & set(HANDED_ON):  # from rsd import losses
                yield from _homes(handing, ["*"])


def _homes(module: str, names: list[str]) -> Iterator[str]:
    """Where the names that a module hands on are defined; `*` is all of them."""
    handing = import_module(module)
    public = handing.__all__
    for name in public if "*" in names else set(names) & set(public):
        yield getattr(handing, name).__module__
