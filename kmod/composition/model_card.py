"""Writes the model card of a composed model, as Hugging Face reads it."""

import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import yaml

# Licences that Hugging Face knows by its own name, the SPDX id in lower case.
KNOWN_LICENSES = {
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "mit",
    "mpl-2.0",
    "unlicense",
}
# What Hugging Face takes for the name of a model or data set.
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&$@])")

LOADING = {
    "keras": """\
As a Keras model, of built-in layers only:

```python
import keras

model = keras.saving.load_model("model.keras", safe_mode=True)
scores = model.predict(images)
```
""",
    "savedmodel": """\
As a SavedModel, with TensorFlow alone:

```python
import tensorflow as tf

served = tf.saved_model.load("saved_model")
answers = served.serve(images)
print(answers["class_name"])
```
""",
    "litert": """\
With LiteRT; `labels.txt` names the classes, one a line:

```python
from ai_edge_litert.interpreter import Interpreter

serve = Interpreter("model.tflite").get_signature_runner("serve")
probabilities = serve(image=images)["probabilities"]
```
""",
    "onnx": """\
With ONNX Runtime; `labels.txt` names the classes, one a line:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = session.run(["probabilities"], {"image": images})
```
""",
}


def model_card(manifest: Mapping[str, Any], formats: Sequence[str]) -> str:
    """Returns the model card of a composed model.

    Args:
        manifest: Its manifest as plain data.
        formats: Which forms of it there are, keys of `LOADING`.

    Returns:
        Markdown after a YAML front matter. Names, which may be any text, are
        escaped.
    """
    sections = [
        _front_matter(manifest),
        f"# {_escaped(manifest['name'])}\n",
        _introduction(manifest),
        "## Classes and their sources\n",
        _sources(manifest),
        "## Figures\n",
        _figures(manifest),
        "## How to load it\n",
        *(LOADING[name] for name in formats),
    ]
    return "\n".join(sections)


def _front_matter(manifest):
    sources = manifest["sources"]
    data = {
        **_license(manifest["license"]),
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["kmod", "modular", "image-classification"],
        "datasets": _repositories(source["data"] for source in sources),
        "base_model": _repositories(source["model"] for source in sources),
        "metrics": ["accuracy"],
    }
    text = yaml.safe_dump(
        {key: value for key, value in data.items() if value}, sort_keys=False
    )
    return f"---\n{text}---\n"


def _license(expression):
    if expression is None:
        return {"license": "unknown"}
    if expression.lower() in KNOWN_LICENSES:
        return {"license": expression.lower()}
    return {"license": "other", "license_name": expression}


def _repositories(names):
    """Keeps the different names that may be those of a repository."""
    return [
        name
        for name in dict.fromkeys(names)
        if name is not None and REPOSITORY.fullmatch(name)
    ]


def _introduction(manifest):
    contract = manifest["input"]
    shape = "x".join(str(size) for size in contract["shape"])
    low, high = contract["range"]
    text = (
        f"A classifier of {len(manifest['class_names'])} classes that kmod "
        "composed from modules of other models. It takes "
        f"{contract['dtype']} images of {shape} with values from {low:g} to "
        f"{high:g} and answers with {manifest['output']}; of equal answers "
        "the first class counts.\n"
    )
    if manifest["other"] is not None:
        text += (
            f"\nThe class {_escaped(manifest['other'])} is for images that no "
            "module claims.\n"
        )
    return text


def _sources(manifest):
    rows = [
        [
            source["class"],
            source["module"] + (" (support)" if source.get("support") else ""),
            source["model"],
            source["data"] or "not named",
            source["license"] or "none",
            f"{source['retention_rate']:.1%}",
            source["store"],
        ]
        for source in manifest["sources"]
    ]
    columns = (
        *("class", "module", "source model", "data", "licence"),
        *("kernels kept", "store"),
    )
    return _table(columns, rows)


def _figures(manifest):
    sizes, unshared = manifest["sizes"], manifest["unshared"]
    parts = [
        _table(
            ("", "parameters", "MACs for one image"),
            [
                [name, f"{row['parameters']:,}", f"{row['macs']:,}"]
                for name, row in (
                    ("model", sizes),
                    ("its parts, nothing shared", unshared),
                )
            ],
        )
    ]
    checks = manifest["metrics"].get("checks", ())
    if checks:
        rows = [
            [
                check["metric"],
                check["class"] or "all",
                check["data"],
                f"{check['value']:.4f}",
                f"{check['min']:g}",
            ]
            for check in checks
        ]
        parts.append("Checks that the model had to pass:\n")
        parts.append(
            _table(("metric", "class", "data", "measured", "least"), rows)
        )
    measured = [
        [name, f"{value:.4f}"]
        for name, value in _numbers(manifest["metrics"])
        if not name.startswith("checks")
    ]
    if measured:
        parts.append("Other measurements:\n")
        parts.append(_table(("figure", "value"), measured))
    return "\n".join(parts)


def _numbers(data, name=""):
    """Yields the numbers in nested mappings with their path."""
    for key, value in data.items():
        path = f"{name} {key}".strip()
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, (int, float)):
            yield path, value


def _table(columns, rows):
    lines = [
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _escaped(text):
    """Makes Markdown show any text as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))
