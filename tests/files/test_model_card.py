import pytest
import yaml

from kmod.files.model_card import front_matter
from kmod.files.model_card import numbers

NAMES = [
    "cifar10",
    "name/data.set-1_x",
    "photos of cats",
    "../photos",
    "-a",
    "a-",
    "a--b",
    "a..b",
    "a.git",
    "a/b/c",
    "é",
    "a" * 97,
    "a\nb",
    "",
]


@pytest.mark.parametrize("license", [None, "MIT", "MIT OR GPL-3.0-only"])
def test_front_matter_is_what_hugging_face_reads(license):
    hub = pytest.importorskip(
        "huggingface_hub", reason="needs the extra `remote`"
    )
    text = front_matter(license, NAMES, [None, *NAMES, "cifar10"])
    card = hub.ModelCard(f"{text}\n# Title\n", ignore_metadata_errors=False)
    data = yaml.safe_load(text.strip("-\n"))
    assert card.data.to_dict() == data
    hub.ModelCardData(**data, ignore_metadata_errors=False)
    assert data["datasets"] == data["base_model"] == NAMES[:2]
    for name in data["datasets"]:
        hub.utils.validate_repo_id(name)
    for name in NAMES[2:]:
        with pytest.raises(hub.errors.HFValidationError):
            hub.utils.validate_repo_id(name)


def test_numbers_are_named_by_their_path():
    data = {"before": {"accuracy": 0.5, "name": "x"}, "macs": 3}
    assert list(numbers(data)) == [("before accuracy", 0.5), ("macs", 3)]
