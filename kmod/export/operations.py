"""Which TensorFlow operations a model may consist of, to be loaded here.

A SavedModel is a program: it can write files, open sockets and run code. So
before one is loaded, every operation in it is held against a list of those
that modules and compositions need: they compute answers from images and
weights, and have no other effect.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmod.errors import ArtifactError
from kmod.errors import reason_of

GRAPH_FILE = "saved_model.pb"
MAX_FAULTS = 5

# What Keras' layers that neither run code nor read files become in use, and
# `keras.ops` on tensors.
ANSWERING = frozenset("""
    Abs Acos Acosh AddN AddV2 All Any ArgMax ArgMin AsString Asin Asinh Atan
    Atan2 Atanh AvgPool AvgPool3D BatchMatMulV2 BatchMatMulV3 BatchToSpaceND
    BiasAdd Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastTo
    Bucketize Cast Ceil ClipByValue ConcatV2 Const Conv2D Conv2DBackpropInput
    Conv3D Conv3DBackpropInputV2 Cos Cosh Cumprod Cumsum DenseBincount
    DepthToSpace DepthwiseConv2dNative DivNoNan Einsum Elu Equal Erf Erfc Exp
    ExpandDims Expm1 Fill Floor FloorDiv FloorMod FusedBatchNormV3 GatherNd
    GatherV2 Greater GreaterEqual Identity IdentityN IsFinite IsInf IsNan L2Loss
    LeakyRelu Less LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot
    LogicalOr MatMul MatrixBandPart MatrixDiagV3 Max MaxPool MaxPool3D Maximum
    Mean Min Minimum MirrorPad Mul Neg NoOp NotEqual OneHot OnesLike Pack Pad
    PadV2 Placeholder Pow Prod Range Rank ReadVariableOp RealDiv Reciprocal Relu
    Relu6 Reshape ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2
    Roll Round Rsqrt ScaleAndTranslate ScatterNd Select SelectV2 Selu Shape
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToBatchND
    SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze
    StatelessRandomGammaV3 StatelessRandomGetKeyCounter StatelessRandomUniformV2
    StopGradient StridedSlice StringToHashBucketFast Sub Sum Tan Tanh
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem
    TensorListStack TensorScatterUpdate Tile TopKV2 Transpose Unpack VarHandleOp
    VarIsInitializedOp Where ZerosLike
    """.split())
# What calls functions, which have to be in the same file.
CALLING = frozenset("""
    PartitionedCall StatefulPartitionedCall StatelessIf StatelessWhile While
    """.split())
# What saves and restores weights.
CHECKPOINTING = frozenset("""
    AssignVariableOp DisableCopyOnRead MergeV2Checkpoints RestoreV2 SaveV2
    ShardedFilename StaticRegexFullMatch StringJoin
    """.split())
# What the names in a SavedModel may stand for.
OBJECTS = frozenset("""
    bare_concrete_function captured_tensor constant function user_object
    variable
    """.split())


def check_saved_model(directory: str | Path) -> None:
    """Checks every operation of a SavedModel, without loading it.

    Functions that save and restore weights read and write files: they may be
    there, as TensorFlow puts them into every SavedModel, but neither another
    function nor a name in the model may lead to them.

    Args:
        directory: Directory of the SavedModel.

    Raises:
        ArtifactError: If it is no SavedModel of TensorFlow 2, or if anything
            in it is not on the list.
    """
    path = Path(directory) / GRAPH_FILE
    graph = _read(path)
    functions = {
        each.signature.name: each.node_def
        for each in graph.graph_def.library.function
    }
    checkpoints = {
        name
        for name, nodes in functions.items()
        if any(node.op in CHECKPOINTING for node in nodes)
    }
    answering = functions.keys() - checkpoints
    faults = [f"a function called {n!r}" for n in functions if n in ANSWERING]
    for nodes in functions.values():
        allowed = ANSWERING | CALLING | CHECKPOINTING
        faults += _faults(nodes, allowed, answering)
    saver = graph.saver_def
    saving = {saver.save_tensor_name.partition(":")[0], saver.restore_op_name}
    for node in graph.graph_def.node:
        allowed = ANSWERING | CALLING | {"AssignVariableOp"}
        callable_here = functions if node.name in saving else answering
        faults += _faults([node], allowed, callable_here)
    faults += _object_faults(graph, answering)
    if faults:
        refuse(path, faults)


def refuse(path: Path, faults: Iterable[str]) -> None:
    """Raises the error for a model that is not loaded.

    Args:
        path: The file.
        faults: What is in it that must not be.

    Raises:
        ArtifactError: Always.
    """
    faults = list(dict.fromkeys(faults))
    raise ArtifactError(
        "A model consists of operations that compute answers and have no "
        f"other effect. Received: '{path}' with "
        f"{', '.join(faults[:MAX_FAULTS])}. It was not loaded. Do not use it "
        "elsewhere either, unless you know who made it, and why."
    )


def _read(path):
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise ArtifactError(
            f"A SavedModel is a directory with a valid '{GRAPH_FILE}'. "
            f"Received: '{path}', which can not be read: {reason_of(error)}. "
            "Make it "
            "again."
        ) from error
    if len(saved.meta_graphs) != 1 or not (
        saved.meta_graphs[0].object_graph_def.nodes
    ):
        raise ArtifactError(
            "A SavedModel holds one graph with its objects, as TensorFlow 2 "
            f"writes it. Received: '{path}' with {len(saved.meta_graphs)} "
            "graphs or without objects. Make it again."
        )
    return saved.meta_graphs[0]


def _faults(nodes, operations, functions) -> Iterator[str]:
    """Yields what nodes do or call that they may not."""
    for node in nodes:
        if node.op not in operations:
            yield f"operation {node.op!r}"
        for name in called_functions(node.attr):
            # TensorFlow takes the name of an operation for a function, too.
            if name not in functions:
                yield f"a call of {name!r}"


def called_functions(attributes: Any) -> Iterator[str]:
    """Yields the names of functions in a node's attributes."""
    for value in attributes.values():
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
            yield from called_functions(function.attr)


def _object_faults(graph, functions):
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind is not None and kind not in OBJECTS:
            yield f"an object of kind {kind!r}"
        names = [*node.function.concrete_functions]
        names.append(node.bare_concrete_function.concrete_function_name)
        for name in filter(None, names):
            if name not in functions:
                yield f"a name for {name!r}"
