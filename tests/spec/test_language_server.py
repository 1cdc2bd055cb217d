"""What an editor with the YAML language server makes of a spec.

Needs `yaml-language-server` of npm on the PATH, or its path in
KMOD_YAML_LANGUAGE_SERVER; skipped without.
"""

import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from importlib import resources
from pathlib import Path

import pytest

from kmod.errors import SpecError
from kmod.spec.spec_file import load_spec

SERVER = os.environ.get("KMOD_YAML_LANGUAGE_SERVER") or shutil.which(
    "yaml-language-server"
)
SECONDS = 60
SETTINGS = {
    "validate": True,
    "completion": True,
    "hover": True,
    "schemaStore": {"enable": False},
}
SCHEMA = "composition.schema.json"
EXAMPLES = Path(__file__).parents[2] / "specs"
GOOD = f"""\
# yaml-language-server: $schema={SCHEMA}
version: 1
name: pets
stores:
  cifar: {{path: cifar}}
classes:
  - {{name: cat, module: {{store: cifar, class: cat}}}}
  - {{name: dog, module: {{store: cifar, class: dog}}}}
"""

pytestmark = pytest.mark.skipif(
    SERVER is None,
    reason="yaml-language-server is not on the PATH; "
    "`npm install --global yaml-language-server` brings it",
)


class LanguageServer:
    """Talks to a language server over its standard input and output."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [SERVER, "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._received = queue.Queue()
        self._numbers = itertools.count()
        threading.Thread(target=self._listen, daemon=True).start()
        root = folder.as_uri()
        folders = [{"uri": root, "name": "specs"}]
        workspace = {"configuration": True, "workspaceFolders": True}
        self.ask(
            "initialize",
            processId=None,
            rootUri=root,
            workspaceFolders=folders,
            capabilities={"workspace": workspace},
        )
        self.tell("initialized")

    def close(self):
        self._process.terminate()
        self._process.wait()

    def tell(self, method, **params):
        self._send({"method": method, "params": params})

    def ask(self, method, **params):
        number = next(self._numbers)
        self._send({"id": number, "method": method, "params": params})
        is_answer = self._until(lambda m: m.get("id") == number)
        return is_answer["result"]

    def open(self, path):
        """Opens a file; returns its diagnostics."""
        self.tell(
            "textDocument/didOpen",
            textDocument={
                "uri": path.as_uri(),
                "languageId": "yaml",
                "version": 1,
                "text": path.read_text(encoding="utf-8"),
            },
        )
        published = "textDocument/publishDiagnostics"
        message = self._until(lambda m: m.get("method") == published)
        return message["params"]["diagnostics"]

    def complete(self, path, line, character):
        result = self.ask(
            "textDocument/completion",
            textDocument={"uri": path.as_uri()},
            position={"line": line, "character": character},
        )
        return {item["label"] for item in result["items"]}

    def _until(self, is_wanted):
        """Answers what the server asks until it says what is wanted."""
        while True:
            message = self._received.get(timeout=SECONDS)
            if "method" in message and "id" in message:
                self._answer(message)
            elif is_wanted(message):
                return message

    def _answer(self, message):
        result = None
        if message["method"] == "workspace/configuration":
            result = [
                SETTINGS if item.get("section") == "yaml" else {}
                for item in message["params"]["items"]
            ]
        self._send({"id": message["id"], "result": result})

    def _send(self, message):
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        head = f"Content-Length: {len(content)}\r\n\r\n".encode()
        self._process.stdin.write(head + content)
        self._process.stdin.flush()

    def _listen(self):
        stream = self._process.stdout
        while head := stream.readline():
            if head.lower().startswith(b"content-length:"):
                size = int(head.split(b":")[1])
                while stream.readline().strip():
                    pass  # Further headers, then an empty line.
                self._received.put(json.loads(stream.read(size)))


@pytest.fixture
def server(tmp_path):
    schema = resources.files("kmod.spec") / SCHEMA
    (tmp_path / SCHEMA).write_text(schema.read_text(encoding="utf-8"))
    server = LanguageServer(tmp_path)
    yield server
    server.close()


def faults_of(path):
    try:
        load_spec(path)
    except SpecError as error:
        return error.faults
    return ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("", "", id="none"),
        pytest.param("name: pets", "name: pets\nnmae: zoo", id="unknown-key"),
        pytest.param("class: dog", "class: dog, size: 1", id="unknown-nested"),
        pytest.param("name: pets", "name: [pets]", id="list-for-text"),
        pytest.param("{path: cifar}", "cifar", id="text-for-mapping"),
        pytest.param("version: 1", "version: 2", id="version"),
        pytest.param(", class: dog", "", id="missing-key"),
        pytest.param("path: cifar", "path: ~/cifar", id="path"),
        pytest.param(
            "classes:", "scores: {calibration: storde}\nclasses:", id="enum"
        ),
        pytest.param(
            "classes:", "scores: {calibration: fit}\nclasses:", id="fit"
        ),
        pytest.param(
            "name: cat, module: {store: cifar, class: cat}",
            "name: cat",
            id="no-module",
        ),
    ],
)
def test_it_marks_the_lines_that_kmod_marks(server, tmp_path, old, new):
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    marked = {item["range"]["start"]["line"] for item in server.open(path)}
    assert marked == {fault.line - 1 for fault in faults_of(path)}
    assert bool(marked) == bool(old)


@pytest.mark.parametrize(
    "example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.stem
)
def test_it_marks_nothing_in_the_examples(server, tmp_path, example):
    text = example.read_text(encoding="utf-8")
    path = tmp_path / example.name
    path.write_text(text.replace("../kmod/spec/", ""))
    assert server.open(path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            GOOD, {"license", "input", "scores", "checks"}, id="top-level"
        ),
        pytest.param(
            f"{GOOD}scores:\n  ",
            {"calibration", "data", "images_per_class", "output", "other"},
            id="scores",
        ),
        pytest.param(
            f"{GOOD}scores:\n  calibration: ",
            {"stored", "none", "fit", "joint"},
            id="values",
        ),
        pytest.param(f"{GOOD}checks:\n  - ", {"metric", "min"}, id="checks"),
    ],
)
def test_it_completes_keys_and_values(server, tmp_path, text, expected):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    server.open(path)
    lines = text.split("\n")
    offered = server.complete(path, len(lines) - 1, len(lines[-1]))
    assert expected <= offered


def test_it_explains_a_key(server, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD)
    server.open(path)
    hover = server.ask(
        "textDocument/hover",
        textDocument={"uri": path.as_uri()},
        position={"line": 2, "character": 1},
    )
    assert "Name of the composed model" in hover["contents"]["value"]
