import pytest

from kmod.errors import UsageError
from kmod.files import check_output_file
from kmod.files import seal


def test_new_file_may_be_written(tmp_path):
    check_output_file(tmp_path / "spec.yaml")


def test_sealed_file_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(seal("# why\nname: grüße\n"), encoding="utf-8")
    check_output_file(path, overwrite=True)
    with pytest.raises(UsageError, match="output file must be new"):
        check_output_file(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text + "# mine\n", id="line-added"),
        pytest.param(lambda text: text.replace("pets", "cats"), id="edited"),
        pytest.param(lambda text: text.partition("\n")[0], id="seal-removed"),
        pytest.param(lambda text: "# mine\n" + text, id="line-in-front"),
        pytest.param(lambda text: "", id="empty"),
    ],
)
def test_edited_file_is_never_replaced(tmp_path, change):
    path = tmp_path / "spec.yaml"
    path.write_text(change(seal("name: pets\n")))
    with pytest.raises(UsageError, match="wrote and nobody edited can be"):
        check_output_file(path, overwrite=True)


def test_directory_is_never_replaced_by_a_file(tmp_path):
    with pytest.raises(UsageError, match="which is another"):
        check_output_file(tmp_path, overwrite=True)
