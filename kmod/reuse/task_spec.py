"""Writes the spec of a new model from the modules chosen for it."""

from collections.abc import Sequence
from pathlib import Path

from kmod.files import atomic_write
from kmod.files import check_output_file
from kmod.files import seal
from kmod.reuse.module_choice import ModuleChoice
from kmod.spec.loader import parse_spec
from kmod.spec.model import ClassEntry
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import Scores
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.writer import spec_data
from kmod.spec.writer import spec_text


def task_spec(
    choice: ModuleChoice,
    path: str | Path,
    data: Sequence[DataRef],
    *,
    images_per_class: int,
    contract: InputSpec | None = None,
    overwrite: bool = False,
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
        overwrite: Whether a spec at `path` may be replaced that this function
            wrote and nobody edited.

    Returns:
        The spec, as `load_spec` reads it.

    Raises:
        UsageError: If something is at `path` that may not be replaced.
    """
    path = Path(path).resolve()
    check_output_file(path, overwrite)
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
    text = spec_text(spec_data(spec), path)
    text = seal("\n".join([*_comments(choice, ids), text]))
    written = parse_spec(text.encode("utf-8"), path)
    atomic_write(path, text)
    return written


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
