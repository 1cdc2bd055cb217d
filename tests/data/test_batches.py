import keras
import numpy as np
import pytest
import tensorflow as tf

from kmod.data.batches import check_training
from kmod.data.batches import common_class_names
from kmod.data.batches import count_steps
from kmod.data.batches import fit_arguments
from kmod.data.batches import iter_batches
from kmod.data.batches import to_arrays
from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError

IMAGES = np.arange(5 * 4).reshape(5, 2, 2, 1).astype("float32")
LABELS = np.array([0, 1, 2, 1, 0])


class Pairs(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        part = slice(2 * index, 2 * index + 2)
        return IMAGES[part], LABELS[part]


class Endless(Pairs):
    num_batches = None


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((IMAGES, LABELS), id="arrays"),
        pytest.param((IMAGES, LABELS[:, None]), id="label-column"),
        pytest.param((IMAGES, LABELS.astype("uint8")), id="uint8-labels"),
        pytest.param((IMAGES, LABELS.astype("float32")), id="whole-floats"),
        pytest.param((IMAGES, np.eye(3)[LABELS]), id="one-hot"),
        pytest.param(
            dataset(IMAGES, np.eye(3)[LABELS]).batch(2), id="one-hot-tf-data"
        ),
        pytest.param(LabelledImages(IMAGES, LABELS), id="labelled-images"),
        pytest.param(dataset(IMAGES, LABELS).batch(2), id="tf-data"),
        pytest.param(
            dataset(IMAGES, LABELS, np.ones(5)).batch(2), id="sample-weights"
        ),
        pytest.param(Pairs(), id="py-dataset"),
    ],
)
def test_any_data_gives_the_same_batches(data):
    batches = list(iter_batches(data, batch_size=2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert all(labels.dtype == np.int64 for _, labels in batches)
    images, labels = to_arrays(data)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_to_arrays_stops_at_the_limit():
    images, labels = to_arrays(dataset(IMAGES, LABELS).batch(2), limit=3)
    np.testing.assert_array_equal(images, IMAGES[:3])
    np.testing.assert_array_equal(labels, LABELS[:3])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            (IMAGES, np.full((5, 4), 0.25)),
            r"float64 labels of shape \(5, 4\), such as .* `labels.argmax",
            id="soft",
        ),
        pytest.param(
            (IMAGES, np.ones((5, 4))),
            "rows of a single 1.*several labels at once .*module_from_model",
            id="multi",
        ),
        pytest.param(
            (IMAGES, LABELS + 0.5), "float64 labels .* such as 0.5", id="float"
        ),
        pytest.param(
            (IMAGES, LABELS - 1), "from 0. Received: a label -1", id="negative"
        ),
        pytest.param(
            (IMAGES, LABELS[:3]), "5 images and 3 labels", id="counts-differ"
        ),
        pytest.param((IMAGES[:0], LABELS[:0]), "at least one", id="empty"),
        pytest.param(
            dataset(IMAGES, LABELS), r"Use `data.batch\(256\)`", id="unbatched"
        ),
        pytest.param(
            tf.data.Dataset.from_tensor_slices(IMAGES).batch(2),
            "object of type ndarray. Bring it",
            id="no-labels",
        ),
        pytest.param(
            dataset(IMAGES, LABELS).batch(2).repeat(),
            "Received: an endless data set",
            id="endless-tf-data",
        ),
        pytest.param(
            Endless(), "Received: an endless data set", id="endless-py-dataset"
        ),
    ],
)
def test_data_of_another_form_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        to_arrays(data)


def test_data_of_another_type_are_refused():
    with pytest.raises(TypeError, match="Received: an object of type list"):
        to_arrays([IMAGES, LABELS])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(LABELS, "from 0 to 1, for .* a label 2", id="index"),
        pytest.param(np.eye(3)[LABELS], "2 classes.*5, 3", id="one-hot"),
    ],
)
@pytest.mark.parametrize("is_data_set", [False, True])
def test_labels_of_other_classes_are_refused(labels, message, is_data_set):
    data = dataset(IMAGES, labels).batch(2) if is_data_set else (IMAGES, labels)
    with pytest.raises(ValueError, match=message.replace("5, 3", r"\d, 3")):
        to_arrays(data, num_classes=2)
    with pytest.raises(ValueError, match=message.replace("5, 3", r"\d, 3")):
        check_training(fit_arguments(data, 2), 2)


def test_training_data_are_checked_in_the_batches_that_are_used():
    data = dataset(IMAGES, LABELS).batch(2).repeat()
    check_training(fit_arguments(data, 2, steps_per_epoch=1), 2)
    with pytest.raises(ValueError, match="a label 2"):
        check_training(fit_arguments(data, 2, steps_per_epoch=2), 2)
    with pytest.raises(ValueError, match="a label 2"):
        check_training(fit_arguments(Pairs(), 2), 2)


def test_unbatched_training_data_are_refused():
    data = dataset(IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"Use `data.batch\(256\)`"):
        check_training(fit_arguments(data, 2), 3)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(dataset(IMAGES, LABELS).batch(2).repeat(), id="tf-data"),
        pytest.param(Endless(), id="py-dataset"),
    ],
)
def test_endless_training_data_need_their_steps(data):
    assert count_steps(fit_arguments(data, 2, steps_per_epoch=4)) == 4
    with pytest.raises(UsageError, match=r"`steps_per_epoch`, or .* `take\("):
        count_steps(fit_arguments(data, 2))


def named(*class_names):
    data = dataset(IMAGES, LABELS).batch(2)
    data.class_names = list(class_names)
    return data


def test_class_names_are_those_of_the_data():
    unnamed = dataset(IMAGES, LABELS).batch(2)
    assert common_class_names(None, unnamed, None, (IMAGES, LABELS)) is None
    assert common_class_names(None, unnamed, named("b", "a")) == ("b", "a")
    # Names of the user's own come first: they may be in another language.
    assert common_class_names(["chat", "chien"], named("cat", "dog")) == (
        "chat",
        "chien",
    )


@pytest.mark.parametrize(
    ("given", "data"),
    [
        pytest.param(None, (named("a", "b"), named("b", "a")), id="splits"),
        pytest.param(None, (named("a", "b"), named("a")), id="lacking"),
        pytest.param(["b", "a"], (named("a", "b"),), id="given"),
    ],
)
def test_class_names_in_another_order_are_refused(given, data):
    with pytest.raises(UsageError, match="same class names in the same order"):
        common_class_names(given, *data)


def test_endless_data_are_not_read_to_their_end():
    data = dataset(IMAGES, LABELS).batch(2).repeat()
    for endless in (data, Endless()):
        with pytest.raises(ValueError, match="Received: an endless data set"):
            check_training(fit_arguments(endless, 2), 3)


@pytest.mark.parametrize("is_data_set", [False, True])
@pytest.mark.parametrize(
    ("images", "shape", "message"),
    [
        pytest.param(IMAGES, (2, 2, 3), r"takes, \(2, 2, 3\)", id="shape"),
        pytest.param(IMAGES / 255, (2, 2, 1), "scaled as those", id="scale"),
        pytest.param(IMAGES * 255, (2, 2, 1), "scaled as those", id="bytes"),
        pytest.param(IMAGES + np.inf, (2, 2, 1), "finite", id="infinite"),
        pytest.param(
            np.where(IMAGES == 7, np.nan, IMAGES), None, "finite", id="nan"
        ),
        pytest.param(IMAGES.astype(str), None, "array of numbers", id="text"),
    ],
)
def test_training_images_of_another_form_are_refused(
    images, shape, message, is_data_set
):
    data = dataset(images, LABELS).batch(2) if is_data_set else (images, LABELS)
    with pytest.raises((ValueError, TypeError), match=message):
        check_training(fit_arguments(data, 2), 3, shape, (0, 20))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((IMAGES[..., 0], LABELS), id="no-channel-axis"),
        pytest.param((3 * IMAGES - 20, LABELS), id="augmented"),
        pytest.param(({"stem": IMAGES + np.inf}, LABELS), id="stem"),
        pytest.param(
            dataset({"stem": IMAGES + np.inf}, LABELS).batch(2), id="stems"
        ),
        pytest.param(iter([(IMAGES, LABELS)]), id="generator"),
    ],
)
def test_training_data_that_are_taken(data):
    check_training(fit_arguments(data, 2), 3, (2, 2, 1), (0, 20))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((IMAGES.tolist(), LABELS.tolist()), id="lists"),
        pytest.param([IMAGES, LABELS], id="list-of-arrays"),
        pytest.param("photos", id="path"),
        pytest.param((IMAGES,), id="no-labels"),
    ],
)
def test_training_data_of_another_type_are_refused(data):
    with pytest.raises(TypeError, match="must be a tuple .*kmod.load_data"):
        check_training(fit_arguments(data, 2), 3)


def test_batches_of_several_sizes_are_refused():
    def parts():
        yield IMAGES[:2], LABELS[:2]
        yield IMAGES[2:, :1], LABELS[2:]

    spec = tf.TensorSpec((None, None, 2, 1)), tf.TensorSpec((None,), "int64")
    data = tf.data.Dataset.from_generator(parts, output_signature=spec)
    with pytest.raises(ValueError, match="Bring them to one size"):
        to_arrays(data)
    with pytest.raises(UsageError, match=r"images of shape \(1, 2, 1\)"):
        check_training(fit_arguments(data, 2, 2), 3, (2, 2, 1))


def test_text_is_no_label():
    names = np.array(["ant", "bee", "cat"])[LABELS]
    for data in ((IMAGES, names), dataset(IMAGES, names).batch(2)):
        with pytest.raises(ValueError, match="such as .*ant.*Number the"):
            to_arrays(data)
