"""The model card of a module store, for those who find it on a hub."""

import shutil

from kmod.files import atomic_directory
from kmod.files import seal
from kmod.files.model_card import CARD_FILE
from kmod.files.model_card import escaped
from kmod.files.model_card import front_matter
from kmod.files.model_card import markdown_table
from kmod.files.model_card import numbers
from kmod.modules.module_store import ARCHIVE_FILE
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import check_own
from kmod.modules.module_store import list_store

_LOADING = """\
In a composition spec, with `path` as it is where you found this card:

```yaml
stores:
  modules:
    path: "hf://USER/NAME"
    digest: "{digest}"
```

In Python:

```python
import kmod

store = kmod.load_store("hf://USER/NAME#{digest}")
module = store[store.class_names[0]].model
```
"""
_ALONE = """\
A module by itself, as a Keras model of built-in layers, without kmod:

```python
import keras

module = keras.saving.load_model("{archive}", safe_mode=True)
```
"""


def store_card(store: ModuleStore) -> str:
    """Returns the model card of a store, as the Hugging Face Hub reads it.

    Args:
        store: The store. Only its manifests are read.

    Returns:
        Markdown after a YAML front matter.
    """
    manifest = store.manifest
    rows = [
        (
            name,
            f"{sizes.retention_rate:.1%}",
            f"{sizes.parameters:,}",
            f"{sizes.macs:,}",
        )
        for name in store
        for sizes in [store.sizes(name)]
    ]
    figures = [
        (name, f"{value:,.4f}".rstrip("0").rstrip("."))
        for name, value in numbers(manifest.metrics)
    ]
    sections = [
        front_matter(
            manifest.license,
            [manifest.data.get("name")],
            [manifest.source.name],
        ),
        f"# Modules of {escaped(manifest.source.name)}\n",
        _introduction(manifest),
        "## Modules\n",
        markdown_table(
            ("class", "kernels kept", "parameters", "MACs for one image"), rows
        ),
        "## Figures\n",
        markdown_table(("figure", "value"), figures),
        "## How to load them\n",
        _LOADING.format(digest=store.digest),
    ]
    if not manifest.custom_layers:
        archive = f"{manifest.modules[0].directory}/{ARCHIVE_FILE}"
        sections.append(_ALONE.format(archive=archive))
    return "\n".join(sections)


def add_card(store: ModuleStore) -> None:
    """Writes the card of a store into it, in the place of one nobody edited.

    The digest of the store stays: a card is no part of what it covers.

    Args:
        store: The store. Its directory is replaced in one step.

    Raises:
        IntegrityError: If the store is not as it was written.
        UsageError: If the store was fetched from a URL, or holds a card that
            was edited.
    """
    check_own(store)
    card = seal(store_card(store), "<!-- {} -->")
    with atomic_directory(store.path, True, list_store) as temporary:
        shutil.copytree(store.path, temporary, dirs_exist_ok=True)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")


def _introduction(manifest):
    contract = manifest.input
    shape = "x".join(str(size) for size in contract.shape)
    low, high = contract.range
    data = manifest.data.get("name")
    trained = f", trained on {escaped(data)}" if data else ""
    if manifest.method == "import":
        opening = "Keras models that kmod took, with all kernels, from"
        method = ""
    else:
        opening = "Small Keras models that kmod cut from"
        method = f" The kernels were found by {escaped(manifest.method)}."
    return (
        f"{opening} {escaped(manifest.source.name)}"
        f" ({escaped(manifest.source.architecture)}){trained}: one for each of "
        f"{len(manifest.modules)} classes, which answers how likely an image "
        "shows it. New classifiers are composed of them without training. They "
        f"take {contract.dtype} images of {shape} with values from {low:g} to "
        f"{high:g}.{method}\n"
    )
