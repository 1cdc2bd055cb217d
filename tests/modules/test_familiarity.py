import io

import numpy as np
import pytest

from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import file_record
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.familiarity import fit_familiarity
from kmod.modules.familiarity import read_familiarity
from kmod.modules.familiarity import write_familiarity
from kmod.modules.image_statistics import SIZE
from kmod.modules.image_statistics import is_known
from kmod.modules.image_statistics import statistics_model
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import add_familiarity
from kmod.modules.module_store import load_store

GREY = InputContract((8, 8, 1), "float32", (0.0, 255.0))


@pytest.fixture(scope="module")
def familiarity(digits):
    parts = [(p.images, p.labels) for p in (digits.train, digits.validation)]
    return fit_familiarity(parts, digits.class_names, GREY)


def measured(images, contract=GREY):
    return statistics_model(contract).predict(images, verbose=0)


def noise(shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def test_grey_images_measure_as_their_rgb_twins(digits):
    images = digits.test.images[:8].astype("float32")
    coloured = InputContract((8, 8, 3), "float32", (0.0, 255.0))
    twins = measured(np.repeat(images, 3, axis=-1), coloured)
    np.testing.assert_allclose(measured(images), twins, rtol=0, atol=1e-6)
    known = is_known((8, 8, 1))
    assert known.sum() == (25 + 9) * 8 + 16 and is_known((8, 8, 3)).all()
    assert np.ptp(twins[:, ~known], axis=0).max() < 1e-6
    assert np.ptp(twins[:, known], axis=0).max() > 0.01
    tinted = np.repeat(images, 3, axis=-1) * [1, 0.5, 0.2]
    assert np.ptp(measured(tinted, coloured)[:, ~known], axis=0).max() > 0.01


def test_units_of_pixels_do_not_matter(digits):
    images = digits.test.images[:8].astype("float32")
    scaled = InputContract((8, 8, 1), "float32", (-1.0, 1.0))
    np.testing.assert_allclose(
        measured(images / 127.5 - 1, scaled),
        measured(images),
        rtol=0,
        atol=1e-5,
    )


def test_own_images_are_nearer_than_others(familiarity, digits):
    own = familiarity.distance(measured(digits.test.images))
    other = familiarity.distance(measured(noise((50, 8, 8, 1))))
    inverted = familiarity.distance(measured(255.0 - digits.test.images))
    assert (
        own.tolist()
        == familiarity.distance_of(
            digits.test.images.astype("float32"), GREY
        ).tolist()
    )
    threshold = familiarity.threshold(0.1)
    assert np.mean(own > threshold) < 0.15
    assert other.min() > threshold and inverted.min() > threshold


def test_threshold_rises_with_what_may_not_be_rejected(familiarity):
    thresholds = [familiarity.threshold(r) for r in (0.5, 0.1, 0.01, 1e-6)]
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] == familiarity.distances[-1]


def test_distances_are_of_images_it_was_not_fitted_on(digits):
    """On its own few images a covariance is flattered; held out, it isn't."""
    few = digits.train.images[:200], digits.train.labels[:200]
    found = fit_familiarity([few], digits.class_names, GREY)
    fitted_on = found.distance(measured(few[0]))
    new = found.distance(measured(digits.test.images))
    assert np.median(fitted_on) < 0.9 * np.median(new)
    assert np.median(found.distances) == pytest.approx(np.median(new), rel=0.1)


def test_class_of_a_single_image_is_left_out(digits):
    images, labels = digits.train.images, digits.train.labels
    kept = np.concatenate(
        [np.flatnonzero(labels != 1), [np.argmax(labels == 1)]]
    )
    found = fit_familiarity(
        [(images[kept], labels[kept])], digits.class_names, GREY
    )
    assert found.class_names == (digits.class_names[0], digits.class_names[2])
    assert found.means.shape == (2, SIZE)
    with pytest.raises(UsageError, match="at least two images of a class"):
        fit_familiarity([(images[:1], labels[:1])], digits.class_names, GREY)


def test_file_holds_what_was_written(familiarity, tmp_path, digits):
    path = tmp_path / "file.npz"
    write_familiarity(path, familiarity)
    assert path.stat().st_size < 600_000
    found = read_familiarity(path.read_bytes(), path)
    assert found.class_names == familiarity.class_names
    assert found.num_images == familiarity.num_images
    statistics = measured(digits.test.images)
    np.testing.assert_allclose(
        found.distance(statistics), familiarity.distance(statistics), rtol=1e-3
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"means": np.zeros((3, 5), "float16")},
        {"means": np.full((3, SIZE), np.nan, "float16")},
        {"correlation": np.ones(SIZE * (SIZE - 1) // 2, "float32")},
        {"deviation": np.zeros(SIZE, "float32")},
        {"class_names": np.array([1, 2, 3])},
        {"distances": np.array([object()] * 1001, dtype=object)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_broken_file_is_refused(familiarity, tmp_path, changes):
    path = tmp_path / "file.npz"
    write_familiarity(path, familiarity)
    with np.load(path) as stored:
        content = io.BytesIO()
        np.savez(content, **dict(stored) | changes)
    with pytest.raises(IntegrityError, match="holds no familiarity"):
        read_familiarity(content.getvalue(), path)
    with pytest.raises(IntegrityError, match="holds no familiarity"):
        read_familiarity(b"PK", path)


def test_older_store_gets_a_familiarity(older, digits):
    assert older.familiarity is None
    data = digits.train.images.astype("float32"), digits.train.labels
    store = add_familiarity(older, data)
    assert store.familiarity.num_images == len(digits.train)
    assert store.digest != older.digest
    assert store.manifest.content_digest == older.manifest.content_digest
    assert [store.content(c) for c in store] == [
        older.content(c) for c in older
    ]
    again = add_familiarity(store, data)
    assert again.digest == store.digest


def test_images_outside_the_value_range_are_refused(older, digits):
    with pytest.raises(UsageError, match="range"):
        add_familiarity(older, (digits.train.images * 9.0, digits.train.labels))
    assert load_store(older.path).digest == older.digest


def test_changed_file_is_refused(older, digits):
    store = add_familiarity(older, (digits.train.images, digits.train.labels))
    path = store.path / FAMILIARITY_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="digest"):
        load_store(store.path)
    unchecked = load_store(store.path, verify=False)
    with pytest.raises(IntegrityError, match="digest"):
        unchecked.familiarity
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        load_store(store.path)


def test_record_is_the_file(older, digits):
    store = add_familiarity(older, (digits.train.images, digits.train.labels))
    record = file_record(store.path / FAMILIARITY_FILE)
    assert store.manifest.familiarity == record | {
        "num_images": len(digits.train)
    }


def test_more_images_of_another_range_are_refused(strong, digits, tmp_path):
    modular = ModularModel(strong, digits.class_names, mask_from="conv_3")
    train = digits.train.images / 255, digits.train.labels
    with pytest.raises(UsageError, match="value_range"):
        decompose(
            modular, tmp_path / "store", data=digits.validation, train=train
        )
    assert not (tmp_path / "store").exists()
