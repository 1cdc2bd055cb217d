import dataclasses
import os
import re
import time
from pathlib import Path

import pytest

from kmod.errors import SpecError
from kmod.errors import UsageError
from kmod.spec.faults import MAX_FAULTS
from kmod.spec.faults import InvalidSpecError
from kmod.spec.model import BaseModel
from kmod.spec.model import ClassEntry
from kmod.spec.model import ModuleRef
from kmod.spec.model import PatchEntry
from kmod.spec.model import PatchLayer
from kmod.spec.model import StoreRef
from kmod.spec.model import spec_data
from kmod.spec.spec_file import load_spec
from kmod.spec.spec_file import parse_spec
from kmod.spec.spec_file import write_spec

DOCS = Path(__file__).parents[2] / "docs"
DIGEST = "sha256:" + "0a" * 32

CLASSES = f"""\
version: 1
name: pets
license: MIT
stores:
  cifar: {{path: ../modules/cifar, digest: "{DIGEST}"}}
classes:
  - {{name: cat, module: {{store: cifar, class: cat}}}}
  - name: hound
    module:
      store: cifar
      class: dog
scores:
  calibration: none
"""

PATCH = """\
version: 1
name: patched
stores:
  cifar: {path: store}
base:
  path: weak.keras
  classes: [cat, dog]
patches:
  - class: cat
    module: {store: cifar, class: kitty}
    combine: calibrated
    layer:
      module: [1, 0]
      weak: [0.5, 2]
      bias: [-2.5e-1, 0]
"""


# As specs were written before `auxiliary` had its name.
OLD_JOINT = """\
version: 1
name: pets
stores:
  cifar: {path: store}
classes:
  - {name: cat, module: {store: cifar, class: cat}}
  - {name: dog, module: {store: cifar, class: dog}}
scores:
  calibration: joint
  data: {name: pets, split: train}
  support: [{store: cifar, class: 010}]
"""

OLD_PATCH = """\
version: 1
name: patched
stores:
  cifar: {path: store}
base: {path: weak.keras, classes: [cat, dog]}
patches:
  - class: cat
    module: {store: cifar, class: kitty}
    support: [no]
    layer: {module: [1, 2], weak: [3, 4], bias: [5, 6], support: [[7, 8]]}
"""


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "spec.yaml"
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return path

    return write_file


@pytest.fixture
def faults_of(write):
    def load(content):
        path = write(content)
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        return [
            line.removeprefix(f"{path}:")
            for line in str(caught.value).splitlines()
        ]

    return load


def test_classes_spec_becomes_data(write, tmp_path):
    spec = load_spec(write(CLASSES))
    assert (spec.name, spec.license, spec.scores.calibration) == (
        "pets",
        "MIT",
        "none",
    )
    assert spec.path == tmp_path / "spec.yaml"
    assert spec.stores == {
        "cifar": StoreRef(tmp_path.parent / "modules" / "cifar", DIGEST)
    }
    assert spec.classes == (
        ClassEntry("cat", (ModuleRef("cifar", "cat"),)),
        ClassEntry("hound", (ModuleRef("cifar", "dog"),)),
    )
    assert spec.class_names == ("cat", "hound")
    assert (spec.base, spec.patches, spec.warnings) == (None, (), ())


def test_patch_spec_becomes_data(write, tmp_path):
    spec = load_spec(write(PATCH))
    assert spec.base == BaseModel(tmp_path / "weak.keras", ("cat", "dog"))
    assert spec.patches == (
        PatchEntry(
            "cat",
            ModuleRef("cifar", "kitty"),
            "calibrated",
            layer=PatchLayer((1.0, 0.0), (0.5, 2.0), (-0.25, 0.0)),
        ),
    )
    assert spec.class_names == ("cat", "dog")
    assert spec.classes == ()


def test_content_in_the_place_of_a_path_is_refused():
    with pytest.raises(UsageError, match="of a spec must .* of type dict"):
        load_spec({"version": 1})


def test_optional_keys_have_defaults(write):
    text = PATCH[: PATCH.index("    combine")]
    patch = load_spec(write(text)).patches[0]
    assert (patch.combine, patch.layer) == ("calibrated", None)
    spec = load_spec(write(CLASSES[: CLASSES.index("scores")]))
    assert spec.scores.calibration == "stored"


@pytest.mark.parametrize(
    "name",
    ["no", "010", "0", "1.10", "null", "~", "1e3", "2001-01-01", "=", "0x1F"],
)
def test_class_names_stay_as_written(write, name):
    text = CLASSES.replace("cat", name)
    spec = load_spec(write(text))
    assert spec.classes[0] == ClassEntry(name, (ModuleRef("cifar", name),))
    spec = load_spec(write(PATCH.replace("cat", name)))
    assert spec.base.classes[0] == spec.patches[0].class_name == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("\U0001f408", id="emoji"),
        pytest.param("cafe\u0301", id="decomposed"),
        pytest.param("caf\u00e9", id="composed"),
        pytest.param("\u202etac", id="right-to-left"),
        pytest.param("../cat", id="path"),
        pytest.param("[red]cat", id="markup"),
    ],
)
def test_unicode_class_names_are_kept(write, name):
    spec = load_spec(write(CLASSES.replace("name: cat", f'name: "{name}"')))
    assert spec.class_names == (name, "hound")


def test_byte_order_mark_in_front_is_accepted(write):
    spec = load_spec(write(b"\xef\xbb\xbf" + CLASSES.encode()))
    assert spec.name == "pets"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param("", "1:1: the file is empty", id="empty"),
        pytest.param("# a\n# b\n", ":1: the file is empty", id="comments"),
        pytest.param(
            b"name: \xe9",
            "1:7: a spec is UTF-8 text. Received: the byte 0xe9",
            id="latin-1",
        ),
        pytest.param(
            b"\xef\xbb\xbfname: \xe9",
            "1:7: a spec is UTF-8 text. Received: the byte 0xe9",
            id="latin-1-behind-byte-order-mark",
        ),
        pytest.param(
            CLASSES.encode("utf-16"), "1:1: a spec is UTF-8", id="utf-16"
        ),
        pytest.param(
            "a: 1\nb: x\ufeffy",
            "2:5: control characters and byte order marks inside",
            id="byte-order-mark-inside",
        ),
        pytest.param("a: x\0y", "1:5: control characters", id="nul"),
        pytest.param("a: x\x1by", "Received: U+001B.", id="escape"),
        pytest.param("stores:\n\ta: 1", "2:1: this is not YAML", id="tab"),
        pytest.param("stores:\n\ta: 1", "Indent with spaces", id="tab-hint"),
        pytest.param("a: [1", "this is not YAML", id="unclosed"),
        pytest.param(
            "a: 1\n---\nb: 1", "2:1: a spec is one YAML document", id="two"
        ),
        pytest.param(
            "- a",
            "1:1: the spec must be a mapping of keys to values. "
            "Received: a list of 1.",
            id="list",
        ),
        pytest.param(
            "pets",
            "1:1: the spec must be a mapping of keys to values. "
            "Received: 'pets'.",
            id="scalar",
        ),
        pytest.param(
            "a: " + "x" * 2**20,
            "1:1: a spec has at most 1048576 bytes",
            id="too-big",
        ),
        pytest.param(
            "[" * 33 + "]" * 33,
            "1:33: a spec has at most 32 levels",
            id="33-levels",
        ),
        pytest.param("[" * 10_000, "at most 32 levels", id="brackets"),
        pytest.param("a: &b 1", "1:4: anchors and aliases", id="anchor"),
        pytest.param("a: *b", "1:4: anchors and aliases", id="alias"),
        pytest.param("a: &b [*b]", "1:4: anchors", id="recursive-alias"),
        pytest.param("a: {<<: {b: 1}}", "1:5: merge keys", id="merge-key"),
        pytest.param(
            "a: !!python/object/apply:os.getcwd []",
            "1:4: tags (!) are not accepted. Received: 'tag:yaml.org",
            id="python-tag",
        ),
        pytest.param("a: !x 1", "1:4: tags (!)", id="own-tag"),
        pytest.param("? [a]\n: b", "1:3: a key is plain text", id="list-key"),
    ],
)
def test_file_that_is_no_spec_is_refused(faults_of, content, fault):
    faults = faults_of(content)
    assert len(faults) == 1
    assert fault in faults[0]
    assert re.match(r"\d+:\d+: ", faults[0])


def test_alias_bomb_is_refused_at_once(faults_of):
    levels = [f"l{i}: &l{i} [{f'*l{i - 1},' * 9}]" for i in range(1, 9)]
    start = time.process_time()
    assert "anchors" in faults_of("\n".join(["l0: &l0 x", *levels]))[0]
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        pytest.param(
            "name: pets",
            "name: pets\nname: zoo",
            "3:1: the key 'name' appears twice. Keep one.",
            id="repeated-key",
        ),
        pytest.param(
            "store: cifar, class: cat",
            "store: cifar, class: cat, class: dog",
            "7:52: the key 'class' appears twice.",
            id="repeated-nested-key",
        ),
        pytest.param(
            "      class: dog",
            "      clas: dog",
            "11:7: unknown key 'clas' in `classes[1].module`. Did you mean "
            "'class'? Accepted: 'store', 'class'.",
            id="unknown-key",
        ),
        pytest.param(
            "name: pets\n",
            "",
            "1:1: the spec lacks the required `name`. Received: the keys",
            id="missing-key",
        ),
        pytest.param(
            "      class: dog\n",
            "",
            "10:7: `classes[1].module` lacks the required `class`. "
            "Received: the keys 'store'.",
            id="missing-nested-key",
        ),
        pytest.param(
            "version: 1",
            "version: 2",
            "1:10: `version` must be 1, the only version that this kmod "
            "reads. Received: '2'.",
            id="version",
        ),
        pytest.param(
            "version: 1",
            "version: '1'",
            "Received: '1'. YAML reads this as text. Write 1, without quotes.",
            id="quoted-version",
        ),
        pytest.param(
            "version: 1",
            "version: true",
            "1:10: `version` must be 1",
            id="bool-version",
        ),
        pytest.param(
            "name: pets",
            "name: no",
            "2:7: `name` must be text. Received: 'no'. YAML reads a bare yes, "
            "no, on, off, true or false as a truth value. If it is text, "
            'quote it: "no".',
            id="bare-no",
        ),
        pytest.param(
            "name: pets",
            "name: 12",
            'YAML does not read this as text. Quote it: "12".',
            id="number-for-text",
        ),
        pytest.param(
            "name: pets",
            "name: a/b",
            "2:7: `name` is not valid. Accepted: up to 100 letters, digits",
            id="name",
        ),
        pytest.param(
            "name: pets", 'name: "a\\nb"', "2:7: text is one line", id="newline"
        ),
        pytest.param(
            "name: cat",
            'name: "cat\\0"',
            "7:12: text is one line without control characters.",
            id="escaped-nul",
        ),
        pytest.param(
            "name: cat",
            "name: ''",
            "`classes[0].name` must not be empty",
            id="empty-name",
        ),
        pytest.param(
            "name: cat",
            "name: [cat]",
            "must be text. Received: a list of 1",
            id="list-for-text",
        ),
        pytest.param(
            "license: MIT",
            f"license: {'MIT' * 100}",
            "3:10: `license` must have at most 200 characters",
            id="long-text",
        ),
        pytest.param(
            DIGEST,
            "md5:0",
            "5:43: `stores.cifar.digest` is not valid. Accepted: `sha256:`",
            id="digest",
        ),
        pytest.param(
            "  cifar: {",
            "  ci far: {",
            "5:3: the key 'ci far' is not valid. Accepted: up to 100 letters",
            id="store-id",
        ),
        pytest.param(
            "calibration: none",
            "calibration: storde",
            "13:16: `scores.calibration` is not valid. Did you mean 'stored'? "
            "Accepted: 'stored', 'unlabelled', 'none', 'fit', 'joint'. "
            "Received: 'storde'.",
            id="calibration",
        ),
        pytest.param(
            "scores:",
            "base: {path: a, classes: [a, b]}\nscores:",
            "1:1: the spec must have either `classes` (and `scores`) or `base` "
            "and `patches`, not both.",
            id="classes-and-base",
        ),
    ],
)
def test_fault_is_reported_at_its_place(faults_of, old, new, fault):
    assert old in CLASSES
    faults = faults_of(CLASSES.replace(old, new))
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        pytest.param(
            "weak: [0.5",
            "weak: [1e-3",
            "14:14: `patches[0].layer.weak[0]` must be a number. Received: "
            "'1e-3'. YAML reads this as text. Write 0.001, without quotes.",
            id="exponent-without-dot",
        ),
        pytest.param(
            "weak: [0.5",
            "weak: [1e-10",
            "Write 1.0e-10, without quotes.",
            id="small-exponent",
        ),
        pytest.param(
            "weak: [0.5", "weak: [1e999", "Received: '1e999'.", id="inf"
        ),
        pytest.param(
            "weak: [0.5",
            "weak: [.nan",
            "must be a number. Received: '.nan'.",
            id="not-a-number",
        ),
        pytest.param(
            "weak: [0.5",
            "weak: [-.inf",
            "must be a number",
            id="minus-infinity",
        ),
        pytest.param(
            "weak: [0.5",
            f"weak: [{'9' * 5000}",
            "must be a number",
            id="more-digits-than-an-integer-has",
        ),
        pytest.param(
            "weak: [0.5", "weak: [1000001", "must be at most 1000000", id="big"
        ),
        pytest.param(
            "weak: [0.5",
            "weak: [-1000001",
            "must be at least -1000000",
            id="small",
        ),
        pytest.param(
            "weak: [0.5",
            "weak: [on",
            "must be a number. Received: 'on'. YAML "
            "reads a bare yes, no, on",
            id="truth-value",
        ),
        pytest.param(
            "    layer:",
            "    coefficients: {module: 1, weak: 0.5, bias: -1}\n    layer:",
            "12:5: unknown key 'coefficients' in `patches[0]`.",
            id="removed-coefficients",
        ),
        pytest.param(
            "combine: calibrated",
            "combine: row",
            "11:14: `patches[0].combine` is not valid. Did you mean 'raw'? "
            "Accepted: 'calibrated', 'divided', 'minmax', 'raw'.",
            id="combine",
        ),
        pytest.param(
            "patches:",
            "scores: {calibration: none}\npatches:",
            "the spec must have either `classes` (and `scores`) or",
            id="scores-in-patch-spec",
        ),
        pytest.param(
            "[cat, dog]",
            "[cat]",
            "`base.classes` must have at least 2 items",
            id="one-class",
        ),
    ],
)
def test_fault_of_a_patch_is_reported_at_its_place(faults_of, old, new, fault):
    assert old in PATCH
    faults = faults_of(PATCH.replace(old, new))
    assert any(fault in line for line in faults), faults


def test_where_a_list_is_due_no_number_is_asked_for(faults_of):
    text = PATCH.replace("combine: calibrated", 'auxiliary: "5"')
    (fault,) = [line for line in faults_of(text) if "must be a list" in line]
    assert fault.endswith("Received: '5'.")


@pytest.mark.parametrize(
    "path",
    [
        "store",
        "./store",
        "../store",
        "../../a/b/",
        "..",
        "a/../../store",
        "a b/c.d",
        ".hidden/x",
        "..hidden",
    ],
)
def test_relative_paths_are_accepted(write, tmp_path, path):
    spec = load_spec(write(PATCH.replace("path: store", f"path: {path}")))
    assert spec.stores["cifar"].path == (tmp_path / path).resolve()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//host/share",
        "~/store",
        "~root/store",
        "ftp://host/store",
        "file:store",
        "C:/store",
        "..\\\\store",
        "store./x",
        "...",
        "store ",
        "a /b",
        "a//b",
    ],
)
def test_unsafe_paths_are_refused(faults_of, path):
    for old in ("store", "weak.keras"):
        faults = faults_of(PATCH.replace(f"path: {old}", f'path: "{path}"'))
        assert len(faults) == 1
        assert "not valid. Accepted: a path from the spec's own" in faults[0]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/passwd", "An absolute path holds on one machine only."),
        ("C:/store", "An absolute path holds on one machine only."),
        ("~/store", "`~` is another folder for everybody."),
        (
            "ftp://host/store",
            "Only stores of composition specs are downloaded.",
        ),
        (
            "a:b/store",
            "Write ./ before a name with a colon, which is no URL then.",
        ),
        ("..\\\\store", "Write / for \\, on Windows, too."),
        ("a /b", "Windows drops a dot or space at the end of a name."),
        ("a//b", "Received: 'a//b'."),
    ],
)
def test_unsafe_path_is_refused_with_a_reason(faults_of, path, reason):
    faults = faults_of(PATCH.replace("path: store", f'path: "{path}"'))
    assert faults[0].endswith(reason)


def test_store_at_a_url_is_pinned(write, faults_of, tmp_path):
    text = PATCH.replace("path: store", 'path: "https://host/store/"')
    assert faults_of(text)[0].endswith("`kmod inspect URL` says which it has.")
    pinned = text.replace('store/"', f'store/", digest: "{DIGEST}"')
    spec = load_spec(write(pinned))
    assert spec.stores["cifar"].path == "https://host/store"
    assert spec.stores["cifar"].location == f"https://host/store#{DIGEST}"
    written = write_spec(spec_data(spec), tmp_path / "folder" / "again.yaml")
    assert written.stores == spec.stores


def test_base_at_a_url_is_refused(faults_of):
    text = PATCH.replace("path: weak.keras", 'path: "https://host/weak.keras"')
    assert "not absolute, no `~`, URL or backslash" in faults_of(text)[0]


@pytest.mark.parametrize("path", ["./a:b/store", "../a:b", "a/b:c/d"])
def test_names_with_a_colon_are_no_urls(write, tmp_path, path):
    spec = load_spec(write(PATCH.replace("path: store", f"path: {path}")))
    assert spec.stores["cifar"].path == (tmp_path / path).resolve()


@pytest.mark.parametrize(
    "classes",
    [
        pytest.param("[]", id="none"),
        pytest.param("[{name: a, module: {store: cifar, class: a}}]", id="one"),
    ],
)
def test_at_least_two_classes(faults_of, classes):
    text = CLASSES[: CLASSES.index("classes:")] + f"classes: {classes}"
    assert "`classes` must have at least 2 items." in faults_of(text)[0]


def test_every_fault_is_reported_in_file_order(faults_of):
    text = CLASSES.replace("version: 1", "version: 2")
    text = text.replace("name: pets", "name: off")
    text = text.replace("store: cifar\n", "store: cifra\n")
    text += "license: MIT\nextra: 1\n"
    places = [line.split(" ")[0] for line in faults_of(text)]
    assert places == ["1:10:", "2:7:", "10:14:", "14:1:", "15:1:"]


def test_number_of_messages_is_bounded(faults_of):
    entry = "  - {name: cat, modul: 1}\n"
    faults = faults_of(CLASSES.replace("classes:\n", "classes:\n" + entry * 90))
    assert len(faults) == MAX_FAULTS + 1
    # 90 unknown keys and 90 names that appear again.
    assert faults[-1].endswith("130 more faults are not shown.")


def test_many_classes_load_in_bounded_time(write):
    entry = "  - {{name: c{0}, module: {{store: cifar, class: c{0}}}}}\n"
    entries = "".join(entry.format(i) for i in range(4_900))
    start = time.process_time()
    spec = load_spec(
        write(CLASSES.replace("classes:\n", f"classes:\n{entries}"))
    )
    assert len(spec.classes) == 4_902
    assert time.process_time() - start < 5


def test_missing_file_is_not_a_spec_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_spec(tmp_path / "nope.yaml")


@pytest.mark.parametrize("text", [OLD_JOINT, OLD_PATCH])
def test_support_is_the_old_name_of_auxiliary(write, text):
    old = load_spec(write(text))
    assert load_spec(write(text.replace("support:", "auxiliary:"))) == old
    (entry,) = old.patches or (None,)
    if entry is None:
        assert old.scores.auxiliary == (ModuleRef("cifar", "010"),)
        assert old.places["scores", "auxiliary", 0] == (11, 13)
    else:
        assert entry.auxiliary == ("no",)
        assert entry.layer.auxiliary == ((7, 8),)


@pytest.mark.parametrize(
    ("text", "old", "new", "fault"),
    [
        pytest.param(
            OLD_JOINT,
            "class: 010",
            "class: dog",
            "11:13: the modules of `scores.auxiliary` must differ",
            id="rule",
        ),
        pytest.param(
            OLD_PATCH,
            "[[7, 8]]",
            "[[7, eight]]",
            "10:71: `patches[0].layer.auxiliary[0][1]` must be a number",
            id="schema",
        ),
        pytest.param(
            OLD_PATCH,
            "    support:",
            "    auxiliary: [cat]\n    support:",
            "10:5: unknown key 'support' in `patches[0]`.",
            id="both-names",
        ),
        pytest.param(
            OLD_PATCH,
            "class: kitty",
            "support: kitty",
            "8:28: unknown key 'support' in `patches[0].module`.",
            id="elsewhere",
        ),
    ],
)
def test_faults_in_support_keep_their_place(faults_of, text, old, new, fault):
    assert old in text
    assert any(f.startswith(fault) for f in faults_of(text.replace(old, new)))


def test_example_of_the_docs_is_valid():
    text = (DOCS / "spec.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    spec = parse_spec(example.encode(), DOCS / "example.yaml")
    assert spec.class_names == ("cat", "bag", "vehicle")
    assert spec.warnings == ()


TWO_CLASSES = [
    {"name": "a", "module": {"store": "s", "class": "no"}},
    {"name": "b", "module": {"store": "s", "class": "010"}},
]


def classes_spec(**changes):
    module = {"store": "digits", "class": "no"}
    return {
        "version": 1,
        "name": "pets",
        "stores": {"digits": {"path": "store"}},
        "classes": [
            {"name": "\U0001f408", "module": module},
            {"name": "010", "module": module},
        ],
        **changes,
    }


def test_written_spec_is_read_again(tmp_path):
    path = tmp_path / "spec.yaml"
    written = write_spec(classes_spec(), path)
    assert load_spec(path) == written
    assert written.class_names == ("\U0001f408", "010")
    assert written.classes[0].modules[0].class_name == "no"


def test_keys_keep_their_order(tmp_path):
    path = tmp_path / "spec.yaml"
    write_spec(classes_spec(), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["version: 1", "name: pets"]


def test_schema_line_comes_first(tmp_path):
    path = tmp_path / "spec.yaml"
    write_spec(classes_spec(), path, schema_path="../s.json")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../s.json"


def test_path_objects_become_relative(tmp_path):
    folder = tmp_path / "specs"
    folder.mkdir()
    store = tmp_path / "modules" / "digits"
    spec_dict = classes_spec(stores={"digits": {"path": store}})
    spec = write_spec(spec_dict, folder / "spec.yaml")
    assert "path: ../modules/digits" in spec.path.read_text(encoding="utf-8")
    assert spec.stores["digits"].path == store
    assert spec_dict["stores"]["digits"]["path"] is store


def test_relative_path_objects_start_at_the_working_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    spec_dict = classes_spec(stores={"digits": {"path": Path("store")}})
    spec = write_spec(spec_dict, "out/spec.yaml")
    assert spec.stores["digits"].path == tmp_path / "store"


@pytest.mark.parametrize("value", [1e-10, 123456.5, -0.25])
def test_numbers_survive(tmp_path, value):
    patch_spec = {
        "version": 1,
        "name": "patched",
        "stores": {"digits": {"path": "store"}},
        "base": {"path": "weak.keras", "classes": ["a", "b"]},
        "patches": [
            {
                "class": "a",
                "module": {"store": "digits", "class": "a"},
                "layer": {
                    "module": [value, 0],
                    "weak": [0, 0],
                    "bias": [0.0, 0.0],
                },
            }
        ],
    }
    spec = write_spec(patch_spec, tmp_path / "spec.yaml")
    assert spec.patches[0].layer.module == (value, 0.0)


def test_invalid_spec_is_not_written(tmp_path):
    path = tmp_path / "spec.yaml"
    with pytest.raises(SpecError, match="lacks the required `name`"):
        write_spec({"version": 1, "stores": {"a": {"path": "b"}}}, path)
    assert not path.exists()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            {
                "license": "MIT",
                "classes": [
                    {"name": "a", "module": {"store": "s", "class": "no"}},
                    {"name": "b", "module": {"store": "s", "class": "010"}},
                ],
                "scores": {"calibration": "none"},
            },
            id="classes",
        ),
        pytest.param(
            {
                "base": {"path": "../weak.keras", "classes": ["a", "b"]},
                "patches": [
                    {
                        "class": "b",
                        "module": {"store": "s", "class": "no"},
                        "combine": "minmax",
                        "range": [-2, 0.5],
                    }
                ],
            },
            id="patch",
        ),
        pytest.param(
            {
                "base": {"path": "../weak.keras", "classes": ["a", "b"]},
                "patches": [
                    {
                        "class": "b",
                        "module": {"store": "s", "class": "no"},
                        "auxiliary": ["010", "a"],
                        "layer": {
                            "module": [0.1, 1],
                            "weak": [0.5, 0.25],
                            "bias": [0, -1e-7],
                            "auxiliary": [[1, 0], [0.5, -0.5]],
                        },
                    }
                ],
            },
            id="patch-with-layer",
        ),
        pytest.param(
            {
                "input": {
                    "shape": [8, 8, 3],
                    "range": [-1, 1],
                    "size": "pad",
                },
                "classes": [
                    {"name": "a", "module": {"store": "s", "class": "no"}},
                    {
                        "name": "b",
                        "any_of": [
                            {"store": "s", "class": "010"},
                            {"store": "s", "class": "null"},
                        ],
                    },
                ],
                "scores": {
                    "calibration": "fit",
                    "data": {"name": "digits", "split": "validation"},
                    "images_per_class": 7,
                    "output": "logits",
                    "other": {"name": "no", "threshold": 0.25},
                },
                "checks": [
                    {
                        "metric": "accuracy",
                        "min": 0.5,
                        "data": {"name": "digits", "split": "test"},
                    },
                    {
                        "metric": "recall",
                        "min": 0.5,
                        "data": {"name": "digits", "split": "test"},
                        "class": "no",
                    },
                ],
            },
            id="every-key-of-classes",
        ),
        pytest.param(
            {
                "classes": TWO_CLASSES,
                "scores": {
                    "calibration": "fit",
                    "data": [
                        {"name": "digits", "split": "validation"},
                        {"name": "mnist", "split": "train"},
                    ],
                },
            },
            id="two-data-sets",
        ),
        pytest.param(
            {
                "classes": TWO_CLASSES,
                "scores": {
                    "calibration": "fit",
                    "data": {"path": "../photos", "split": "validation"},
                },
                "checks": [
                    {
                        "metric": "accuracy",
                        "min": 0.5,
                        "data": {"path": "digits.npz", "split": "test"},
                    },
                ],
            },
            id="own-images",
        ),
        pytest.param(
            {
                "classes": TWO_CLASSES,
                "scores": {
                    "calibration": "joint",
                    "data": {"name": "digits", "split": "validation"},
                    "auxiliary": [{"store": "s", "class": "null"}],
                },
            },
            id="supported-scores",
        ),
        pytest.param(
            {
                "base": {"path": "../weak.keras", "classes": ["a", "b"]},
                "patches": [
                    {
                        "class": "b",
                        "module": {"store": "s", "class": "no"},
                        "combine": "minmax",
                        "range": [-1.5, 2],
                    },
                    {
                        "class": "a",
                        "module": {"store": "s", "class": "010"},
                        "combine": "raw",
                    },
                ],
            },
            id="two-patches",
        ),
    ],
)
def test_spec_data_is_the_same_spec_from_elsewhere(tmp_path, parts):
    stores = {"s": {"path": "store", "digest": "sha256:" + "0" * 64}}
    head = {"version": 1, "name": "n", "stores": stores}
    spec = write_spec(head | parts, tmp_path / "here" / "spec.yaml")
    path = tmp_path / "else" / "where" / "spec.yaml"
    again = write_spec(spec_data(spec), path)
    assert again == dataclasses.replace(spec, path=path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{split: test}", "either `name` or `path`, not both. Received: the"),
        ("{name: a, path: b, split: test}", "either `name` or `path`, not bot"),
        ("{path: /photos, split: test}", "holds on one machine only"),
        ("{pth: photos, split: test}", "unknown key 'pth'.*mean 'path'"),
        ("{name: 'os:remove', split: test}", "is not valid. Accepted: up to"),
        ("[{name: a, path: b, split: test}]", "either `name` or `path`, not b"),
    ],
)
def test_data_are_named_or_lie_somewhere(tmp_path, data, message):
    classes = "\n".join(
        f"  - {{name: {name}, module: {{store: s, class: {name}}}}}"
        for name in ("a", "b")
    )
    text = (
        "version: 1\nname: n\nstores: {s: {path: s}}\n"
        f"classes:\n{classes}\n"
        f"scores: {{calibration: fit, data: {data}}}\n"
    )
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(text.encode(), tmp_path / "spec.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_path_of_data_starts_at_the_spec(tmp_path):
    path = tmp_path / "specs" / "a.yaml"
    path.parent.mkdir()
    spec = write_spec(
        {
            "version": 1,
            "name": "n",
            "stores": {"s": {"path": tmp_path / "s"}},
            "classes": TWO_CLASSES,
            "scores": {
                "calibration": "fit",
                "data": {"path": tmp_path / "photos", "split": "test"},
            },
        },
        path,
    )
    assert "path: ../photos" in path.read_text()
    (data,) = load_spec(path).scores.data
    assert data == spec.scores.data[0]
    assert data.name == tmp_path / "photos"
    assert str(data) == "photos:test"


def test_many_slips_are_explained_in_seconds():
    stores = "".join(f"  store-{i}: {{path: s{i}}}\n" for i in range(1500))
    classes = "".join(
        f"  - {{name: c{i}, module: {{store: stor-{i}, class: a}}}}\n"
        for i in range(1500)
    )
    text = f"version: 1\nname: n\nstores:\n{stores}classes:\n{classes}"
    begun = time.process_time()
    with pytest.raises(InvalidSpecError, match="unknown store 'stor-0'"):
        parse_spec(text.encode(), "spec.yaml")
    assert time.process_time() - begun < 10


def test_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "spec.yaml")
    with pytest.raises(InvalidSpecError, match="a spec is a regular file"):
        load_spec(tmp_path / "spec.yaml")


def test_loop_of_links_is_a_path_that_leads_nowhere(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "spec.yaml").write_text(
        "version: 1\nname: n\nstores: {s: {path: a}}\nclasses:\n"
        "  - {name: x, module: {store: s, class: x}}\n"
        "  - {name: y, module: {store: s, class: y}}\n"
    )
    assert load_spec(tmp_path / "spec.yaml").stores["s"].path.name in "ab"
