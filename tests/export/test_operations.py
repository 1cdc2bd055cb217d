import ast
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import kmod
from kmod.errors import ArtifactError
from kmod.export import litert
from kmod.export import onnx
from kmod.export import savedmodel
from kmod.export.operations import check_saved_model
from kmod.export.savedmodel import load_saved_model

IMAGE = tf.TensorSpec((None, 8, 8, 3), "float32", "image")


def save(directory, answer, **objects):
    """Saves a function of images as a SavedModel with a signature `serve`."""
    module = tf.Module()
    for name, value in objects.items():
        setattr(module, name, value)
    module.serve = tf.function(answer, input_signature=[IMAGE])
    tf.saved_model.save(module, str(directory), {"serve": module.serve})


@pytest.fixture
def target(tmp_path):
    """A file that no model may write."""
    return tmp_path / "written"


def writing(target):
    def answer(image):
        tf.io.write_file(str(target), "evil")
        return {"score": tf.reduce_mean(image, axis=(1, 2, 3))[:, None]}

    return answer


def in_a_loop(target):
    def answer(image):
        for _ in tf.range(2):
            tf.io.write_file(str(target), "evil")
        return {"score": image[:, 0, 0]}

    return answer


def in_a_call(target):
    @tf.function
    def inner(image):
        tf.io.write_file(str(target), "evil")
        return image[:, 0, 0]

    return lambda image: {"score": inner(image)}


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        pytest.param(in_a_loop, "operation 'WriteFile'", id="loop"),
        pytest.param(in_a_call, "operation 'WriteFile'", id="call"),
    ],
)
def test_operation_that_is_not_on_the_list(tmp_path, target, attack, message):
    save(tmp_path / "model", attack(target))
    with pytest.raises(ArtifactError, match=message):
        load_saved_model(tmp_path / "model")
    assert not target.exists()


def test_table_that_reads_a_file_as_it_is_loaded(tmp_path):
    (tmp_path / "words").write_text("cat\n")
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        0,
    )
    save(tmp_path / "model", lambda image: {"score": image}, table=table)
    with pytest.raises(ArtifactError, match="object of kind 'asset'"):
        load_saved_model(tmp_path / "model")


@pytest.fixture
def graph(build, tmp_path):
    """A good SavedModel's graph, and a function that checks a changed one."""
    savedmodel.write(build(num_classes=1), ("cat",), tmp_path)
    content = (tmp_path / "saved_model.pb").read_bytes()
    proto = saved_model_pb2.SavedModel.FromString(content)

    def check(changed=None):
        content = (changed or proto).SerializeToString()
        (tmp_path / "saved_model.pb").write_bytes(content)
        check_saved_model(tmp_path)

    check()
    return proto, check


def functions_of(proto):
    return proto.meta_graphs[0].graph_def.library.function


def test_call_of_an_operation_as_a_function(graph):
    proto, check = graph
    call, *_ = (
        node
        for function in functions_of(proto)
        for node in function.node_def
        if node.op == "StatefulPartitionedCall"
    )
    call.attr["f"].func.name = "WriteFile"
    with pytest.raises(ArtifactError, match="with a call of 'WriteFile'"):
        check()


def test_call_of_what_saves_weights(graph):
    proto, check = graph
    (saving,) = (
        each.signature.name
        for each in functions_of(proto)
        if "traced_save" in each.signature.name
    )
    for node in proto.meta_graphs[0].object_graph_def.nodes:
        if node.function.concrete_functions:
            node.function.concrete_functions[0] = saving
    with pytest.raises(ArtifactError, match=f"a name for '{saving}'"):
        check()
    node = proto.meta_graphs[0].graph_def.node.add()
    node.name, node.op = "more", "PartitionedCall"
    node.attr["f"].func.name = saving
    with pytest.raises(ArtifactError, match=f"a call of '{saving}'"):
        check()


def test_operation_in_the_main_graph(graph):
    proto, check = graph
    proto.meta_graphs[0].graph_def.node.add(name="more", op="RestoreV2")
    with pytest.raises(ArtifactError, match="operation 'RestoreV2'"):
        check()


def test_function_that_stands_in_for_an_operation(graph):
    proto, check = graph
    functions_of(proto).add().signature.name = "Relu"
    with pytest.raises(ArtifactError, match="a function called 'Relu'"):
        check()


def test_graph_of_tensorflow_1(graph):
    proto, check = graph
    proto.meta_graphs[0].ClearField("object_graph_def")
    with pytest.raises(ArtifactError, match="with 1 graphs or without objec"):
        check()


@pytest.mark.parametrize("content", [b"", b"\xff" * 99], ids=["empty", "noise"])
def test_what_is_no_graph(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ArtifactError, match="A SavedModel "):
        check_saved_model(tmp_path)


def test_missing_graph(tmp_path):
    with pytest.raises(ArtifactError, match="which can not be read"):
        check_saved_model(tmp_path)


def test_litert_file_that_writes_a_file(tmp_path, target):
    save(tmp_path / "model", writing(target))
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "model")
    )
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    path = tmp_path / "model.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(ArtifactError, match="operation 'WriteFile'"):
        litert.predict(path, np.zeros((1, 8, 8, 3), "float32"))
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"\x08" * 99], ids=["empty", "noise"])
def test_what_is_no_litert_file(tmp_path, content):
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ArtifactError, match="not a LiteRT file that kmod"):
        litert.predict(tmp_path / "model.tflite", np.zeros((1, 8, 8, 3)))


def test_onnx_file_with_weights_elsewhere_or_operators_of_others(tmp_path):
    library = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    weights = library.helper.make_tensor("weights", 1, (1,), [1.0])
    weights.ClearField("float_data")
    weights.data_location = library.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/hostname")
    call = library.helper.make_node("Run", ["x"], ["y"], domain="com.evil")
    value = library.helper.make_tensor_value_info
    graph = library.helper.make_graph(
        [call], "g", [value("x", 1, (1,))], [value("y", 1, (1,))], [weights]
    )
    path = tmp_path / "model.onnx"
    model = library.helper.make_model(graph)
    path.write_bytes(model.SerializeToString())
    message = "in another file, 'weights', operator com.evil.Run"
    with pytest.raises(ArtifactError, match=message):
        onnx.predict(path, np.zeros(1))


def test_savedmodels_are_loaded_in_one_place():
    package = Path(kmod.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "load"
        and ast.unparse(node.value).endswith("saved_model")
    }
    assert found == {"export/savedmodel.py"}
