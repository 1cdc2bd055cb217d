"""What a report says of a subject without images: from its manifests alone."""

import collections
import shlex
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from kmod.composition.composition_manifest import is_own
from kmod.composition.composition_manifest import learned_images
from kmod.composition.plan import ALL_CLASSES
from kmod.composition.plan import prior_in_words
from kmod.metrics.overlap import class_overlap
from kmod.metrics.overlap import kept_masks
from kmod.modules.adaptation import describe
from kmod.modules.class_module import ModuleInfo
from kmod.modules.manifest import CalibrationImages
from kmod.modules.module_store import ModuleStore
from kmod.report.parts import Branch
from kmod.report.parts import Cell
from kmod.report.parts import Code
from kmod.report.parts import Diagram
from kmod.report.parts import Group
from kmod.report.parts import HeatMap
from kmod.report.parts import Part
from kmod.report.parts import Section
from kmod.report.parts import Table
from kmod.report.parts import Text
from kmod.report.parts import Tile
from kmod.report.parts import figure
from kmod.report.parts import in_bytes
from kmod.report.parts import large
from kmod.report.parts import large_cell
from kmod.report.parts import number
from kmod.report.parts import percent
from kmod.report.parts import share
from kmod.report.subject import Subject
from kmod.spec.model import spec_data
from kmod.spec.spec_file import spec_text

MAST_ROWS, MAST_COLUMNS = 14, 90  # Kernels in the masthead.
WEAK = "weak model"
DASH = figure(None)
# What is recorded of ways without kmod, and how it is headed.
WAY_SHARES = {"accuracy": "accuracy", "f1": "F1 of the class"}
WAY_COUNTS = {
    "parameters": "parameters",
    "macs": "MACs",
    "num_labelled": "labelled images",
}


def summary_tiles(subject: Subject) -> list[Tile]:
    """Returns the figures that a subject is known by."""
    manifest, sizes = subject.manifest, subject.manifest.sizes
    names = manifest.class_names
    modules = len(_modules(subject))
    tiles = [Tile(f"{len(names)}", "classes")]
    if subject.store is not None:
        tiles = [Tile(f"{len(subject.store)}", "modules, one of each class")]
    elif not is_own(manifest):
        sources = {source["source"] for source in manifest.sources}
        tiles += [Tile(f"{modules}", f"modules of {_count(sources, 'source')}")]
    if not subject.results:
        tiles += _retention(subject)
    what = "parameters"
    if subject.store is not None and not subject.results:
        what = "parameters, all modules composed (estimate)"
    tiles.append(Tile(large(sizes["parameters"]), what, _against(subject)))
    tiles.append(
        Tile(
            large(sizes["macs"]),
            what.replace("parameters", "multiply-accumulates for one image"),
            _against(subject, "macs"),
        )
    )
    if subject.size is not None:
        tiles.append(Tile(in_bytes(subject.size), "on disk"))
    return tiles + _known_accuracy(subject)


def _retention(subject):
    modules = _modules(subject)
    if not modules or subject.manifest.slimmed:
        return []
    mean = np.mean([source["retention_rate"] for source in modules])
    return [Tile(percent(mean), "of the kernels in a module, on average")]


def _modules(subject):
    """Lists the different modules of a composition."""
    if is_own(subject.manifest):
        return []
    found = {}
    for source in subject.manifest.sources:
        found.setdefault((source["source"], source["module"]), source)
    return list(found.values())


def _against(subject, key="parameters"):
    """Compares a size with the source's, or with what it was before."""
    manifest = subject.manifest
    size = manifest.sizes[key]
    if manifest.slimmed:
        before = manifest.slimmed["before"][key]
        return f"{size / before:.2f}x, of {large(before)} before"
    if subject.store is not None:
        whole = subject.store.manifest.metrics.get("before", {}).get(key)
        if whole:
            return f"{size / whole:.2f}x the source model's {large(whole)}"
    if manifest.unshared and not manifest.student:
        saved = manifest.unshared[key] - size
        if saved > 0:
            return f"{large(saved)} saved by building once what is shared"
    return ""


def _known_accuracy(subject):
    manifest, tiles = subject.manifest, []
    if subject.store is not None and not subject.results:
        metrics = subject.store.manifest.metrics
        before, after = (
            metrics.get(when, {}).get("accuracy")
            for when in ("before", "after")
        )
        if after is not None:
            note = f"source model {percent(before)}" if before else ""
            tiles.append(
                Tile(percent(after), "accuracy on validation images", note)
            )
    for check in manifest.metrics.get("checks", ()):
        if check["metric"] == "accuracy" and check["class"] is None:
            label = f"accuracy on {check['data']}, a check"
            note = f"at least {percent(check['min'])}"
            tiles.append(Tile(percent(check["value"]), label, note))
    accuracy = manifest.metrics.get("test", {}).get("accuracy")
    if isinstance(accuracy, Mapping) and "after" in accuracy:
        note = f"before the patch {percent(accuracy['before'])}"
        label = "accuracy on test images"
        tiles.append(Tile(percent(accuracy["after"]), label, note))
    for record, what in (
        (manifest.student, "answers as the composition's"),
        (manifest.slimmed, "answers as before"),
    ):
        if "agreement" in record:
            note = f"on {record['num_held_out']:,} held-out images"
            tiles.append(Tile(percent(record["agreement"]), what, note))
    return tiles


def lead(subject: Subject) -> str:
    """Says in a few sentences what a subject is."""
    manifest = subject.manifest
    images = describe(manifest.input)
    if subject.store is not None:
        source = subject.store.manifest.source
        data = subject.store.manifest.data.get("name")
        text = f"Modules of {source.name} ({source.architecture})"
        text += f", trained on {data}" if data else ""
        return f"{text}. Each takes {images} and knows one class."
    text = {
        "distilled model": "One network that learned to answer as a "
        "composition of modules does.",
        "slim model": "A classifier with kernels removed from all of it.",
        "model": "A classifier as it was made, of no modules.",
        "patched model": "A weak model whose answers for some classes take in "
        "those of modules.",
    }.get(subject.kind, "A classifier composed from modules of other models.")
    return f"{text} It takes {images}."


def composition_section(subject: Subject) -> Section:
    """Shows which class comes from which source, and every module."""
    parts: list[Part] = [
        Diagram(
            "Which class comes from which source. Bars are to scale: their "
            "lengths are multiply-accumulates for one image. What several "
            "modules share is run once.",
            _groups(subject),
        )
    ]
    if not is_own(subject.manifest):
        parts.append(_module_table(subject))
    if subject.missing:
        parts.append(Text(subject.missing))
    return Section("composition", "Composition", parts)


def _groups(subject):
    manifest = subject.manifest
    macs = manifest.sizes["macs"]
    everything = [Branch(name) for name in manifest.class_names]
    if manifest.slimmed:
        before = manifest.slimmed["before"]["macs"]
        return [
            Group("before", "with all its kernels", "model", before, []),
            Group(manifest.name, "as it is now", "model", macs, everything),
        ]
    if manifest.student:
        name = manifest.student["architecture"]
        return [Group(name, "one network", "network", macs, everything)]
    if is_own(manifest):
        return [Group(manifest.name, "", "model", macs, everything)]
    by_source = collections.defaultdict(list)
    for source in manifest.sources:
        by_source[source["source"]].append(source)
    groups = [_group(subject, own) for own in by_source.values()]
    if subject.kind == "patched model":
        groups.insert(0, _weak_group(subject))
    return groups


def _group(subject, sources):
    first = sources[0]
    distinct = {source["module"]: source["macs"] for source in sources}
    stem = _stem(subject, first["source"], distinct)
    note = ", ".join(
        filter(None, (first.get("data"), first["license"])),
    )
    branches = [
        Branch(
            (
                "all classes"
                if source["class"] == ALL_CLASSES
                else source["class"]
            ),
            source["macs"] - stem,
            _branch_note(source),
            bool(source.get("auxiliary")),
        )
        for source in sources
    ]
    name = first.get("model") or "a source in memory"
    return Group(name, note, "shared stem", stem, branches)


def _branch_note(source):
    helps = "auxiliary: " if source.get("auxiliary") else ""
    if source["module"] == source["class"]:
        return helps.removesuffix(": ")
    return f"{helps}{source['module']}"


def _stem(subject, digest, distinct):
    """Returns what modules of a source have in common, where it is known."""
    smallest = min(distinct.values())
    for store in subject.stores.values():
        if store.manifest.source.digest == digest:
            macs = store.manifest.metrics.get("stem", {}).get("macs", 0)
            return min(macs, smallest)
    manifest = subject.manifest
    sources = {source["source"] for source in manifest.sources}
    if len(sources) > 1 or len(distinct) == 1 or manifest.unshared is None:
        return 0
    saved = manifest.unshared["macs"] - manifest.sizes["macs"]
    return min(max(saved, 0) // (len(distinct) - 1), smallest)


def _weak_group(subject):
    manifest = subject.manifest
    modules = sum(source["macs"] for source in manifest.sources)
    whole = (manifest.unshared or manifest.sizes)["macs"]
    patched = {
        source["class"]
        for source in manifest.sources
        if not source.get("auxiliary")
    }
    branches = [
        Branch(name, note="patched by a module" if name in patched else "")
        for name in manifest.class_names
    ]
    macs = max(whole - modules, 0)
    return Group(WEAK, "answers for all classes", WEAK, macs, branches)


def _module_table(subject):
    manifest = subject.manifest
    if subject.store is not None:
        (infos,) = subject.module_infos.values()
        return _store_table(infos, subject.store.manifest)
    rows = [
        [
            (
                "all classes"
                if source["class"] == ALL_CLASSES
                else source["class"]
            ),
            source["module"]
            + (" (auxiliary)" if source.get("auxiliary") else ""),
            source.get("model") or "not named",
            source["license"] or "none",
            share(source["retention_rate"]),
            large_cell(source["parameters"]),
            large_cell(source["macs"]),
        ]
        for source in manifest.sources
    ]
    columns = ["class", "module", "source", "licence", "kernels kept"]
    columns += ["parameters", "MACs"]
    caption = "The modules, each as it is by itself."
    if manifest.student:
        caption = "The modules that it learned from; it holds none of them."
    return Table(caption, columns, rows)


def _store_table(infos, manifest):
    whole = manifest.metrics.get("before", {}).get("macs")
    rows = [
        [
            info.class_name,
            share(info.retention_rate),
            large_cell(info.parameters),
            large_cell(info.macs),
            _ratio(info.macs, whole),
            *(figure(info.metrics.get(key)) for key in FIGURES),
            _calibrated_on(info),
        ]
        for info in infos
    ]
    columns = ["class", "kernels kept", "parameters", "MACs", "MACs ÷ source's"]
    columns += ["precision", "recall", "F1", "calibrated on"]
    return Table(
        "Each module alone, on held-out images: it answers yes where its "
        "probability is above one half.",
        columns,
        rows,
    )


FIGURES = ("precision", "recall", "f1")


def _ratio(value, whole):
    return Cell("–") if not whole else Cell(f"{value / whole:.2f}", value)


def _calibrated_on(info):
    images = CalibrationImages.of(info)
    if images is None:
        return Cell("–")
    text = f"{images.num_class_images:,} of {images.num_images:,}"
    return Cell(text, images.num_class_images)


def kernel_section(subject: Subject) -> Section | None:
    """Shows the kernels that modules keep, by layer, and their overlap.

    Returns:
        The section; `None` where no store is there to read them from.
    """
    parts = []
    for store, infos in _stores(subject):
        parts.append(_layer_map(store, infos, len(subject.stores) > 1))
        if len(infos) > 1:
            parts.append(_overlap_map(store, infos))
    return Section("kernels", "Kernels", parts) if parts else None


def _stores(subject) -> Iterator[tuple[ModuleStore, list[ModuleInfo]]]:
    """Yields the stores that are there, and the modules used of each."""
    if is_own(subject.manifest):
        return
    for key, store in subject.stores.items():
        infos = subject.module_infos[key]
        if infos and store.manifest.kernels:
            yield store, infos


def _layer_map(store, infos, is_one_of_several):
    counts = store.manifest.kernels
    layers = list(counts)
    kept = np.array(
        [
            [len(info.kept_kernels.get(layer, ())) for layer in layers]
            for info in infos
        ]
    )
    total = np.array([counts[layer] for layer in layers])
    notes = [
        [
            f"{n} of {all_} kernels, {percent(n / all_)}"
            for n, all_ in zip(row, total)
        ]
        for row in kept
    ]
    of = f" of {store.manifest.source.name}" if is_one_of_several else ""
    return HeatMap(
        f"Kernels{of} that each module keeps, by layer, in percent of the "
        "layer's.",
        [info.class_name for info in infos],
        layers,
        "class",
        "layer",
        kept / total,
        notes=notes,
    )


def _overlap_map(store, infos):
    names = [info.class_name for info in infos]
    return HeatMap(
        "Overlap of kernels: those that two modules of "
        f"{store.manifest.source.name} share ÷ those that either has (Jaccard "
        "index), in percent.",
        names,
        names,
        "class",
        "class",
        class_overlap(module_masks(infos, store.manifest.kernels)),
    )


def module_masks(infos: list[ModuleInfo], counts: Mapping[str, int]):
    """Returns the kernel masks of modules, `(modules, kernels)`."""
    masks = kept_masks([info.kept_kernels for info in infos], counts)
    return np.concatenate(list(masks.values()), axis=1)


def mast_masks(subject: Subject) -> list[list[int]]:
    """Returns a few classes' masks, each with a few kernels."""
    for store, infos in _stores(subject):
        masks = module_masks(infos[:MAST_ROWS], store.manifest.kernels)
        # Where all keep all there is nothing to see.
        columns = np.flatnonzero(masks.min(axis=0) < masks.max(axis=0))
        if len(columns):
            some = np.linspace(0, len(columns) - 1, MAST_COLUMNS).astype(int)
            return masks[:, columns[some]].tolist()
    return []


def provenance_section(subject: Subject) -> Section:
    """Says what a subject was made from, by whom and under which licence."""
    parts: list[Part] = [
        Table("What is known of it.", ["what", "is"], _facts(subject))
    ]
    rows = [
        [
            store.manifest.source.name,
            store.manifest.source.digest,
            _in_words(store.manifest.data) or "not named",
            store.manifest.license or "none",
            store.manifest.method,
            number(store.manifest.seed),
            store.digest,
        ]
        for store in subject.stores.values()
    ]
    if rows:
        columns = ["source model", "its digest", "data", "licence", "method"]
        columns += ["seed", "digest of the store"]
        parts.append(Table("The stores of its modules.", columns, rows))
    elif not is_own(subject.manifest):
        parts.append(_digests(subject.manifest))
    if subject.store is not None:
        parts += _arguments(subject.store.manifest)
    ways = _ways(subject.manifest.metrics.get("ways"))
    if ways:
        caption = (
            "What it was compared with on the same images when it was made."
        )
        columns = ["way", *WAY_SHARES.values(), *WAY_COUNTS.values()]
        known = [n for n, own in enumerate(zip(*ways)) if set(own) != {DASH}]
        columns, *ways = (
            [row[index] for index in known] for row in (columns, *ways)
        )
        parts.append(Table(caption, columns, ways))
    recorded = _recorded(subject.manifest.metrics)
    if recorded:
        caption = "Figures that were recorded when it was made."
        parts.append(Table(caption, ["figure", "value"], recorded))
    return Section("provenance", "Where it is from", parts)


def _facts(subject):
    manifest = subject.manifest
    facts = {
        "name": manifest.name,
        "kind": subject.kind,
        "images": describe(manifest.input),
        "answers with": manifest.output,
        "licence": manifest.license or "none",
        "class for all other images": manifest.other,
        "made with": _in_words(manifest.created_by),
    }
    if subject.store is not None:
        store = subject.store.manifest
        facts["licence"] = store.license or "none"
        facts["made with"] = _in_words(store.created_by)
        if store.familiarity is not None:
            count = store.familiarity["num_images"]
            facts["familiarity"] = f"of {count:,} images"
        if store.custom_layers:
            facts["layers of its own"] = ", ".join(store.custom_layers)
    calibration = manifest.calibration
    if calibration:
        facts["scores"] = _calibration(calibration)
    for record, what in (
        (manifest.student, "learned on"),
        (manifest.slimmed, "slimmed on"),
    ):
        if record:
            facts[what] = (
                f"{learned_images(record)} of {record['data']}, "
                f"{record['epochs']} epochs"
            )
    return [[key, str(facts[key])] for key in facts if facts[key]]


def _calibration(calibration):
    words = [f"calibration {calibration['kind']}"]
    if "num_images" in calibration:
        words.append(f"on {calibration['num_images']:,} images")
    if calibration.get("prior") is not None:
        words.append(f"classes {prior_in_words(calibration['prior'])}")
    if calibration.get("routed"):
        words.append("familiarity tells sources apart")
    return ", ".join(words)


def _digests(manifest):
    found = {
        source["source"]: [
            source.get("model") or "not named",
            source["source"],
            source.get("data") or "not named",
            source["license"] or "none",
            source["store"] or "given in memory",
        ]
        for source in manifest.sources
    }
    columns = ["source model", "its digest", "data", "licence"]
    columns += ["digest of the store"]
    return Table("The sources of its modules.", columns, list(found.values()))


def _arguments(manifest):
    rows = [
        [name, str(value)]
        for name, value in _flat(manifest.arguments)
        if value not in (None, [], ())
    ]
    caption = f"How its modules were made: arguments of {manifest.method}."
    return [Table(caption, ["argument", "value"], rows)] if rows else []


def _flat(data: Mapping[str, Any], path: str = ""):
    """Yields what nested mappings hold, with its path."""
    for key, value in data.items():
        name = f"{path} {key}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _ways(rows):
    """Shows what a manifest holds of ways without kmod; nothing of others."""
    rows = rows if isinstance(rows, list) else []
    return [
        [
            str(row["name"]),
            *(figure(_number(row.get(key))) for key in WAY_SHARES),
            *(number(_number(row.get(key))) for key in WAY_COUNTS),
        ]
        for row in rows
        if isinstance(row, Mapping) and "name" in row
    ]


def _number(value):
    return value if isinstance(value, (int, float)) else None


def _recorded(metrics):
    return [
        [name, Cell(f"{value:,.4g}", float(value))]
        for name, value in _flat(metrics)
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]


def _in_words(data):
    return ", ".join(f"{k} {v}" for k, v in data.items() if v is not None)


def _count(items, noun):
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def reproduce_section(subject: Subject) -> Section:
    """Says how to make a subject again."""
    parts = []
    if subject.results:
        command = ["kmod", "demo", "--data", subject.results["data"]["name"]]
        command += ["--seed", str(subject.results["seed"])]
        parts.append(Code("The whole demo.", shlex.join(command)))
    elif subject.store is not None:
        parts.append(_store_command(subject.store.manifest))
    if subject.spec is not None:
        name = subject.spec.path.name
        parts.append(
            Code(
                f"The spec, {name}. Its paths start in its own folder.",
                _spec_text(subject.spec),
            )
        )
        command = f"kmod check {name}\nkmod compose {name} --out built"
        parts.append(Code("Commands that build it.", command))
    if not parts:
        parts.append(Text(_without_spec(subject)))
    return Section("reproduce", "Make it again", parts)


def _without_spec(subject):
    verb = {
        "slim model": "kmod slim",
        "distilled model": "kmod distil",
        "patched model": "kmod patch",
    }.get(subject.kind, "kmod compose")
    is_trained = subject.kind in ("slim model", "distilled model")
    if subject.manifest.metrics.get("ways") and not is_trained:
        verb = "kmod choose or kmod patch with --take"  # They keep no spec.
    return (
        f"No spec is kept with it. {verb} makes such a model again, from what "
        "the tables above name."
    )


def _store_command(manifest):
    source, method = manifest.source.name, manifest.method
    options = _import_options if method == "import" else _modularize_options
    command = ["kmod", "import" if method == "import" else "modularize"]
    command += [f"{source}.keras"]
    command += ["--data", str(manifest.data.get("name") or "DATA")]
    for option, value in options(manifest).items():
        if value is not None:
            command += [option, str(value)]
    command += ["--out", f"modules/{source}"]
    return Code(
        "How modules like these are made; the table above has all arguments.",
        shlex.join(command),
    )


def _import_options(manifest):
    options = {"--output": manifest.arguments.get("output")}
    if "class_index" in manifest.arguments:
        options["--class"] = manifest.class_names[0]
        options["--class-index"] = manifest.arguments["class_index"]
    return options


def _modularize_options(manifest):
    if manifest.method == "cnnsplitter":
        return {"--method": "cnnsplitter", "--seed": manifest.seed}
    arguments = manifest.arguments
    recipe = arguments.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    options = {
        "--mask-from": arguments.get("mask_from"),
        "--recipe": recipe.get("name"),
        "--macs-target": recipe.get("macs_target"),
        "--seed": manifest.seed,
    }
    if options["--macs-target"] is None:
        options["--retention-target"] = recipe.get("retention_target")
    return options


def _spec_text(spec):
    if spec.path.is_file():
        return spec.path.read_text(encoding="utf-8")
    return spec_text(spec_data(spec), spec.path)
