import dataclasses

import keras
import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.modules.module_store import save_store


def with_model(module, change):
    model = keras.models.clone_model(module.model)
    return dataclasses.replace(module, model=change(model) or model)


def with_info(module, **changes):
    info = dataclasses.replace(module.info, **changes)
    return dataclasses.replace(module, info=info)


def add_lambda(model):
    score = keras.layers.Lambda(lambda x: x, output_shape=(1,))(model.output)
    return keras.Model(model.input, score)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            lambda module: with_info(module, class_name="zebra"),
            UsageError,
            "manifest's classes .* Received: a module of class 'zebra'",
            id="class",
        ),
        pytest.param(
            lambda module: with_info(module, class_index=2),
            UsageError,
            "class 'cat' has index 2, but the classes are",
            id="index",
        ),
        pytest.param(
            lambda module: with_info(module, source_digest="sha256:1"),
            UsageError,
            "manifest's source model .* 'cat' from sha256:1",
            id="source",
        ),
        pytest.param(
            lambda module: with_info(module, retention_rate=1.5),
            UsageError,
            r"retention_rate: 1.5 is greater than the maximum of 1",
            id="info",
        ),
        pytest.param(
            lambda module: with_model(
                module,
                lambda m: keras.Model(m.input, m.get_layer("pool").output),
            ),
            UsageError,
            r"answers with one score: .* Received: .* 'cat' with .*\(None, 3\)",
            id="shape",
        ),
        pytest.param(
            lambda module: with_model(module, add_lambda),
            ArtifactError,
            "built-in Keras layers .* Received: .*keras.layers.Lambda",
            id="lambda",
        ),
        pytest.param(
            lambda module: with_model(
                module,
                lambda m: m.set_weights([w * np.nan for w in m.get_weights()]),
            ),
            CheckError,
            "SavedModel of a module must answer as .* weights that are not",
            id="not-finite",
        ),
    ],
)
def test_unfit_module_is_not_saved(
    modules, manifest, tmp_path, change, error, message
):
    with pytest.raises(error, match=message):
        save_store(tmp_path / "store", [change(modules[1])], manifest)
    assert not list(tmp_path.iterdir())
