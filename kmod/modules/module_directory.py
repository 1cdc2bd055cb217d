"""One module on disk: a SavedModel with the Keras archive in `assets.extra`."""

from pathlib import Path

import keras
import numpy as np

from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import check_files
from kmod.graph.content import content_digest
from kmod.modules.class_module import ClassModule
from kmod.modules.keras_archive import load_keras_archive
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import ModuleRecord
from kmod.modules.module_manifest import MODULE_FILE
from kmod.modules.module_manifest import module_facts
from kmod.modules.module_manifest import read_module_manifest
from kmod.modules.module_manifest import write_module_manifest
from kmod.modules.savedmodel import export_saved_model
from kmod.modules.savedmodel import load_saved_model

ARCHIVE_FILE = "assets.extra/module.keras"
# Scores lie between 0 and 1, so this is relative to their scale.
TOLERANCE = 1e-5


def write_module(
    directory: Path, module: ClassModule, contract: InputContract
) -> ModuleRecord:
    """Writes a module and checks that what was written answers the same.

    Args:
        directory: Directory to write into; its name goes into the record.
        module: Module to write.
        contract: What images the module takes.

    Returns:
        What the store's manifest says of the module.

    Raises:
        UsageError: If the model does not take such images, or has not one
            score.
        ArtifactError: If the model holds other than built-in layers.
        CheckError: If the model, the SavedModel and the archive differ.
    """
    _check_shapes(module, contract)
    archive = directory / ARCHIVE_FILE
    export_saved_model(module.model, directory)
    archive.parent.mkdir()
    module.model.save(archive)
    _check_answers(directory, module, contract)
    content = content_digest(module.model)
    return ModuleRecord(
        class_name=module.info.class_name,
        class_index=module.info.class_index,
        directory=directory.name,
        content=content,
        manifest=write_module_manifest(directory, module.info, content),
        facts=module_facts(module.info),
    )


def read_module(directory: Path, record: ModuleRecord) -> ClassModule:
    """Loads a module, after the digests of its files are checked.

    Args:
        directory: Directory of the module.
        record: What the store's manifest says of the module.

    Raises:
        ArtifactError: If the archive can not be loaded safely.
        IntegrityError: If the files or the model are not those recorded.
    """
    manifest = read_module_manifest(directory, record)
    check_files(directory, manifest.files, MODULE_FILE)
    model = load_keras_archive(directory / ARCHIVE_FILE)
    content = content_digest(model)
    if content != record.content:
        raise IntegrityError(
            f"The module of class {record.class_name!r} in '{directory}' must "
            f"be the model {record.content}. Received: {content}. Copy the "
            "store again, or make it again."
        )
    return ClassModule(model, manifest.info)


def _check_shapes(module, contract):
    model = module.model
    wanted = [(None, *contract.shape)], [(None, 1)]
    shapes = [tensor.shape for tensor in model.inputs], [
        tensor.shape for tensor in model.outputs
    ]
    if shapes != wanted:
        raise UsageError(
            "A module takes the images of its store's input contract and "
            f"answers with one score: {wanted[0]} -> {wanted[1]}. Received: "
            f"the module of class {module.info.class_name!r} with "
            f"{shapes[0]} -> {shapes[1]}."
        )


def _check_answers(directory, module, contract):
    import tensorflow as tf

    images = _random_images(contract)
    reloaded = load_keras_archive(directory / ARCHIVE_FILE)
    with tf.device("CPU"):  # GPUs may round each call in another way.
        exported = load_saved_model(directory)
        expected = _answer(module.model, images)
        answers = {
            "SavedModel": exported.serve(images)["score"].numpy(),
            "Keras archive": _answer(reloaded, images),
        }
    for form, scores in answers.items():
        if not np.allclose(scores, expected, rtol=0, atol=TOLERANCE):
            raise CheckError(
                f"The {form} of a module must answer as the module does, "
                f"within {TOLERANCE}. Received: class "
                f"{module.info.class_name!r} with {scores.ravel().tolist()} "
                f"instead of {expected.ravel().tolist()}. Check the model for "
                "weights that are not finite and for layers that are random "
                "at inference."
            )


def _answer(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def _random_images(contract):
    low, high = contract.range
    values = np.random.default_rng(0).uniform(low, high, (4, *contract.shape))
    return keras.ops.cast(values, contract.dtype)
