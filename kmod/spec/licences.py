"""SPDX licence expressions, and what a licence asks of a composed model.

A help against slips, not legal advice. It takes a composed model for a work
made from its modules, and knows what the families of common licences are
held to ask of such a work. It does not decide whether one family permits
another one (GPL-2.0-or-later in AGPL-3.0), what an exception after `WITH`
permits, or whether duties are met that leave the licence free, such as naming
authors. Of a licence that it does not know it says so.
"""

import functools
import itertools
import math
import re

import license_expression as spdx

MAX_LENGTH = 200
MAX_ALTERNATIVES = 256
_PERMISSIVE = frozenset(
    "0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BlueOak-1.0.0 "
    "BSD-1-Clause BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSL-1.0 "
    "CC-BY-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC0-1.0 "
    "CDLA-Permissive-1.0 CDLA-Permissive-2.0 ISC MIT MIT-0 MS-PL MulanPSL-2.0 "
    "NCSA ODC-By-1.0 PDDL-1.0 PostgreSQL PSF-2.0 Python-2.0 Unlicense UPL-1.0 "
    "WTFPL X11 Zlib".split()
)
_NO_DERIVATIVES = {"CC-BY-ND", "CC-BY-NC-ND"}
# What the families that forbid commercial use accept of a work beside their
# own: any licence that forbids it, too, unless they ask for the same one.
_NON_COMMERCIAL = {
    "CC-BY-NC": {"CC-BY-NC", "CC-BY-NC-SA", "PolyForm-Noncommercial"},
    "PolyForm-Noncommercial": {"PolyForm-Noncommercial"},
}
# Their later versions may always be used instead.
_LATER_ALLOWED = {"CC-BY-SA", "CC-BY-NC", "CC-BY-NC-SA", "EPL", "EUPL", "MPL"}
_FAMILIES = {
    *("AGPL", "CDDL", "CDLA-Sharing", "GPL", "LGPL", "MS-RL", "ODbL", "OSL"),
    *(*_LATER_ALLOWED, *_NO_DERIVATIVES, *_NON_COMMERCIAL),
}
_VERSION = re.compile(r"-[\d.]+(-only|-or-later)?$")
_licensing = functools.cache(spdx.get_spdx_licensing)  # It reads a file.


class LicenseSyntaxError(ValueError):
    """A text is no SPDX expression; the message says what is wrong."""


def parse_license(text: str) -> tuple[frozenset[str], ...]:
    """Parses an SPDX expression.

    Args:
        text: The expression. Ids may be in any case; those that were renamed,
            such as `GPL-2.0+`, get their new name. An exception after `WITH`
            is left out: it only permits more.

    Returns:
        The alternatives between which one may choose, each the set of licence
        ids that all hold.

    Raises:
        LicenseSyntaxError: If it is none, or has too many alternatives.

    Example:

    >>> parse_license("GPL-2.0+ OR (mit AND ISC)")
    (frozenset({'GPL-2.0-or-later'}), frozenset({'MIT', 'ISC'}))
    """
    if len(text) > MAX_LENGTH:
        raise LicenseSyntaxError(f"it has more than {MAX_LENGTH} characters")
    try:
        tree = _licensing().parse(text, simple=True)
        alternatives = [] if tree is None else _alternatives(tree)
    except spdx.ExpressionError as error:
        reason = " ".join(str(error).split()).replace('"', "'")
        raise LicenseSyntaxError(reason) from error
    except (AssertionError, AttributeError, LookupError) as error:
        # What the library's parser makes of `()` and `(OR MIT`.
        reason = "brackets hold licences, with an operator between two"
        raise LicenseSyntaxError(reason) from error
    if not alternatives:
        raise LicenseSyntaxError("it names no licence")
    return tuple(dict.fromkeys(alternatives))


def _alternatives(tree):
    if isinstance(tree, spdx.LicenseWithExceptionSymbol):
        tree = tree.license_symbol
    if isinstance(tree, spdx.LicenseSymbol):
        return [frozenset({_present_id(tree.key)})]
    parts = [_alternatives(part) for part in tree.args]
    if isinstance(tree, spdx.OR):
        return list(itertools.chain(*parts))
    if math.prod(map(len, parts)) > MAX_ALTERNATIVES:
        raise LicenseSyntaxError("there are too many alternatives")
    return [frozenset().union(*choice) for choice in itertools.product(*parts)]


@functools.cache
def known_licences() -> dict[str, str]:
    """Returns the ids of the SPDX list, by their spelling in lower case."""
    symbols = _licensing().known_symbols
    return {
        key.lower(): key
        for key, symbol in symbols.items()
        if not (symbol.is_exception or key.startswith("LicenseRef-"))
    }


def _present_id(word):
    """Returns the present spelling of an id."""
    known = known_licences()
    ending = "-or-later" if word.endswith("+") else "-only"
    renamed = f"{word.removesuffix('+')}{ending}".lower()
    return known.get(word.lower()) or known.get(renamed, word)


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
    family = _family(identifier)
    if identifier in _PERMISSIVE:
        return f"{identifier} permits any licence"
    if family is None:
        return f"{identifier} is not known here"
    if family in _NO_DERIVATIVES:
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
    family, wanted = _family(source), _family(result)
    if family in _NO_DERIVATIVES:
        return False
    if source == result or source in _PERMISSIVE:
        return True
    if family is None or (wanted is None and result not in _PERMISSIVE):
        return None
    if family != wanted:
        return wanted in _NON_COMMERCIAL.get(family, ())
    is_later = family in _LATER_ALLOWED or source.endswith("-or-later")
    return is_later and _version(result) >= _version(source)


def _family(identifier):
    """Returns the id without its version, if it is that of a known family."""
    family = _VERSION.sub("", identifier)
    return family if family in _FAMILIES else None


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
