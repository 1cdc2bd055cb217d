import csv
import dataclasses
import os
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

from kmod.data import disk_arrays
from kmod.data import own_images
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.data.load import load_unlabelled
from kmod.data.load import select_classes
from kmod.data.subsets import class_subset
from kmod.errors import ArtifactError
from kmod.errors import UsageError

SIZE = (8, 8)
CLASSES = ("10", "2", "ant", "zebra")
GREY = {"image_size": SIZE, "color_mode": "grayscale"}


def save_images(folder, digits, classes=CLASSES, count=10):
    """Saves `count` digits a class, those of label i as the class i."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        images = digits.train.images[digits.train.labels == label][:count]
        for index, image in enumerate(images):
            keras.utils.save_img(
                folder / name / f"{index}.png", image, scale=False
            )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ten_digits):
    return save_images(tmp_path_factory.mktemp("data") / "photos", ten_digits)


@pytest.fixture
def splits(tmp_path, ten_digits):
    """A folder that is already split."""
    for name, count in {"train": 10, "val": 3, "test": 2}.items():
        save_images(tmp_path / "photos" / name, ten_digits, count=count)
    return tmp_path / "photos"


def pairs(part):
    """Labels and images in an order that is not that of reading them."""
    return sorted(zip(part.labels.tolist(), map(bytes, part.images)))


def sizes(data):
    return [len(getattr(data, split)) for split in own_images.SPLITS]


def test_folder_of_classes_is_split_by_a_seed(folder):
    data, other = load_data(folder, **GREY), load_data(folder, **GREY, seed=1)
    assert data.class_names == CLASSES
    assert (data.name, data.value_range) == ("photos", (0.0, 255.0))
    assert sizes(data) == [25, 7, 8]
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2, 2]
    assert np.bincount(data.validation.labels, minlength=4).min() >= 1
    np.testing.assert_array_equal(data.test.images, other.test.images)
    assert not np.array_equal(data.train.images, other.train.images)
    assert data.version == load_data(folder, **GREY).version != other.version


def test_folders_of_splits_are_taken_as_they_are(splits, ten_digits):
    data = load_data(str(splits), **GREY)
    assert sizes(data) == [40, 12, 8]
    expected = [
        ten_digits.train.images[ten_digits.train.labels == label][:2]
        for label in range(4)
    ]
    expected = np.concatenate(expected), np.repeat(np.arange(4), 2)
    assert pairs(data.test) == pairs(LabelledImages(*expected))
    assert len(set(data.test.labels[:4].tolist())) > 2  # They are mixed.


@pytest.mark.parametrize("color_mode", ["grayscale", "rgb"])
def test_images_are_those_that_keras_reads(splits, color_mode):
    size = (12, 10)
    data = load_data(splits, image_size=size, color_mode=color_mode)
    read = keras.utils.image_dataset_from_directory(
        splits / "test",
        image_size=size,
        color_mode=color_mode,
        shuffle=False,
        verbose=False,
    )
    ((images, labels),) = read.as_numpy_iterator()
    assert data.class_names == tuple(read.class_names)
    images = np.round(images).astype("uint8")
    assert pairs(data.test) == pairs(LabelledImages(images, labels))


@pytest.mark.parametrize("color_mode", own_images.CHANNELS)
@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png"])
def test_every_form_of_file_in_every_color_mode(tmp_path, suffix, color_mode):
    ramp = np.add.outer(np.arange(8), np.arange(8))[..., None] * 18.0
    image = np.concatenate([ramp, 255 - ramp, 0 * ramp], axis=-1)
    grey = image @ [0.299, 0.587, 0.114]
    keras.utils.save_img(tmp_path / f"a.{suffix}", image, scale=False)
    data = load_unlabelled(tmp_path, image_size=SIZE, color_mode=color_mode)
    found = data.images[0].astype("float32")
    expected = {
        "grayscale": grey[..., None],
        "rgb": image,
        "rgba": np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=255),
    }[color_mode]
    assert np.abs(found - expected).mean() < (20 if suffix == "jpg" else 4)


def test_a_class_may_be_called_train(tmp_path, ten_digits):
    path = save_images(tmp_path, ten_digits, ("bus", "train"))
    assert load_data(path, **GREY).class_names == ("bus", "train")


def test_without_a_test_folder_there_are_no_test_images(tmp_path, ten_digits):
    save_images(tmp_path / "train", ten_digits)
    data = load_data(tmp_path, **GREY)
    assert sizes(data) == [32, 8, 0]
    with pytest.raises(ArtifactError, match="without test images. Add them"):
        data.images_of("test")


def test_broken_and_other_files_are_named_and_left_out(splits, caplog):
    clean = load_data(splits, **GREY)
    assert not caplog.records
    (splits / "train" / "2" / "00.png").write_bytes(b"no image")
    image = (splits / "train" / "ant" / "0.png").read_bytes()
    (splits / "train" / "ant" / "0a.png").write_bytes(image[:60])
    (splits / "train" / "zebra" / "notes.txt").write_text("striped")
    (splits / "train" / "zebra" / ".hidden").write_text("")
    data = load_data(splits, **GREY)
    (record,) = caplog.records
    message = record.getMessage()
    assert (
        "left out 3 of 63 files, 2 that can not be read as images and 1 of "
        "other kinds: " in message
    )
    for name in ("2/00.png", "ant/0a.png", "zebra/notes.txt"):
        assert os.path.join("train", name) in message
    assert ".hidden" not in message
    assert pairs(data.train) == pairs(clean.train)


def test_few_of_many_broken_files_are_named(splits, caplog):
    for index in range(5):
        (splits / "test" / "ant" / f"b{index}.png").write_bytes(b"")
    load_data(splits, **GREY)
    assert caplog.text.rstrip().endswith(
        "b0.png, %s, %s, …"
        % tuple(
            os.path.join("test", "ant", f"b{index}.png") for index in (1, 2)
        )
    )


@pytest.mark.parametrize("splits_of_file", [False, True])
def test_table_of_paths(folder, splits, tmp_path, splits_of_file):
    root = splits if splits_of_file else folder
    table = tmp_path / "table.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path", "split"][: 2 + splits_of_file])
        for path in sorted(root.rglob("*.png")):
            relative = os.path.relpath(path, tmp_path)
            writer.writerow(
                [path.parent.name, relative, path.parts[-3]][
                    : 2 + splits_of_file
                ]
            )
    data, expected = load_data(table, **GREY), load_data(root, **GREY)
    assert data.class_names == CLASSES
    assert data.version == expected.version


@pytest.mark.parametrize(
    "names",
    [
        pytest.param("x_{} y_{}", id="keras"),
        pytest.param("{}_images {}_labels", id="images-labels"),
    ],
)
def test_arrays_of_a_file(tmp_path, ten_digits, names):
    arrays = {}
    for short, split in {"train": "train", "val": "validation"}.items():
        images, labels = (name.format(short) for name in names.split())
        part = getattr(ten_digits, split)
        arrays |= {images: part.images[..., 0], labels: part.labels[:, None]}
    np.savez(tmp_path / "digits.npz", **arrays)
    data = load_data(tmp_path / "digits.npz")
    assert data.class_names == tuple("0123456789")
    assert sizes(data) == [1149, 288, 0]
    for split in ("train", "validation"):
        found, expected = getattr(data, split), getattr(ten_digits, split)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("names", [["c", "ä", "b"], [b"c", "ä".encode(), b"b"]])
def test_class_names_and_range_of_a_file(tmp_path, digits, names):
    np.savez(
        tmp_path / "three.npz",
        x_train=digits.train.images / np.float32(255),
        y_train=digits.train.labels,
        x_test=digits.test.images / np.float32(255),
        y_test=digits.test.labels,
        class_names=np.array(names),
    )
    data = load_data(tmp_path / "three.npz")
    assert data.class_names == ("c", "ä", "b")
    assert data.value_range == (0.0, 1.0)
    assert len(data.test) == len(digits.test)
    assert len(data.train) + len(data.validation) == len(digits.train)


FUNCTION = """
    import numpy as np
    import tensorflow as tf

    IMAGES = np.arange(4 * 16, dtype="float32").reshape(4, 4, 4, 1)
    LABELS = [0, 1, 0, 1]

    def three():
        data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(3)
        data.class_names = ["dog", "cat"]
        return data, data.take(1), data

    def two():
        return three()[:2]

    def unbatched():
        return tuple(data.unbatch() for data in three())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module in the working directory."""
    name = f"photos_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(FUNCTION))
    monkeypatch.chdir(tmp_path)
    return name


def test_function_returns_the_splits(module):
    data = load_data(f"{module}:three")
    assert data.class_names == ("dog", "cat")
    assert sizes(data) == [4, 3, 4]
    assert data.value_range == (0.0, 63.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("two", r"must return \(train, validation, test\).* type tuple"),
        ("unbatched", r"Use `data.batch\(256\)`"),
        ("four", "has none of that name"),
    ],
)
def test_function_that_returns_something_else(module, function, message):
    with pytest.raises(ArtifactError, match=message):
        load_data(f"{module}:{function}")


def test_module_that_is_not_there():
    with pytest.raises(ArtifactError, match="No module named 'no_photos'"):
        load_data("no_photos:load")


def test_classes_are_taken_in_the_order_given(folder, ten_digits):
    data = load_data(folder, **GREY, classes=("zebra", "10"))
    whole = load_data(folder, **GREY)
    assert data.class_names == ("zebra", "10")
    assert sizes(data) == [12, 4, 4]
    zebras = whole.test.images[whole.test.labels == 3]
    np.testing.assert_array_equal(
        data.test.images[data.test.labels == 0], zebras
    )


@pytest.mark.parametrize("classes", [("lion", "ant"), ("ant",), ("2", "2")])
def test_classes_must_be_those_of_the_data(folder, classes):
    with pytest.raises(ArtifactError, match="two or more classes of the data"):
        load_data(folder, **GREY, classes=classes)


def edit_empty(path, digits):
    (path / "train" / "lion").mkdir()


def edit_unknown(path, digits):
    save_images(path / "test", digits, ["lion"])


def edit_broken(path, digits):
    for each in (path / "val" / "ant").iterdir():
        each.write_bytes(b"")


def edit_no_train(path, digits):
    (path / "train").rename(path / "validation")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_empty, r"Received: none in \['lion'\] of .* Remove"),
        (edit_unknown, r"'zebra'\], and \['lion'\] elsewhere"),
        (edit_broken, r"can be read. Received: none of \['ant'\]"),
        (edit_no_train, r"needs train. Received: \['test', 'val', 'valida"),
    ],
)
def test_folders_that_do_not_fit(splits, ten_digits, edit, message):
    edit(splits, ten_digits)
    with pytest.raises(ArtifactError, match=message):
        load_data(splits, **GREY)


@pytest.mark.parametrize(
    ("classes", "count", "message"),
    [
        (("ant",), 9, r"two classes or more.* with the classes \['ant'\]"),
        (("ant", "bee"), 4, r"least 5 images. Received: {'ant': 4, 'bee': 4}"),
        ((), 0, "without any image"),
    ],
)
def test_too_few_images(tmp_path, ten_digits, classes, count, message):
    save_images(tmp_path, ten_digits, classes, count)
    with pytest.raises(ArtifactError, match=message):
        load_data(tmp_path, **GREY)


def test_size_of_photos_must_be_said(folder):
    with pytest.raises(
        UsageError, match="brought to one size.*image_size=None"
    ):
        load_data(folder)


def test_size_is_not_that_of_arrays_to_choose():
    assert len(load_data("digits", image_size=(8, 8)).test) == 360
    with pytest.raises(UsageError, match=r"shape \(8, 8, 1\). Leave them out"):
        load_data("digits", image_size=(16, 16))
    with pytest.raises(UsageError, match="color_mode='rgb' for 'digits'"):
        load_data("digits", color_mode="rgb")


def test_what_the_disk_has_no_room_for_is_refused(folder, monkeypatch):
    monkeypatch.setattr(disk_arrays, "LIMIT", 1000)
    monkeypatch.setattr(disk_arrays, "_free", lambda: 2000)
    with pytest.raises(ArtifactError, match="photos', which takes 0 MiB, and"):
        load_data(folder, **GREY)


def save_arrays(path, data):
    np.savez(
        path,
        x_train=np.asfortranarray(data.train.images),
        y_train=data.train.labels,
        x_test=data.test.images,
        y_test=data.test.labels,
    )
    return path


@pytest.mark.parametrize("form", ["folder", "npz", "function"])
def test_what_is_too_large_for_memory_is_the_same_on_disk(
    folder, ten_digits, module, tmp_path, monkeypatch, form
):
    name, options = {
        "folder": (folder, GREY | {"classes": ("zebra", "10", "ant")}),
        "npz": (save_arrays(tmp_path / "a.npz", ten_digits), {}),
        "function": (f"{module}:three", {}),
    }[form]
    expected = load_data(name, **options)
    monkeypatch.setattr(disk_arrays, "LIMIT", 0)
    monkeypatch.setattr(disk_arrays, "PART", 1000)
    found = load_data(name, **options)
    assert found.version == expected.version
    assert found.value_range == expected.value_range
    for split in own_images.SPLITS:
        one, other = getattr(found, split), getattr(expected, split)
        assert isinstance(one.images, np.memmap)
        assert not isinstance(other.images, np.memmap)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.fixture
def paths_read(monkeypatch):
    """Notes the files that are read."""
    noted, read = [], own_images._read_images

    def noting(paths, shape):
        noted.extend(paths.tolist())
        return read(paths, shape)

    monkeypatch.setattr(own_images, "_read_images", noting)
    return noted


def test_classes_that_are_not_asked_for_are_not_read(folder, paths_read):
    data = load_data(folder, **GREY, classes=("zebra", "10"))
    assert len(paths_read) == sum(sizes(data)) == 20
    assert {Path(path).parent.name for path in paths_read} == {"zebra", "10"}
    whole = load_data(folder, **GREY)
    for split in own_images.SPLITS:  # The same images as without the choice.
        part = getattr(whole, split)
        expected = class_subset(part, [3, 0])
        found = getattr(data, split)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_a_split_may_lack_a_class(splits, caplog):
    for path in [*(splits / "val" / "ant").iterdir(), splits / "val" / "ant"]:
        path.unlink() if path.is_file() else path.rmdir()
    chosen = {**GREY, "classes": ("ant", "2")}
    test = load_data(splits, **chosen, splits=["test"]).test
    assert test.labels.tolist().count(0) == 2 and not caplog.text
    data = load_data(splits, **chosen)
    assert sizes(data) == [20, 3, 4] and set(data.validation.labels) == {1}
    assert "'photos' has no images of ['ant'] for validation" in caplog.text
    expected = select_classes(load_data(splits, **GREY), ["ant", "2"])
    for split in own_images.SPLITS:
        assert pairs(getattr(data, split)) == pairs(getattr(expected, split))
    with pytest.raises(ArtifactError, match=r"without any of \['x'\]. Leave"):
        names = ("ant", "2", "x")
        select_classes(dataclasses.replace(data, class_names=names), "x2")


def test_splits_that_are_not_asked_for_are_not_read(folder, paths_read):
    data = load_data(folder, **GREY, splits=["test"])
    assert sizes(data) == [0, 0, 8] and len(paths_read) == 8
    assert data.train.images.shape == (0, *SIZE, 1)
    whole = load_data(folder, **GREY)
    np.testing.assert_array_equal(data.test.images, whole.test.images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file,label\na.png,ant\n",
            r"columns \['file', 'label'\] and 1 images",
        ),
        ("path,label\n", "and 0 images"),
        ("path,label\na.png\n", "line 2 of"),
        ("path,label,split\na.png,ant,dev\n", "train, validation or test"),
        ("path,label,split\na.png,ant,test\n", "must have images of the split"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        load_data(tmp_path / "a.csv", **GREY)


def test_table_in_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes("path,label\nä.png,ä\n".encode("latin-1"))
    with pytest.raises(ArtifactError, match="table in UTF-8. Received: "):
        load_data(tmp_path / "a.csv", **GREY)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": [1]}, r"must have the arrays `x_train`.*\['images'\]"),
        (
            {"x_train": np.zeros((2, 8, 8)), "y_train": [0, 1, 1]},
            "2 images and 3 labels",
        ),
        (
            {"x_train": np.zeros((2, 8, 8)), "y_train": [0, 0]},
            "two classes or more. Received: .* from 0 to 0",
        ),
        (
            {
                "x_train": np.zeros((2, 8, 8)),
                "y_train": [1, 2],
                "class_names": ["a", "b"],
            },
            r"from 1 to 2 for the 2 classes \['a', 'b'\]. Count",
        ),
        (
            {"x_train": np.zeros((2, 64)), "y_train": [0, 1]},
            r"of shape \(2, 64\) as 'x_train' in",
        ),
        (
            {"x_train": np.array([{}, {}]), "y_train": [0, 1]},
            "allow_pickle=False",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ArtifactError, match=message):
        load_data(tmp_path / "a.npz")


def test_file_of_another_form(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(ArtifactError, match="must have arrays of numbers"):
        load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["./photos", "a.csv", Path("photos")])
def test_path_where_nothing_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="which is not there. Look at"):
        load_data(name, **GREY)


def test_prepared_data_set_comes_before_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("mnist", "data/mnist"):
        Path(path).mkdir(parents=True)
    assert own_images.own_path("mnist") == Path("mnist")
    assert own_images.own_path("mnist", "data") is None
    assert own_images.own_path("digits") is None


@pytest.mark.parametrize(
    "split, count", [(None, 40), ("train", 25), ("test", 8)]
)
def test_folders_inside_mean_nothing_without_labels(folder, split, count):
    found = load_unlabelled(folder, split=split, **GREY)
    assert (len(found), found.name) == (count, "photos")
    assert (found.images.dtype, found.value_range) == ("uint8", (0.0, 255.0))


def test_images_without_labels_may_lie_anywhere(tmp_path, folder, caplog):
    photos = sorted(folder.rglob("*.png"))[:3]
    for name, photo in zip(("a", "b/c", ".hidden"), photos):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").write_bytes(photo.read_bytes())
    (tmp_path / "b" / "broken.jpg").write_bytes(b"")
    (tmp_path / "b" / "notes.txt").write_text("")
    found = load_unlabelled(tmp_path, **GREY)
    assert len(found) == 2
    assert "left out 2 of 4 files" in caplog.text


def test_split_of_images_without_labels_is_its_folder(splits):
    counts = {None: 40, "train": 40, "validation": 12, "test": 8}
    for split, count in counts.items():
        assert len(load_unlabelled(splits, split=split, **GREY)) == count


@pytest.mark.parametrize(
    "names, split, found",
    [
        (("photos",), None, "photos"),
        (("images", "other"), None, "images"),
        (("x_train", "y_train", "x_test", "y_test"), None, "x_train"),
        (("x_train", "x_test"), "test", "x_test"),
    ],
    ids=["one", "named", "labelled", "split"],
)
def test_arrays_without_labels(tmp_path, names, split, found):
    path = tmp_path / "photos.npz"
    arrays = {
        name: np.full((3, *SIZE), [[[index]], [[90]], [[200]]], "uint8")
        for index, name in enumerate(names)
    }
    np.savez(path, **arrays)
    images = load_unlabelled(path, split=split).images
    assert images.shape == (3, *SIZE, 1)
    assert images[0, 0, 0, 0] == arrays[found][0, 0, 0]


def test_limit_draws_the_same_images_from_all(folder):
    first, again = (
        load_unlabelled(folder, limit=5, **GREY).images for _ in range(2)
    )
    assert len(first) == 5
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"a": 1, "b": 2}, "or one of .*'x_train'.* Received: \\['a', 'b'\\]"),
        ({"a": np.zeros((0, 4, 4))}, "at least one. Received: float64"),
        ({"a": np.zeros((4, 4))}, r"Received: .* of shape \(4, 4\) as 'a'"),
    ],
    ids=["unknown", "none", "flat"],
)
def test_arrays_that_are_no_images(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ArtifactError, match=message):
        load_unlabelled(tmp_path / "a.npz")


@pytest.mark.parametrize("name, count", [("a.png", 1), ("a.txt", 0)])
def test_folder_without_an_image_that_can_be_read(tmp_path, name, count):
    (tmp_path / name).write_bytes(b"")
    message = f"with {count} such files, none of which can be read"
    with pytest.raises(ArtifactError, match=message):
        load_unlabelled(tmp_path, **GREY)


def test_labels_far_above_the_images_are_refused(tmp_path):
    labels = np.array([0, 1, 2**40])
    np.savez(tmp_path / "a.npz", x_train=np.zeros((3, 4, 4, 1)), y_train=labels)
    with pytest.raises(ArtifactError, match="with a label 1099511627776"):
        load_data(str(tmp_path / "a.npz"))
