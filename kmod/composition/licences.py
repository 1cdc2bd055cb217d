"""Whether the licences of the sources permit the one of the result.

A help against slips, not legal advice: it takes a composed model for a work
made from its modules, and knows what licences are commonly held to ask of one.
"""

import re
from collections.abc import Mapping

from kmod.composition.findings import Findings
from kmod.spec.faults import shorten
from kmod.spec.model import Spec
from kmod.spec.spdx import FAMILY_OF
from kmod.spec.spdx import NO_DERIVATIVES
from kmod.spec.spdx import PERMISSIVE
from kmod.spec.spdx import LicenseSyntaxError
from kmod.spec.spdx import parse_license

# What the families that forbid commercial use accept of a work beside their
# own: any licence that forbids it, too, unless they ask for the same one.
_NON_COMMERCIAL = {
    "CC-BY-NC": {"CC-BY-NC", "CC-BY-NC-SA", "PolyForm-Noncommercial"},
    "PolyForm-Noncommercial": {"PolyForm-Noncommercial"},
}
# Their later versions may always be used instead.
_LATER_ALLOWED = {"CC-BY-SA", "CC-BY-NC", "CC-BY-NC-SA", "EPL", "EUPL", "MPL"}


def check_licences(
    spec: Spec, sources: Mapping[str, str | None], findings: Findings
) -> None:
    """Holds a spec's licence against those of the stores that it uses.

    Args:
        spec: The spec.
        sources: SPDX expression of each store, or `None` if it names none.
        findings: Where faults and warnings go.
    """
    if spec.license is None:
        known = sorted({licence for licence in sources.values() if licence})
        if known:
            findings.warn(
                (),
                "the spec names no `license`. Its modules have "
                f"{', '.join(known)}.",
            )
        return
    for name, licence in sources.items():
        if licence is None:
            findings.warn(
                ("stores", name),
                f"store {shorten(name)} names no licence, so whether it "
                f"permits {spec.license} is not known.",
            )
        else:
            _check(spec.license, name, licence, findings)


def _check(result, name, licence, findings):
    try:
        answer = is_permitted(licence, result)
    except LicenseSyntaxError as error:
        findings.warn(
            ("stores", name),
            f"the licence of store {shorten(name)} is no SPDX expression: "
            f"{error}. Received: {shorten(licence)}. Check yourself whether "
            f"it permits {result}.",
        )
        return
    if answer is False:
        findings.add(
            ("license",),
            f"store {shorten(name)} does not permit this licence: "
            f"{requirement(licence)}. Received: {result}. Change `license`, "
            "or take modules from another store.",
        )
    elif answer is None:
        findings.warn(
            ("license",),
            f"whether store {shorten(name)} of {licence} permits {result} is "
            "not known here. Check it yourself.",
        )


def is_permitted(source: str, result: str) -> bool | None:
    """Tells whether a work of one licence may be made from another's.

    Args:
        source: SPDX expression of the source. Of its alternatives, one has to
            permit the result.
        result: SPDX expression of the result. All of its alternatives have to
            be permitted.

    Returns:
        `True` or `False`; `None` if it depends on a licence that is not known
        here.

    Raises:
        LicenseSyntaxError: If one is no SPDX expression.
    """
    sources = parse_license(source)
    return _all(
        _any(_permits_all(licences, ids) for licences in sources)
        for ids in parse_license(result)
    )


def requirement(source: str) -> str:
    """Says in words what a source's licence asks of a composed model.

    Args:
        source: SPDX expression.
    """
    return " or ".join(
        " and ".join(_asks(identifier) for identifier in sorted(licences))
        for licences in parse_license(source)
    )


def _asks(identifier):
    family = FAMILY_OF.get(identifier)
    if family is None:
        return f"{identifier} is not known here"
    if family == PERMISSIVE:
        return f"{identifier} permits any licence"
    if family == NO_DERIVATIVES:
        return f"{identifier} permits no works made from it"
    if family in _NON_COMMERCIAL:
        return f"{identifier} permits non-commercial licences only"
    return f"{identifier} permits licences of the family {family} only"


def _permits_all(licences, result):
    return _all(
        _any(_permits(licence, identifier) for identifier in result)
        for licence in licences
    )


def _permits(source, result):
    """Tells whether one licence permits another; `None` if not known."""
    family = FAMILY_OF.get(source)
    if source == result:
        return family != NO_DERIVATIVES
    if family == PERMISSIVE:
        return True
    if family == NO_DERIVATIVES:
        return False
    if family is None or result not in FAMILY_OF:
        return None
    if family != FAMILY_OF[result]:
        return FAMILY_OF[result] in _NON_COMMERCIAL.get(family, ())
    is_later = family in _LATER_ALLOWED or source.endswith("-or-later")
    return is_later and _version(result) >= _version(source)


def _version(identifier):
    return [int(digit) for digit in re.findall(r"\d+", identifier)]


def _any(answers):
    """`any` of true, false and unknown."""
    answers = set(answers)
    return True if True in answers else None if None in answers else False


def _all(answers):
    """`all` of true, false and unknown."""
    answers = set(answers)
    return False if False in answers else None if None in answers else True
