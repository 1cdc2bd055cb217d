import pytest

from kmod.spec.licences import LicenseSyntaxError
from kmod.spec.licences import is_permitted
from kmod.spec.licences import known_licences
from kmod.spec.licences import parse_license
from kmod.spec.licences import requirement


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("MIT", [{"MIT"}]),
        ("apache-2.0", [{"Apache-2.0"}]),
        ("gpl-3.0", [{"GPL-3.0-only"}]),
        ("LGPL-2.1+", [{"LGPL-2.1-or-later"}]),
        ("LicenseRef-mine", [{"LicenseRef-mine"}]),
        ("MIT OR ISC", [{"MIT"}, {"ISC"}]),
        ("MIT or ISC", [{"MIT"}, {"ISC"}]),
        ("MIT AND ISC OR X11", [{"MIT", "ISC"}, {"X11"}]),
        ("MIT AND (ISC OR X11)", [{"MIT", "ISC"}, {"MIT", "X11"}]),
        ("GPL-2.0-only WITH Foo AND MIT", [{"GPL-2.0-only", "MIT"}]),
        ("((MIT))OR MIT", [{"MIT"}]),
    ],
)
def test_expression(text, alternatives):
    assert list(map(set, parse_license(text))) == alternatives


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it names no licence"),
        ("MIT AND", "AND requires two or more licenses"),
        ("Apache 2.0", "Invalid symbols sequence .* token: '2.0'"),
        ("and", "Invalid operator sequence"),
        ("MIT OR OR ISC", "Invalid operator sequence"),
        ("(MIT", "Invalid expression"),
        ("MIT)", "Unbalanced parenthesis"),
        ("MIT/ISC", "Invalid license key"),
        ("()", "brackets hold licences"),
        ("(OR MIT", "brackets hold licences"),
        ("(" * 10_000, "more than 200 characters"),
        (" AND ".join(["(a OR b)"] * 9), "too many alternatives"),
    ],
)
def test_text_that_is_none(text, message):
    with pytest.raises(LicenseSyntaxError, match=message):
        parse_license(text)


def test_exceptions_and_references_are_no_known_licences():
    known = known_licences()
    assert known["gpl-2.0-only"] == "GPL-2.0-only"
    assert "classpath-exception-2.0" not in known
    assert not any(name.startswith("licenseref") for name in known)


@pytest.mark.parametrize(
    ("source", "result", "expected"),
    [
        ("MIT", "Apache-2.0", True),
        ("MIT", "LicenseRef-ours", True),
        ("CC-BY-4.0", "GPL-3.0-only", True),
        ("GPL-3.0-only", "GPL-3.0-only", True),
        ("GPL-3.0-only", "MIT", False),
        ("GPL-3.0-only", "MIT AND GPL-3.0-only", True),
        ("GPL-3.0-only", "MIT OR GPL-3.0-only", False),
        ("GPL-2.0-only", "GPL-3.0-only", False),
        ("GPL-2.0-only", "GPL-2.0-or-later", False),
        ("GPL-2.0-or-later", "GPL-3.0-only", True),
        ("GPL-3.0-or-later", "GPL-2.0-or-later", False),
        ("GPL-2.0+", "gpl-3.0", True),
        ("LGPL-2.1-only", "GPL-2.0-only", False),
        ("MPL-2.0", "MPL-2.0", True),
        ("CC-BY-SA-3.0", "CC-BY-SA-4.0", True),
        ("CC-BY-SA-4.0", "CC-BY-4.0", False),
        ("CC-BY-NC-4.0", "Apache-2.0", False),
        ("CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", True),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", False),
        ("CC-BY-ND-4.0", "CC-BY-ND-4.0", False),
        ("GPL-3.0-only OR MIT", "Apache-2.0", True),
        ("GPL-3.0-only AND MIT", "Apache-2.0", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "MIT", False),
        ("LicenseRef-theirs", "MIT", None),
        ("LicenseRef-theirs", "LicenseRef-theirs", True),
        ("LicenseRef-theirs OR MIT", "MIT", True),
        ("LicenseRef-theirs AND GPL-3.0-only", "MIT", False),
        ("GPL-3.0-only", "LicenseRef-ours", None),
    ],
)
def test_permission(source, result, expected):
    assert is_permitted(source, result) is expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("MIT", "MIT permits any licence"),
        ("GPL-3.0-only", "permits licences of the family GPL only"),
        ("CC-BY-NC-4.0", "permits non-commercial licences only"),
        ("CC-BY-ND-4.0", "permits no works made from it"),
        ("Foo", "Foo is not known here"),
        ("MIT OR Foo", "MIT permits any licence or Foo is not known here"),
    ],
)
def test_requirement_in_words(source, words):
    assert words in requirement(source)
