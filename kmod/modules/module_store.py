"""Module stores: directories of the modules of one source model.

A module is a SavedModel with the Keras archive in its `assets.extra`. Keras is
imported when the first is saved or loaded, so that manifests can be read
without waiting for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import shutil
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import atomic_directory
from kmod.files import bytes_digest
from kmod.files import check_files
from kmod.files import file_record
from kmod.files import is_sealed
from kmod.files import list_files
from kmod.files import read_again_if_replaced
from kmod.files import slugs
from kmod.files.custom_layers import custom_layers_scope
from kmod.files.custom_layers import given_custom_layers
from kmod.files.model_card import CARD_FILE
from kmod.files.plain_yaml import broken
from kmod.files.remote import is_url
from kmod.files.remote import split_pin
from kmod.modules.adaptation import comparison_images
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import SCORE_LAYER
from kmod.modules.class_module import ClassModule
from kmod.modules.class_module import ModuleInfo
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import MODULE_FILE
from kmod.modules.manifest import STORE_FILE
from kmod.modules.manifest import CalibrationImages
from kmod.modules.manifest import ModuleRecord
from kmod.modules.manifest import ModuleSizes
from kmod.modules.manifest import StoreManifest
from kmod.modules.manifest import read_module_manifest
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_module_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.modules.remote_store import fetch_store

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kmod.modules.familiarity import Familiarity

ARCHIVE_FILE = "assets.extra/module.keras"


@dataclasses.dataclass(frozen=True)
class StoreContent:
    """What a module store holds, before it is written.

    Attributes:
        modules: Modules of one source model, one for each class.
        manifest: What is known of them; its `modules` are filled in when they
            are written, and so is its `contract`.
        familiarity: What the source says of images by itself.
        source_path: File of the source model, if known.
        checks: Lines of the contract that its manifest does not tell.
    """

    modules: Sequence[ClassModule]
    manifest: StoreManifest
    familiarity: Familiarity | None = None
    source_path: Path | None = None
    checks: Sequence[Mapping[str, Any]] = ()


class ModuleStore:
    """The modules of one source model, by class name.

    A module is loaded when it is first asked for, and then kept. Get stores
    from `load_store` and `save_store`.

    Args:
        path: Directory of the store.
        manifest: Its manifest.
        url: Where it was fetched from. Defaults to nowhere.

    Example:

    ```python
    store = load_store("modules/cifar10-simcnn")
    for class_name in store:
        print(class_name, store.info(class_name).retention_rate)
    scores = store["cat"].model.predict(images)
    ```
    """

    def __init__(
        self, path: Path, manifest: StoreManifest, url: str | None = None
    ):
        self.path = path
        self.manifest = manifest
        self.url = url
        self._records = {item.class_name: item for item in manifest.modules}
        self._modules = {}
        self._custom_layers = given_custom_layers()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that the store has modules of."""
        return tuple(self._records)

    @property
    def place(self) -> str:
        """Where the store comes from: its URL, or else its path."""
        return self.url or str(self.path)

    @property
    def location(self) -> str:
        """What `load_store` opens it by, where it comes from a URL, too."""
        return f"{self.url}#{self.digest}" if self.url else str(self.path)

    @property
    def digest(self) -> str:
        """Digest of all that the store says and holds, its files included."""
        return self.manifest.digest

    def info(self, class_name: str) -> ModuleInfo:
        """Returns what is known of a module, without loading its model."""
        record = self._record(class_name)
        return read_module_manifest(self.path / record.directory, record).info

    def sizes(self, class_name: str) -> ModuleSizes:
        """Returns a module's sizes, from the store's manifest if there."""
        sizes = self._record(class_name).sizes
        return sizes or ModuleSizes.of(self.info(class_name))

    def content(self, class_name: str) -> str:
        """Returns the content digest of a module: which model it is."""
        return self._record(class_name).content

    def calibration_images(self, class_name: str) -> CalibrationImages | None:
        """Returns which images a module was calibrated on, where known."""
        return self._record(class_name).calibration

    @functools.cached_property
    def familiarity(self) -> Familiarity | None:
        """What the source says of images by itself; `None` in older stores.

        Raises:
            IntegrityError: If its file is not as it was written.
        """
        from kmod.modules.familiarity import read_familiarity

        if self.manifest.familiarity is None:
            return None
        path = self.path / FAMILIARITY_FILE
        return read_familiarity(self._familiarity_bytes(), path)

    def _familiarity_bytes(self):
        path, record = self.path / FAMILIARITY_FILE, self.manifest.familiarity
        if not path.is_file():
            raise broken(path, "it is missing")
        is_same = path.stat().st_size == record["size"]
        content = path.read_bytes() if is_same else b""
        if bytes_digest(content) != record["digest"]:
            raise broken(
                path, "its digest is not the one in the store's manifest"
            )
        return content

    def verify(self) -> None:
        """Checks every file of the store against the manifests.

        Raises:
            ArtifactError: If a manifest has a version that is not read here.
            IntegrityError: If anything was changed, removed or added.
        """
        known = {STORE_FILE, *(r.directory for r in self._records.values())}
        if self.manifest.familiarity is not None:
            known.add(FAMILIARITY_FILE)
            self._familiarity_bytes()
        files = list_files(self.path)
        files.pop(CARD_FILE, None)  # It is for people, who may edit it.
        found = {name.split("/")[0] for name in files}
        added = sorted(found - known)
        if added:
            raise IntegrityError(
                "A store holds only what its manifest names. Received: "
                f"{added} in '{self.path}'. Move them elsewhere."
            )
        for record in self._records.values():
            directory = self.path / record.directory
            manifest = read_module_manifest(directory, record)
            check_files(directory, manifest.files, MODULE_FILE)
            info = manifest.info
            self._check_kernels(info, directory)
            is_same = record.sizes in (None, ModuleSizes.of(info))
            is_same &= record.calibration in (None, CalibrationImages.of(info))
            if not is_same:
                raise broken(
                    self.path / STORE_FILE,
                    f"its figures of class {record.class_name!r} are not "
                    "those of the module",
                )

    def _check_kernels(self, info, directory):
        """Refuses kernels that the source of the store does not have."""
        for layer, kept in info.kept_kernels.items():
            count = self.manifest.kernels.get(layer, 0)
            if kept and kept[-1] >= count:
                raise broken(
                    directory / MODULE_FILE,
                    f"it keeps kernel {kept[-1]} of layer {layer!r}, of which "
                    f"the store's source has {count}",
                )

    def _record(self, class_name):
        if class_name in self._records:
            return self._records[class_name]
        close = difflib.get_close_matches(str(class_name), self._records, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ArtifactError(
            f"The store '{self.path}' has modules of the classes "
            f"{list(self._records)}. Received: class {class_name!r}.{hint}"
        )

    def __getitem__(self, class_name: str) -> ClassModule:
        if class_name not in self._modules:
            self._modules[class_name] = self.read(class_name)
        return self._modules[class_name]

    def read(self, class_name: str) -> ClassModule:
        """Returns a module without keeping it in memory for the next time.

        Args:
            class_name: Name of its class.

        Raises:
            ArtifactError: If there is none of this class, or its archive can
                not be loaded safely.
            IntegrityError: If it is not as it was written.
        """
        record = self._record(class_name)
        if class_name in self._modules:
            return self._modules[class_name]
        with custom_layers_scope(self._custom_layers):
            module = read_module(self.path / record.directory, record)
        _check_shapes(module, self.manifest.input)
        return module

    def __contains__(self, class_name: object) -> bool:
        return class_name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<ModuleStore '{self.path}' of {list(self._records)}>"


def load_store(
    path: str | Path, verify: bool = True, custom_layers: Sequence[type] = ()
) -> ModuleStore:
    """Opens a module store.

    Args:
        path: Directory of the store, or its URL with its digest,
            `URL#sha256:...`. Of a URL, the files that the store names are
            fetched into the cache once.
        verify: Whether to check all files now. If not, a module's files are
            checked when it is loaded. Defaults to `True`.
        custom_layers: Registered layer classes of your own that its modules
            may hold. Without them they may hold none but Keras' own.

    Raises:
        ArtifactError: If there is no store, or one of another version.
        IntegrityError: If it is not as it was written, or not the one of the
            URL's digest.
        UsageError: If a URL has no digest.
    """
    url = None
    if is_url(path):
        url, _ = split_pin(path)
        path = fetch_store(path)
    # Modules are loaded later, perhaps from another working directory.
    path = Path(path).absolute()

    def read():
        store = ModuleStore(path, read_store_manifest(path), url)
        if verify:
            store.verify()
        return store

    with custom_layers_scope(custom_layers):
        return read_again_if_replaced(path, read)


def split_class(text: str) -> tuple[str, str | None]:
    """Splits `STORE` or `STORE:CLASS` into the store and the class's name."""
    if is_url(text):
        url, pin, rest = text.partition("#sha256:")
        digest, colon, class_name = rest.partition(":")
        return f"{url}{pin}{digest}", class_name if colon else None
    path, colon, class_name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return text, None
    return path, class_name


def list_store(path: Path) -> dict[str, dict[str, Any]]:
    """Lists the files of a store, as `check_output` asks for them.

    Args:
        path: Directory of the store.

    Returns:
        `size` and `digest` of every file that its manifests name, by path, and
        of its card if nobody edited that.

    Raises:
        ArtifactError: If there is no store, or one of another version.
        IntegrityError: If a manifest is not as it was written.
    """
    manifest = read_store_manifest(path)
    files = {STORE_FILE: file_record(path / STORE_FILE)}
    if manifest.familiarity is not None:
        files[FAMILIARITY_FILE] = manifest.familiarity
    for record in manifest.modules:
        directory = path / record.directory
        manifest = read_module_manifest(directory, record)
        own = file_record(directory / MODULE_FILE)
        own = {**manifest.files, MODULE_FILE: own}
        files |= {f"{record.directory}/{name}": own[name] for name in own}
    card = path / CARD_FILE
    if card.is_file() and is_sealed(card):
        files[CARD_FILE] = file_record(card)
    return files


def save_store(
    path: str | Path, content: StoreContent, overwrite: bool = False
) -> ModuleStore:
    """Writes modules as a store, all of them or, on failure, nothing.

    Args:
        path: Directory to make.
        content: The modules and what is known of them.
        overwrite: Whether a store at `path` may be replaced that nobody
            changed.

    Returns:
        The store, opened.

    Raises:
        UsageError: If `path` can not be written, modules and manifest do not
            fit together, or a layer is neither Keras' own nor registered.
        ArtifactError: If a model holds layers that run code of their own.
        CheckError: If a module answers differently after saving.
    """
    from kmod.graph.sources import custom_layers_of
    from kmod.graph.sources import registered_name

    modules, manifest = content.modules, content.manifest
    _check_modules(modules, manifest)
    own = dict.fromkeys(
        kind for module in modules for kind in custom_layers_of(module.model)
    )
    names = tuple(sorted(map(registered_name, own)))
    images = comparison_images(manifest.input)
    directories = slugs(manifest.class_names)
    with atomic_directory(path, overwrite, list_store) as temporary:
        records = tuple(
            _write_module(
                temporary / directories[module.info.class_name], module, images
            )
            for module in modules
        )
        manifest = dataclasses.replace(
            manifest, modules=records, custom_layers=names
        )
        source = content.source_path
        if source is not None:
            source = seen_from(path, source)
        write_store_files(
            temporary, manifest, content.familiarity, source, content.checks
        )
    return load_store(path, custom_layers=own)


def add_familiarity(store: ModuleStore, *data: Any) -> ModuleStore:
    """Adds the familiarity of its source to a store, or replaces it.

    Compositions with modules of other sources then know which images are the
    source's; see `kmod.compose`.

    Args:
        store: The store. Its directory is replaced in one step.
        *data: `(images, labels)` or batched data of images like those that
            the source was trained on, or these themselves. Labels are indices
            of `store.manifest.class_names`; of a store of one class they are
            1 where an image shows it, else 0.

    Returns:
        The store, opened anew.

    Raises:
        UsageError: If there are no images of any class, they lie outside the
            store's value range, or the store holds files that are not its own
            or was fetched from a URL.
        IntegrityError: If the store is not as it was written.
        ValueError: If labels are not of the store's classes.

    Example:

    >>> store = kmod.load_store("modules/cifar10-simcnn")
    >>> store = kmod.add_familiarity(store, (x_train, y_train))
    """
    from kmod.modules.familiarity import familiarity_of_store

    check_own(store)
    familiarity = familiarity_of_store(store.manifest, data)
    with atomic_directory(store.path, True, list_store) as temporary:
        for record in store.manifest.modules:
            directory = record.directory
            shutil.copytree(store.path / directory, temporary / directory)
        write_store_files(
            temporary, store.manifest, familiarity, *_contract_of(store)
        )
    return load_store(store.path, custom_layers=store._custom_layers)


def check_own(store: ModuleStore) -> None:
    """Refuses to change a store that was fetched, or that is damaged.

    Raises:
        IntegrityError: If the store is not as it was written.
        UsageError: If it was fetched from a URL.
    """
    if store.url is not None:
        raise UsageError(
            "A store that was fetched stays as it was pinned. Received: "
            f"'{store.url}', kept at '{store.path}'. Copy that directory, and "
            "give the copy."
        )
    store.verify()


def _contract_of(store):
    """The source's file and the lines of a contract that no manifest tells."""
    from kmod.modules.contract import further_checks

    contract = store.manifest.contract
    return (contract or {}).get("source"), further_checks(contract)


def seen_from(path: str | Path, file: Path) -> str:
    """Returns a file's path from a directory that may be made later."""
    seen = os.path.relpath(file.resolve(), os.path.realpath(path))
    return Path(seen).as_posix()


def write_store_files(
    directory: Path,
    manifest: StoreManifest,
    familiarity: Familiarity | None,
    source: str | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes the two files of a store that are of all modules.

    Args:
        directory: Where its modules lie.
        manifest: What it says; `familiarity` and `contract` are filled in.
        familiarity: What the source says of images by itself, if known.
        source: Path of the source model's file from the store, if known.
        checks: Lines of the contract that the manifest does not tell.
    """
    from kmod.modules.contract import contract_of
    from kmod.modules.familiarity import write_familiarity

    record = None
    if familiarity is not None:
        path = directory / FAMILIARITY_FILE
        write_familiarity(path, familiarity)
        record = file_record(path) | {"num_images": familiarity.num_images}
    manifest = dataclasses.replace(manifest, familiarity=record)
    contract = contract_of(manifest, source, checks)
    manifest = dataclasses.replace(manifest, contract=contract)
    write_store_manifest(directory, manifest)


def read_module(
    directory: Path, record: ModuleRecord | None = None
) -> ClassModule:
    """Loads a module, after the digests of its files are checked.

    Args:
        directory: Directory of the module.
        record: What the store's manifest says of the module. Defaults to
            what the store around it says, if there is one.

    Raises:
        ArtifactError: If the archive can not be loaded safely.
        IntegrityError: If the files or the model are not those recorded.
    """
    from kmod.export.keras_file import load_keras_file
    from kmod.graph.content import content_digest

    manifest = read_module_manifest(directory, record)
    check_files(directory, manifest.files, MODULE_FILE)
    model = load_keras_file(
        directory / ARCHIVE_FILE, recorded=manifest.files.get(ARCHIVE_FILE)
    )
    recorded, content = (record or manifest).content, content_digest(model)
    if content != recorded:
        raise IntegrityError(
            f"The module of class {manifest.info.class_name!r} in "
            f"'{directory}' must be the model {recorded}. Received: {content}. "
            "Copy the store again, or make it again."
        )
    names = {layer.name for layer in model.layers}
    if missing := sorted({CALIBRATION_LAYER, SCORE_LAYER} - names):
        raise ArtifactError(
            f"A module ends in the layers '{CALIBRATION_LAYER}' and "
            f"'{SCORE_LAYER}'. Received: '{directory}' without {missing}. "
            "Make it again."
        )
    return ClassModule(model, manifest.info)


def _check_shapes(module, contract):
    """Refuses a module that its store's input contract does not describe."""
    model = module.model
    wanted = [(None, *contract.shape)], [(None, 1)]
    shapes = [x.shape for x in model.inputs], [y.shape for y in model.outputs]
    if shapes != wanted:
        raise ArtifactError(
            "A module takes the images of its store's input contract and "
            f"answers with one score: {wanted[0]} -> {wanted[1]}. Received: "
            f"the module of class {module.info.class_name!r} with {shapes[0]} "
            f"-> {shapes[1]}. Make the store again."
        )


def _check_modules(modules, manifest):
    names = [module.info.class_name for module in modules]
    if len(set(names)) < len(names):
        raise UsageError(
            "`modules` must hold one for each class at most. Received: "
            f"modules of {names}."
        )
    for module in modules:
        info = module.info
        if info.class_name not in manifest.class_names:
            raise UsageError(
                "`modules` must be of the manifest's classes "
                f"{list(manifest.class_names)}. Received: a module of class "
                f"{info.class_name!r}."
            )
        if info.source_digest != manifest.source.digest:
            raise UsageError(
                "`modules` must come from the manifest's source model "
                f"{manifest.source.digest}. Received: the module of class "
                f"{info.class_name!r} from {info.source_digest}."
            )
        try:
            _check_shapes(module, manifest.input)
        except ArtifactError as error:
            raise UsageError(str(error)) from error


def stored_answers(model: keras.Model, images: np.ndarray) -> tuple[float, ...]:
    """Returns what a module answers, for `ModuleInfo.answers`."""
    from kmod.data.streaming import predict
    from kmod.modules.cut import log_odds_model

    return tuple(predict(log_odds_model(model), images)[:, 0].tolist())


def _write_module(directory, module, images):
    """Writes a module and returns its record, if it answers the same."""
    from kmod.export.write import write_forms
    from kmod.graph.content import content_digest

    model, info = module.model, module.info
    archive = directory / ARCHIVE_FILE
    archive.parent.mkdir(parents=True)
    paths = {"savedmodel": directory, "keras": archive}
    write_forms(model, (info.class_name,), paths, images)
    content = content_digest(model)
    info = dataclasses.replace(info, answers=stored_answers(model, images))
    return ModuleRecord(
        class_name=info.class_name,
        class_index=info.class_index,
        directory=directory.name,
        content=content,
        manifest=write_module_manifest(directory, info, content),
        sizes=ModuleSizes.of(info),
        calibration=CalibrationImages.of(info),
    )
