import keras
import numpy as np
import tensorflow as tf

from kmod.export import savedmodel


def test_signatures_name_everything(tmp_path, model, images, class_names):
    savedmodel.write(model, class_names, tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    serve = loaded.signatures["serving_default"]
    assert list(serve.structured_input_signature[1]) == ["image"]
    answers = serve(image=tf.constant(images))
    assert answers.keys() == {"probabilities", "class_id", "class_name"}
    best = answers["probabilities"].numpy().argmax(axis=1)
    assert answers["class_id"].dtype == tf.int32
    np.testing.assert_array_equal(answers["class_id"], best)
    names = [class_names[index].encode() for index in best]
    assert answers["class_name"].numpy().tolist() == names
    listed = loaded.signatures["class_names"]()["class_names"].numpy()
    assert listed.tolist() == [name.encode() for name in class_names]


def test_first_of_equal_answers_is_the_class(tmp_path, images, class_names):
    image = keras.Input((6, 6, 1), name="image")
    zero = keras.layers.Rescaling(0.0)(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Softmax()(zero[:, :3]))
    savedmodel.write(model, class_names, tmp_path)
    answers = savedmodel.ask(tmp_path, images)
    assert answers["class_id"].tolist() == [0] * len(images)
