import keras
import pytest


def small_network(num_classes, shape=(8, 8, 1)):
    keras.utils.set_random_seed(0)
    shrinking = [keras.layers.Resizing(8, 8)] if shape[0] > 8 else []
    return keras.Sequential(
        [
            keras.Input(shape),
            *shrinking,
            keras.layers.Rescaling(1 / 255, name="rescaling"),
            keras.layers.Conv2D(6, 3, activation="relu", name="conv_1"),
            keras.layers.Conv2D(12, 3, activation="relu", name="conv_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(num_classes, "softmax", name="classes"),
        ],
        name="small",
    )


@pytest.fixture(scope="session")
def learned(train):
    """Makes a small model that knows a data set a little."""

    def learned(data):
        shape = data.train.images.shape[1:]
        return train(small_network(len(data.class_names), shape), data)

    return learned


@pytest.fixture(scope="session")
def source(learned, ten_digits):
    """A small model that knows the ten digits a little."""
    return learned(ten_digits)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Saves a model in a new folder, and says where."""

    def saved(model, name):
        path = tmp_path_factory.mktemp(name) / f"{name}.keras"
        model.save(path)
        return path

    return saved


@pytest.fixture(scope="session")
def source_path(source, saved):
    return saved(source, "source")


@pytest.fixture(scope="session")
def three(learned, digits):
    """A model of the digits 3, 8 and 9, whose modules are made sooner."""
    return learned(digits)


@pytest.fixture(scope="session")
def three_path(three, saved):
    return saved(three, "source")


@pytest.fixture(scope="session")
def blind():
    """Returns a copy of a model that never answers with a class."""

    def blind(source, index):
        weak = keras.models.clone_model(source)
        weak.set_weights(source.get_weights())
        kernel, bias = weak.get_layer("classes").get_weights()
        bias[index] -= 20
        weak.get_layer("classes").set_weights([kernel, bias])
        return weak

    return blind


@pytest.fixture(scope="session")
def weak_path(source, blind, saved):
    """The source model, but blind to the digit 8."""
    return saved(blind(source, 8), "weak")


@pytest.fixture(scope="session")
def store(source, ten_digits, store_of):
    return store_of(source, ten_digits.class_names)


@pytest.fixture(scope="session")
def composed_of(tmp_path_factory):
    """Composes some modules of a store of digits, and says where."""
    from kmod.composition.composer import compose
    from kmod.composition.saving import save
    from kmod.spec.spec_file import write_spec

    def composed_of(store, names):
        folder = tmp_path_factory.mktemp("composed")
        spec = write_spec(
            {
                "version": 1,
                "name": "three",
                "stores": {"digits": {"path": store.path}},
                "classes": [
                    {"name": name, "module": {"store": "digits", "class": name}}
                    for name in names
                ],
            },
            folder / "spec.yaml",
        )
        save(compose(spec), folder / "three")
        return folder / "three"

    return composed_of


@pytest.fixture(scope="session")
def composed_path(store, composed_of):
    """Directory of a composed model of the classes 7, 1 and 8."""
    return composed_of(store, "718")
