"""Writes the spec of a new model from the modules chosen for it."""

from collections.abc import Sequence
from pathlib import Path

from kmod.files import atomic_write
from kmod.reuse.module_choice import ModuleChoice
from kmod.spec.loader import load_spec
from kmod.spec.model import ClassEntry
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import Scores
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.writer import spec_data
from kmod.spec.writer import write_spec


def task_spec(
    choice: ModuleChoice,
    path: str | Path,
    data: Sequence[DataRef],
    *,
    images_per_class: int,
    contract: InputSpec | None = None,
) -> Spec:
    """Writes the spec of the modules chosen, with comments that say why.

    Args:
        choice: From `choose_modules`.
        path: File to write.
        data: The labelled images it was made on; `compose` calibrates on
            them.
        images_per_class: How many of each class they are, at most.
        contract: The images that the composed model takes; `None` for those
            of the modules.

    Returns:
        The spec, as `load_spec` reads it.
    """
    path = Path(path).resolve()
    ids = {
        index: f"store-{number}"
        for number, index in enumerate(
            sorted(
                {i for team in choice.chosen.values() for i in team}
                | {i for i, _ in choice.support}
            ),
            1,
        )
    }
    spec = Spec(
        name=path.stem,
        path=path,
        stores={
            ids[index]: StoreRef(choice.stores[index].path) for index in ids
        },
        input=contract,
        classes=tuple(
            ClassEntry(name, tuple(ModuleRef(ids[i], name) for i in team))
            for name, team in choice.chosen.items()
        ),
        scores=Scores(
            "joint",
            tuple(data),
            images_per_class,
            support=tuple(
                ModuleRef(ids[i], name) for i, name in choice.support
            ),
        ),
    )
    write_spec(spec_data(spec), path)
    text = path.read_text(encoding="utf-8")
    atomic_write(path, "\n".join([*_comments(choice, ids), text]))
    return load_spec(path)


def _comments(choice, ids):
    yield (
        f"# Modules chosen on {choice.num_images} labelled images. The number "
        "is the chance"
    )
    yield "# that a module scores an image of its class higher than another."
    for name, team in choice.chosen.items():
        values = choice.separation[name]
        used = " + ".join(ids[index] for index in team)
        line = f"# {name!a}: {used} {values[team]:.3f}"
        rest = [value for other, value in values.items() if other != team]
        yield f"{line}, the best other {max(rest):.3f}" if rest else line
    if choice.support:
        yield (
            "# With those of `support`, which the model runs as well, the "
            "truth was likelier."
        )
