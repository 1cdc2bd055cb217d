"""`kmod inspect`: says what is in a model, store, module or composition."""

import argparse
import collections
import dataclasses
import os
import shlex
from pathlib import Path

from kmod.cli import console
from kmod.cli.models import add_image_size_argument
from kmod.cli.models import add_output_argument
from kmod.cli.module_table import module_row
from kmod.cli.module_table import print_modules
from kmod.errors import ArtifactError
from kmod.errors import UsageError

# What may stand in front of the first kernels: layers, and Keras operations.
_LAYERS_IN_FRONT = ("Rescaling", "Normalization", "Resizing", "CenterCrop")
_OPERATIONS_IN_FRONT = (
    "Add Cast Divide Flip GetItem Multiply Subtract TrueDivide".split()
)
_NAMED = 3  # Layers of a kind that pins; `--json` names all.
# What networks are given is spread about as widely.
_LEAST_SPREAD, _LARGEST_VALUE = 0.9, 6.0


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="say what is in a model, store, module, spec or composed model",
        description="Of a .keras model, prints which kernels can be removed "
        "and what pins the others, what images it takes, where masks had "
        "best begin and the command to run next. Of what kmod made, prints "
        "the modules of a store, what is known of a module, or what a "
        "composed model is made from and how much is saved by building once "
        "what its modules have in common.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help=".keras file, composition spec or directory of kmod",
    )
    add_output_argument(parser, "the model")
    add_image_size_argument(
        parser, "size of the images, where the model takes any"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import fetched

    path = Path(fetched(args.path))
    read, show = _kind(path)
    more = (args.output, args.image_size) if read is _read_model else ()
    figures = read(path, *more)
    if args.json:
        console.print_json(figures)
    else:
        show(figures)
    return 0


def _kind(path):
    """Returns how a path of its kind is read and shown."""
    from kmod.composition.composition_manifest import COMPOSITION_FILE
    from kmod.export.presets import is_preset
    from kmod.files.manifest import what_is_at
    from kmod.modules.manifest import MODULE_FILE
    from kmod.modules.manifest import STORE_FILE

    kinds = {
        STORE_FILE: (_read_store, _show_store),
        COMPOSITION_FILE: (_read_composition, _show_composition),
        MODULE_FILE: (_read_module, _show_module),
    }
    if path.suffix in {".yaml", ".yml"}:
        return _read_spec, _show_composition
    if not path.is_dir() or is_preset(path):
        return _read_model, _show_model
    for name, kind in kinds.items():
        if os.path.lexists(path / name):
            return kind
    raise ArtifactError(
        "A directory of kmod holds one of the files "
        f"{', '.join(kinds)}. Received: '{path}'{what_is_at(path)}. Give a "
        "store, a module in it, a composed model or a `.keras` file."
    )


def _read_model(path, output, size):
    from kmod.cli.models import check_path
    from kmod.cli.models import load_model

    check_path(path, takes_calls=True)

    from kmod.graph import channel_graph
    from kmod.graph import rebuild
    from kmod.graph.exactness import measure_exactness
    from kmod.graph.sizes import model_sizes
    from kmod.modular.macs import mask_starts

    model = load_model(path, output)
    graph = _graph(model, size)
    exactness = measure_exactness(model, graph)
    flat = rebuild(graph, dtype=None)
    sizes = model_sizes(flat)
    starts = mask_starts(channel_graph(flat), flat)
    return {
        "kind": "model",
        "name": model.name,
        "input_shape": list(graph.trace.input.shape[1:]),
        "input": _input(graph.trace),
        "num_classes": graph.num_classes,
        "output": graph.activations[-1] if graph.activations else "logits",
        "one_score": graph.is_one_score,
        "parameters": sizes.parameters,
        "macs": sizes.macs,
        "kernels": graph.kernels.num_kernels,
        "removable": int(graph.kernels.removable.sum()),
        "unmasked": {
            "is_exact": exactness.is_exact,
            "gap": exactness.gap,
            "differs_from": exactness.layer,
        },
        "layers": [_layer(graph, name) for name in graph.kernels.layers],
        "pins": [dataclasses.asdict(cost) for cost in graph.pin_costs()],
        "mask_from": _proposal(starts),
        "mask_starts": [dataclasses.asdict(start) for start in starts],
        "next": (
            _next_command(path, output, size, starts)
            if exactness.is_exact
            else None
        ),
    }


def _graph(model, size):
    """Returns the channel graph of a model whose image size is known."""
    from kmod.graph import channel_graph

    graph = channel_graph(model)
    shape = graph.trace.input.shape[1:]
    if shape.count(None) != (0 if size is None else 2):
        given, way_out = "--image-size", "Leave it out."
        if size is None:
            given, way_out = "no --image-size", "Give it."
        raise UsageError(
            "`--image-size` is the size of images where a model takes any, "
            "because what it costs depends on it. Received: images of shape "
            f"{shape} and {given}. {way_out}"
        )
    if size is None:
        return graph
    sizes = iter(size)
    return channel_graph(
        model, input_shape=[each or next(sizes) for each in shape]
    )


def _input(traced):
    """What images a model takes, and what it does with them first."""
    calls = _calls_in_front(traced)
    return {
        "shape": list(traced.input.shape[1:]),
        "dtype": traced.input_dtype,
        "preprocessing": [_step(call.operation, call.name) for call in calls],
        "value_range": _value_range(traced, calls),
    }


def _calls_in_front(traced):
    """Lists the calls, one behind another, that prepare images."""
    calls, tensor = [], traced.input
    while True:
        readers = [call for call in traced.calls if tensor in call.inputs]
        if len(readers) != 1 or len(readers[0].inputs) != 1:
            return calls
        (call,) = readers
        kind = type(call.operation).__name__
        if kind in (*_LAYERS_IN_FRONT, *_OPERATIONS_IN_FRONT):
            calls.append(call)
        elif not kind.startswith("Random"):  # Those only train.
            return calls
        tensor = call.outputs[0]


def _step(operation, name):
    """Says what a layer or operation does with images."""
    kind = type(operation).__name__
    if kind == "Rescaling":
        scale, offset = operation.scale, operation.offset
        does = "times a number and plus a number for each channel"
        if isinstance(scale, (int, float)) and isinstance(offset, (int, float)):
            does = f"times {scale:.5g}, plus {offset:g}"
    elif kind == "Normalization":
        does = "minus the mean, divided by the standard deviation"
    elif kind in ("Resizing", "CenterCrop"):
        does = f"to {operation.height}x{operation.width}"
    else:
        does = "with a constant"
    return {"layer": name, "kind": kind, "does": does}


def _value_range(traced, calls):
    """Returns the usual range that preprocessing brings near 0 to 1.

    `None` where values are not changed, or no usual range fits.
    """
    import numpy as np
    from keras import ops

    from kmod.data.value_range import USUAL_RANGES
    from kmod.graph.calls import run_call
    from kmod.graph.exactness import UNKNOWN_SIZE

    if "int" in traced.input_dtype:
        return list(USUAL_RANGES[-1])  # Bytes.
    shape = [size or UNKNOWN_SIZE for size in traced.input.shape[1:]]
    for pair in USUAL_RANGES:
        images = np.stack([np.full(shape, value) for value in pair])
        tensor = ops.convert_to_tensor(images, traced.input_dtype)
        values = {traced.input.index: tensor}
        for call in calls:
            values |= run_call(call, lambda _: tensor)
            tensor = values[call.outputs[0].index]
        found = ops.convert_to_numpy(ops.cast(tensor, "float32"))
        low, high = float(found.min()), float(found.max())
        if np.allclose((low, high), pair):
            return None
        is_spread = (found[1] - found[0]).min() >= _LEAST_SPREAD
        if is_spread and max(-low, high) <= _LARGEST_VALUE:
            return list(pair)
    return None


def _proposal(starts):
    """Which layer masks had best begin at, and why."""
    from kmod.modular.macs import propose_start

    if not starts:
        return None
    start = propose_start(starts)
    return {
        **dataclasses.asdict(start),
        "retention_target": round(start.retention_target, 2),
    }


def _next_command(path, output, size, starts):
    if not starts:
        return None
    from kmod.cli.models import model_name

    return shlex.join(
        [
            *("kmod", "modularize", str(path), "--data", "DATA"),
            *(("--output", output) if output else ()),
            *(("--image-size", *map(str, size)) if size else ()),
            *("--out", f"modules/{model_name(path)}"),
        ]
    )


def _in_words(unmasked):
    """Says whether a model can be rebuilt with all its kernels."""
    if unmasked["is_exact"]:
        return f"rebuilt, it answers the same, gap {unmasked['gap']:.1e}"
    text = f"rebuilt, it answers otherwise, gap {unmasked['gap']:.1e}"
    if unmasked["differs_from"]:
        text += f", first at layer {unmasked['differs_from']}"
    return f"{text}; it can not be taken apart"


def _layer(graph, name):
    """What can be removed from a layer, and which layers pin the rest."""
    kernels = graph.kernels
    ids = kernels.ids_of(name)
    pinned = set(kernels.groups[ids[~kernels.removable[ids]]].tolist())
    reasons = {
        f"{pin.layer}: {pin.reason}": None
        for pin in graph.pins
        if not pinned.isdisjoint(kernels.groups[pin.kernels].tolist())
    }
    return {
        "layer": name,
        "kernels": len(ids),
        "removable": int(kernels.removable[ids].sum()),
        "pinned_by": list(reasons),
    }


def _show_model(figures):
    shape = "x".join(str(size) for size in figures["input_shape"])
    console.print_data(
        f"model {figures['name']}: {shape} images, "
        f"{figures['num_classes']} classes, {figures['parameters']:,} "
        f"parameters, {figures['macs']:,} MACs; {figures['removable']} of "
        f"{figures['kernels']} kernels can be removed"
    )
    console.print_table(
        ["layer", "kernels", "removable", "pinned by"],
        [
            [
                row["layer"],
                row["kernels"],
                row["removable"],
                "; ".join(row["pinned_by"]),
            ]
            for row in figures["layers"]
        ],
    )
    for cost in figures["pins"]:
        console.print_data(_cost_in_words(cost, figures["kernels"]))
    console.print_data(_input_in_words(figures["input"]))
    console.print_data(_output_in_words(figures))
    console.print_data(_proposal_in_words(figures))
    console.print_data(_in_words(figures["unmasked"]))
    if figures["next"]:
        console.print_note(
            f"next, with the images that the model was trained for as DATA:\n"
            f"  {figures['next']}"
        )


def _cost_in_words(cost, num_kernels):
    names = ", ".join(cost["layers"][:_NAMED])
    if more := len(cost["layers"][_NAMED:]):
        names += f" and {more} more"
    share = cost["kernels"] / num_kernels
    return (
        f"pinned: {cost['kernels']} kernels, {share:.0%}, by {cost['kind']} "
        f"({names}), because {cost['reason']}"
    )


def _input_in_words(figures):
    shape = "x".join(str(size or "any") for size in figures["shape"])
    steps = "; ".join(
        f"{step['layer']} ({step['kind']}, {step['does']})"
        for step in figures["preprocessing"]
    )
    text = (
        f"input: {shape} images, {figures['dtype']}; preprocessing inside: "
        f"{steps or 'none'}; "
    )
    if figures["value_range"]:
        low, high = figures["value_range"]
        return (
            f"{text}pixel values outside: {low:g} to {high:g}, as that suggests"
        )
    return f"{text}pixel values outside: those that it was trained with"


def _output_in_words(figures):
    kinds = {"logits": "logits", "sigmoid": "a sigmoid for each class"}
    if figures["one_score"]:
        kinds = dict.fromkeys(("logits", "sigmoid"), "one score, the second's")
    kind = kinds.get(figures["output"], f"{figures['output']} over classes")
    return (
        f"output: {figures['num_classes']} classes, {kind}; their names and "
        "their order are those of the data that it is taken apart with"
    )


def _proposal_in_words(figures):
    start = figures["mask_from"]
    if start is None:
        return (
            "no kernel can be removed, so it can not be taken apart; the "
            "table says what pins them, and `kmod.register_channel_rule` "
            "teaches kmod a layer of yours"
        )
    pinned = ""
    if figures["removable"] < figures["kernels"]:
        whole = figures["mask_starts"][0]["macs_in_front"]
        pinned = f"{whole:.0%} of the MACs stay in every module; "
    return (
        f"{pinned}--mask-from {start['layer']}: "
        f"{start['macs_in_front']:.0%} of the MACs are in front of it and are "
        "computed once for all classes, "
        f"{1 - start['macs_in_front']:.0%} are behind it, with "
        f"{start['removable']:.0%} of the kernels to choose from; earlier "
        "makes each module smaller, later all modules together cheaper"
    )


def _read_store(path):
    from kmod.modules.module_store import load_store

    store = load_store(path)
    return {
        "kind": "store",
        "source": dataclasses.asdict(store.manifest.source),
        "digest": store.digest,
        "license": store.manifest.license,
        "input": dataclasses.asdict(store.manifest.input),
        "modules": [module_row(store.info(name)) for name in store],
    }


def _read_module(path):
    from kmod.files import check_files
    from kmod.files import read_again_if_replaced
    from kmod.modules.manifest import MODULE_FILE
    from kmod.modules.manifest import read_module_manifest

    def read():
        manifest = read_module_manifest(path)
        check_files(path, manifest.files, MODULE_FILE)
        return manifest

    manifest = read_again_if_replaced(path, read)
    return {
        "kind": "module",
        **module_row(manifest.info),
        "source_digest": manifest.info.source_digest,
        "digest": manifest.content,
        "kernels": {
            layer: len(kept)
            for layer, kept in manifest.info.kept_kernels.items()
        },
    }


def _show_store(figures):
    source = figures["source"]
    console.print_data(
        f"store of {source['name']} ({source['architecture']}), "
        f"{figures['digest']}"
    )
    print_modules(figures["modules"])


def _show_module(figures):
    console.print_data(f"module of {figures['source_digest']}")
    print_modules([figures])
    console.print_table(["layer", "kernels kept"], figures["kernels"].items())


def _read_composition(path):
    from kmod.composition.composition_manifest import check_composition
    from kmod.composition.composition_manifest import is_own

    manifest = check_composition(path)
    return {
        "kind": "composed model",
        "name": manifest.name,
        "class_names": list(manifest.class_names),
        "input": dataclasses.asdict(manifest.input),
        "license": manifest.license,
        **manifest.sizes,
        "saved_by_sharing": _saved(manifest.unshared, manifest.sizes),
        "sources": list(manifest.sources),
        "student": dict(manifest.student),
        "slimmed": dict(manifest.slimmed),
        "made_from_modules": not is_own(manifest),
        "metrics": manifest.metrics,
    }


def _read_spec(path):
    """Builds what a spec's modules have in common, but nothing is kept."""
    import keras

    from kmod.composition.composer import build_parts
    from kmod.composition.composer import tallied
    from kmod.composition.composition_manifest import total_sizes
    from kmod.composition.plan import plan
    from kmod.composition.scoring import join
    from kmod.graph.fusion.fuse import fuse
    from kmod.graph.sharing import merge_models
    from kmod.spec.spec_file import load_spec

    planned = plan(load_spec(path))
    unshared = collections.Counter()
    parts = tallied(build_parts(planned), unshared)
    image, outputs = merge_models(parts)
    model = keras.Model(image, join(list(outputs.values()), "scores"))
    sizes = total_sizes([fuse(model)])
    return {
        "kind": "spec",
        "name": planned.spec.name,
        "class_names": list(planned.spec.class_names),
        "input": dataclasses.asdict(planned.input),
        "license": planned.spec.license,
        **sizes,
        "saved_by_sharing": _saved(unshared, sizes),
        "sources": planned.as_dict()["classes"],
        "metrics": {},
    }


def _saved(unshared, sizes):
    """What is saved by building once what modules have in common.

    Modules that share nothing may even grow, by zeros that make them faster.
    """
    if unshared is None:  # In models that were saved without.
        return None
    return {key: max(0, unshared[key] - sizes[key]) for key in sizes}


def _show_composition(figures):
    console.print_data(
        f"{figures['kind']} {figures['name']}: classes "
        f"{', '.join(figures['class_names'])}; {figures['parameters']:,} "
        f"parameters, {figures['macs']:,} MACs"
    )
    if student := figures.get("student"):
        console.print_data(
            f"one network ({student['architecture']}), distilled from a "
            f"composition of these modules on {student['num_images']:,} images"
        )
    if slimmed := figures.get("slimmed"):
        before = slimmed["before"]
        console.print_data(
            f"slimmed from {before['parameters']:,} parameters and "
            f"{before['macs']:,} MACs on {slimmed['num_images']:,} images"
        )
    if saved := figures["saved_by_sharing"]:
        console.print_data(
            f"sharing saves {saved['parameters']:,} parameters and "
            f"{saved['macs']:,} MACs"
        )
    if figures.get("made_from_modules", True):
        print_modules(figures["sources"])
