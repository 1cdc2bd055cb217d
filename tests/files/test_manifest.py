import numpy as np
import pytest

from kmod.errors import IntegrityError
from kmod.files import file_digest
from kmod.files.manifest import list_sealed
from kmod.files.manifest import to_plain
from kmod.files.manifest import write_sealed


def test_numpy_values_become_plain():
    data = {"a": np.float32(0.5), "b": np.arange(2), 3: (np.bool_(True),)}
    plain = to_plain(data)
    assert plain == {"a": 0.5, "b": [0, 1], "3": [True]}
    assert type(plain["a"]) is float
    assert type(plain["3"][0]) is bool


def test_other_objects_have_no_plain_form():
    with pytest.raises(TypeError, match="Received: .* of type set"):
        to_plain({"a": {1, 2}})


def test_sealed_manifest_lists_its_files_and_itself(tmp_path):
    path = tmp_path / "export.yaml"
    files = {"a/b": {"size": 1, "digest": "sha256:0"}}
    write_sealed(path, {"version": 1, "files": files})
    own = {"size": path.stat().st_size, "digest": file_digest(path)}
    assert list_sealed(path) == {**files, "export.yaml": own}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda text: text.replace("size: 1", "size: 2"), id="edit"
        ),
        pytest.param(lambda text: text.partition("digest: sha")[0], id="cut"),
        pytest.param(lambda text: "- 1", id="list"),
        pytest.param(lambda text: "", id="empty"),
    ],
)
def test_changed_manifest_is_refused(tmp_path, change):
    path = tmp_path / "export.yaml"
    write_sealed(path, {"files": {"a": {"size": 1}}})
    path.write_text(change(path.read_text()))
    with pytest.raises(IntegrityError, match="does not match its own digest"):
        list_sealed(path)
