import keras
import numpy as np
import pytest

from kmod.data import disk_arrays
from kmod.data.disk_arrays import take
from kmod.data.streaming import DiskBatches
from kmod.data.streaming import build_ahead
from kmod.data.streaming import predict
from kmod.data.streaming import streamed
from kmod.data.streaming import untuned_batches

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
COUNT = 22
IMAGES = np.random.default_rng(0).normal(size=(COUNT, 4)).astype("float32")
LABELS = np.arange(COUNT) % 3
WEIGHTS = np.linspace(0, 1, COUNT).astype("float32")


@pytest.fixture
def on_disk(monkeypatch):
    """Takes an array to disk."""
    monkeypatch.setattr(disk_arrays, "LIMIT", 0)
    return lambda array: take(array, np.arange(len(array)))


def build(outputs=3):
    keras.utils.set_random_seed(0)
    image = keras.Input((4,))
    scores = keras.layers.Dense(outputs, name="scores")(image)
    model = keras.Model(image, {"scores": scores, "image": image})
    scores = keras.layers.Softmax(name="probabilities")(scores)
    return model, keras.Model(image, scores)


@pytest.mark.skipif(not IS_TENSORFLOW, reason="only TensorFlow traces again")
@pytest.mark.parametrize(("is_ahead", "expected"), [(True, 1), (False, 2)])
def test_step_of_what_is_built_ahead_is_traced_once(is_ahead, expected):
    traced = []

    def loss(labels, scores):
        traced.append(scores.shape)
        return keras.losses.sparse_categorical_crossentropy(labels, scores)

    _, model = build()
    model.compile("adam", loss, metrics=["accuracy"])
    if is_ahead:
        build_ahead(model, LABELS, 3)
    model.fit(IMAGES, LABELS, verbose=0)
    assert len(traced) == expected


def test_every_epoch_has_all_rows_in_an_order_of_its_own():
    batches = DiskBatches((IMAGES, np.arange(COUNT)), 8, shuffle=True)
    assert [len(batches[index][1]) for index in range(3)] == [8, 8, 6]

    def epoch():
        batches.on_epoch_begin()
        read = [batches[index] for index in range(batches.num_batches)]
        images, rows = map(np.concatenate, zip(*read))
        np.testing.assert_array_equal(images, IMAGES[rows])
        return rows.tolist()

    keras.utils.set_random_seed(1)
    first, second = epoch(), epoch()
    assert first != second != list(range(COUNT))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    keras.utils.set_random_seed(1)
    assert epoch() == first


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sample_weight": WEIGHTS},
        {"validation_split": 0.3},
        {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
        {"steps_per_epoch": 2},
        {"batch_size": None},
    ],
)
def test_fit_trains_the_same_from_disk(on_disk, options):
    given = {"x": IMAGES, "y": LABELS, "batch_size": 8, "shuffle": False}
    given |= {"validation_data": (IMAGES[:9], LABELS[:9]), **options}
    if "validation_split" in options:
        del given["validation_data"]
    histories = []
    for arguments in (given, given | {"x": on_disk(IMAGES)}):
        _, model = build()
        model.compile("sgd", "sparse_categorical_crossentropy")
        arguments = streamed(arguments)
        history = model.fit(**arguments, epochs=2, verbose=0)
        histories.append(history.history)
    if IS_TENSORFLOW and not set(options) & {"class_weight", "steps_per_epoch"}:
        assert not arguments["x"].options().autotune.enabled
    else:
        assert isinstance(arguments["x"], DiskBatches)
    assert {"loss", "val_loss"} <= set(histories[0])
    for name, expected in histories[0].items():
        assert histories[1][name] == pytest.approx(expected, rel=1e-5)


def test_validation_images_are_read_from_disk(on_disk):
    given = {"x": IMAGES, "y": LABELS, "validation_batch_size": 5}
    given["validation_data"] = (on_disk(IMAGES), LABELS)
    validation = streamed(given)["validation_data"]
    if IS_TENSORFLOW:
        assert not validation.options().autotune.enabled
        read = list(validation.as_numpy_iterator())
    else:
        read = [validation[index] for index in range(validation.num_batches)]
    assert len(read) == 5
    np.testing.assert_array_equal(read[4][0], IMAGES[20:])


def test_steps_of_a_shuffled_epoch_are_a_draw_of_their_own(on_disk):
    given = {"x": on_disk(IMAGES), "y": LABELS, "batch_size": 8}
    arguments = streamed(given | {"steps_per_epoch": 2})
    assert arguments["steps_per_epoch"] is None
    batches = arguments["x"]
    assert (len(batches) if IS_TENSORFLOW else batches.num_batches) == 2
    assert streamed(given | {"steps_per_epoch": 9})["steps_per_epoch"] == 9


tensorflow_only = pytest.mark.skipif(not IS_TENSORFLOW, reason="about tf.data")


class Growing(keras.utils.PyDataset):
    """Images that differ in size from batch to batch; it counts its epochs."""

    begun = ended = 0

    @property
    def num_batches(self):
        return 3

    def __getitem__(self, index):
        size = 2 + 2 * index
        return {"image": np.full((2, size, 4), index)}, np.full(2, index)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


@tensorflow_only
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_set_of_the_users_is_read_as_keras_reads_it(shuffle):
    given = {"x": Growing(), "shuffle": shuffle}
    arguments = streamed(given)
    batches = arguments["x"]
    assert not batches.options().autotune.enabled
    assert arguments["shuffle"] is False and len(batches) == 3
    images, labels = batches.element_spec
    assert images["image"].shape.as_list() == [None, None, 4]
    keras.utils.set_random_seed(2)
    epochs = [
        [int(y[0]) for _, y in batches.as_numpy_iterator()] for _ in range(4)
    ]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert (len({*map(tuple, epochs)}) > 1) == shuffle
    assert given["x"].begun == given["x"].ended == 4


@pytest.mark.parametrize("shuffle", [False, True])
def test_fit_trains_the_same_on_a_data_set_of_the_users(shuffle):
    histories = []
    for prepare in (dict, streamed):
        _, model = build()
        model.compile("sgd", "sparse_categorical_crossentropy")
        given = {"x": DiskBatches((IMAGES, LABELS), 8), "shuffle": shuffle}
        history = model.fit(**prepare(given), epochs=3, verbose=0)
        histories.append(history.history["loss"])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-6)


class Endless(Growing):
    num_batches = None


@pytest.mark.parametrize(
    "data",
    [Growing(workers=2), Endless(), [IMAGES]],
    ids=["workers", "endless", "list"],
)
def test_what_keras_must_read_itself_is_left_to_it(data):
    given = {"x": data, "shuffle": True}
    assert streamed(given) == given


@tensorflow_only
@pytest.mark.parametrize("options", [{}, {"sample_weight": WEIGHTS}])
def test_fit_trains_the_same_on_what_nothing_tunes(options):
    given = {"x": IMAGES, "y": LABELS, "batch_size": 8, "shuffle": False}
    given |= {"validation_data": (IMAGES[:9], LABELS[:9]), **options}
    arguments = streamed(given)
    for name, num_batches in (("x", 3), ("validation_data", 2)):
        assert not arguments[name].options().autotune.enabled
        assert len(arguments[name]) == num_batches
    histories = []
    for each in (given, arguments):
        _, model = build()
        model.compile("sgd", "sparse_categorical_crossentropy")
        histories.append(model.fit(**each, epochs=2, verbose=0).history)
    for name, expected in histories[0].items():
        assert histories[1][name] == pytest.approx(expected, rel=1e-6)


@tensorflow_only
def test_numbers_have_the_types_that_keras_gives_them():
    arrays = IMAGES.astype("float64"), LABELS.astype("uint8")
    images, labels = untuned_batches(arrays, 8).element_spec
    assert (images.dtype.name, labels.dtype.name) == ("float32", "uint8")


@tensorflow_only
def test_what_nothing_tunes_has_the_order_of_what_lies_on_disk():
    batches = untuned_batches((IMAGES, np.arange(COUNT)), 8, shuffle=True)
    on_disk = DiskBatches((IMAGES, np.arange(COUNT)), 8, shuffle=True)
    keras.utils.set_random_seed(1)
    orders = []
    for _ in range(2):
        found = [(x.numpy(), rows.numpy()) for x, rows in batches]
        rows = np.concatenate([rows for _, rows in found])
        np.testing.assert_array_equal(
            np.concatenate([images for images, _ in found]), IMAGES[rows]
        )
        orders.append(rows.tolist())
    keras.utils.set_random_seed(1)
    for order in orders:
        on_disk.on_epoch_begin()
        read = np.concatenate([on_disk[i][1] for i in range(3)])
        assert read.tolist() == order
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    "model_index", [0, 1], ids=["dict-of-outputs", "one-output"]
)
def test_predict_answers_as_keras_does(model_index):
    model = build()[model_index]
    for count in (COUNT, 1):
        expected = model.predict(IMAGES[:count], verbose=0)
        found = predict(model, IMAGES[:count], 2)
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            found,
            expected,
        )


@pytest.mark.parametrize(
    "options",
    [
        {"validation_split": 0.3},
        {"steps_per_epoch": 2},
        {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
        {"x": [IMAGES], "y": None},
    ],
)
def test_other_arguments_stay_as_they_are(options):
    given = {"x": IMAGES, "y": LABELS, **options}
    assert streamed(given) == given


def test_predict_answers_the_same_from_disk(on_disk):
    both, model = build()
    expected = model.predict(IMAGES, verbose=0)
    found = predict(model, on_disk(IMAGES), 8)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = predict(both, on_disk(IMAGES), 8)
    assert set(found) == {"scores", "image"}
    np.testing.assert_array_equal(found["image"], IMAGES)
    np.testing.assert_allclose(
        found["scores"], both.predict(IMAGES, verbose=0)["scores"], rtol=1e-6
    )


def test_large_answers_go_to_disk(monkeypatch):
    both, model = build()
    monkeypatch.setattr(disk_arrays, "LIMIT", 4 * 7 * COUNT - 1)
    assert not isinstance(predict(model, IMAGES, 8), np.memmap)
    found = predict(both, IMAGES, 8)
    assert all(isinstance(each, np.memmap) for each in found.values())
    monkeypatch.setattr(disk_arrays, "LIMIT", 4 * 7 * COUNT)
    assert not any(
        isinstance(each, np.memmap)
        for each in predict(both, IMAGES, 8).values()
    )
