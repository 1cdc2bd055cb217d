"""`kmod inspect`: says what is in a model, store, module or composition."""

import argparse
import dataclasses
from pathlib import Path

from kmod.cli import console
from kmod.cli.module_table import module_row
from kmod.cli.module_table import print_modules
from kmod.errors import ArtifactError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="say what is in a model, store, module, spec or composed model",
        description="Prints which kernels of a .keras model can be removed "
        "and what pins the others, the modules of a store, what is known of a "
        "module, or what a composed model is made from and how much is saved "
        "by building once what its modules have in common.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help=".keras file, composition spec or directory of kmod",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    path = Path(args.path)
    read, show = _kind(path)
    figures = read(path)
    if args.json:
        console.print_json(figures)
    else:
        show(figures)
    return 0


def _kind(path):
    """Returns how a path of its kind is read and shown."""
    from kmod.composition.composition_manifest import COMPOSITION_FILE
    from kmod.modules.manifest import MODULE_FILE
    from kmod.modules.manifest import STORE_FILE

    kinds = {
        STORE_FILE: (_read_store, _show_store),
        COMPOSITION_FILE: (_read_composition, _show_composition),
        MODULE_FILE: (_read_module, _show_module),
    }
    if path.suffix in {".yaml", ".yml"}:
        return _read_spec, _show_composition
    if not path.is_dir():
        return _read_model, _show_model
    for name, kind in kinds.items():
        if (path / name).is_file():
            return kind
    raise ArtifactError(
        "A directory of kmod holds one of the files "
        f"{', '.join(kinds)}. Received: '{path}' without any. Give a store, a "
        "module in it, a composed model or a `.keras` file."
    )


def _read_model(path):
    from kmod.cli.models import load_model
    from kmod.graph import channel_graph
    from kmod.graph.exactness import measure_exactness
    from kmod.graph.sizes import model_sizes

    model = load_model(path)
    graph = channel_graph(model)
    exactness = measure_exactness(model, graph)
    sizes = model_sizes(model)
    return {
        "kind": "model",
        "name": model.name,
        "input_shape": list(model.input_shape[1:]),
        "num_classes": graph.num_classes,
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
    }


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
    console.print_data(_in_words(figures["unmasked"]))


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
    from kmod.modules.manifest import MODULE_FILE
    from kmod.modules.manifest import read_module_manifest

    manifest = read_module_manifest(path)
    check_files(path, manifest.files, MODULE_FILE)
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
    from kmod.composition.composition_manifest import COMPOSITION_FILE
    from kmod.composition.composition_manifest import read_composition_manifest
    from kmod.files import check_files

    manifest = read_composition_manifest(path)
    check_files(path, manifest.files, COMPOSITION_FILE)
    return {
        "kind": "composed model",
        "name": manifest.name,
        "class_names": list(manifest.class_names),
        "input": dataclasses.asdict(manifest.input),
        "license": manifest.license,
        **manifest.sizes,
        "saved_by_sharing": _saved(manifest.unshared, manifest.sizes),
        "sources": list(manifest.sources),
        "metrics": manifest.metrics,
    }


def _read_spec(path):
    """Builds what a spec's modules have in common, but nothing is kept."""
    import keras

    from kmod.composition.composer import build_parts
    from kmod.composition.composition_manifest import total_sizes
    from kmod.composition.plan import plan
    from kmod.composition.scoring import join
    from kmod.graph.fusion.fuse import fuse
    from kmod.graph.sharing import merge_models
    from kmod.spec.spec_file import load_spec

    planned = plan(load_spec(path))
    parts = build_parts(planned)
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
        "saved_by_sharing": _saved(total_sizes(parts.values()), sizes),
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
    if saved := figures["saved_by_sharing"]:
        console.print_data(
            f"sharing saves {saved['parameters']:,} parameters and "
            f"{saved['macs']:,} MACs"
        )
    print_modules(figures["sources"])
