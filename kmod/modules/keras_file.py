"""Reads the `.keras` files that users bring."""

from pathlib import Path

import keras

from kmod.errors import ArtifactError


def load_keras_file(path: str | Path) -> keras.Model:
    """Loads a model in safe mode, so that no code in the file runs.

    Args:
        path: A `.keras` file. HDF5 files and SavedModels are not accepted:
            safe mode does not guard them.

    Returns:
        The model, not compiled.

    Raises:
        ArtifactError: If there is no such file, if it is of another format or
            damaged, or if it needs code of its own.
    """
    path = Path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise ArtifactError(
            "A model is an existing `.keras` file. Received: "
            f"'{path}'{_what_it_is(path)}. Save the model with "
            "`model.save('name.keras')`."
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras has no common class for its errors.
        raise ArtifactError(
            f"'{path}' can not be loaded by Keras {keras.__version__} in safe "
            f"mode: {_first_line(error)} Save it again, without Lambda layers "
            "and custom classes."
        ) from error


def _what_it_is(path):
    if not path.exists():
        return ", which does not exist"
    return ", a directory" if path.is_dir() else ", a file of another kind"


def _first_line(error):
    return str(error).strip().partition("\n")[0].rstrip(".") + "."
