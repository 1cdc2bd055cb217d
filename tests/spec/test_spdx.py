import pytest

from kmod.spec.spdx import FAMILIES
from kmod.spec.spdx import FAMILY_OF
from kmod.spec.spdx import LicenseSyntaxError
from kmod.spec.spdx import parse_license


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("MIT", [{"MIT"}]),
        ("apache-2.0", [{"Apache-2.0"}]),
        ("gpl-3.0", [{"GPL-3.0-only"}]),
        ("LGPL-2.1+", [{"LGPL-2.1-or-later"}]),
        ("LicenseRef-mine", [{"LicenseRef-mine"}]),
        ("MIT OR ISC", [{"MIT"}, {"ISC"}]),
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
        ("", "ends where a licence should follow"),
        ("MIT AND", "ends where a licence should follow"),
        ("Apache 2.0", "unexpected '2.0'"),
        ("MIT or ISC", "unexpected 'or', write OR"),
        ("and", "unexpected 'and', write AND"),
        ("MIT OR OR ISC", "unexpected 'OR'"),
        ("(MIT", "a bracket is not closed"),
        ("MIT)", "unexpected '\\)'"),
        ("MIT/ISC", "unexpected '/'"),
        ("(" * 10_000, "more than 200 characters"),
        (" AND ".join(["(a OR b)"] * 9), "too many alternatives"),
    ],
)
def test_text_that_is_none(text, message):
    with pytest.raises(LicenseSyntaxError, match=message):
        parse_license(text)


def test_an_id_belongs_to_one_family():
    assert sum(map(len, FAMILIES.values())) == len(FAMILY_OF)
