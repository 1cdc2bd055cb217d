"""Reads SPDX licence expressions: `MIT`, `GPL-2.0-only OR (MIT AND ISC)`.

It knows the licences that models, data sets and code usually have. Any other
id is read, too, but nothing is known of it.
"""

import re

MAX_LENGTH = 200
MAX_ALTERNATIVES = 256
PERMISSIVE = "permissive"
NO_DERIVATIVES = "no derivatives"

# By what they ask of a work made from theirs: the family's own name where the
# work must keep a licence of the family.
FAMILIES = {
    PERMISSIVE: (
        "0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BlueOak-1.0.0 "
        "BSD-1-Clause BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSL-1.0 "
        "CC-BY-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC0-1.0 "
        "CDLA-Permissive-1.0 CDLA-Permissive-2.0 ISC MIT MIT-0 MS-PL "
        "MulanPSL-2.0 NCSA ODC-By-1.0 PDDL-1.0 PostgreSQL PSF-2.0 Python-2.0 "
        "Unlicense UPL-1.0 WTFPL X11 Zlib"
    ).split(),
    "AGPL": "AGPL-3.0-only AGPL-3.0-or-later".split(),
    "CC-BY-SA": (
        "CC-BY-SA-1.0 CC-BY-SA-2.0 CC-BY-SA-2.5 CC-BY-SA-3.0 CC-BY-SA-4.0"
    ).split(),
    "CDDL": "CDDL-1.0 CDDL-1.1".split(),
    "CDLA-Sharing": ["CDLA-Sharing-1.0"],
    "EPL": "EPL-1.0 EPL-2.0".split(),
    "EUPL": "EUPL-1.0 EUPL-1.1 EUPL-1.2".split(),
    "GPL": (
        "GPL-1.0-only GPL-1.0-or-later GPL-2.0-only GPL-2.0-or-later "
        "GPL-3.0-only GPL-3.0-or-later"
    ).split(),
    "LGPL": (
        "LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later "
        "LGPL-3.0-only LGPL-3.0-or-later"
    ).split(),
    "MPL": "MPL-1.0 MPL-1.1 MPL-2.0".split(),
    "MS-RL": ["MS-RL"],
    "ODbL": ["ODbL-1.0"],
    "OSL": "OSL-1.0 OSL-2.0 OSL-2.1 OSL-3.0".split(),
    "CC-BY-NC": (
        "CC-BY-NC-1.0 CC-BY-NC-2.0 CC-BY-NC-2.5 CC-BY-NC-3.0 CC-BY-NC-4.0"
    ).split(),
    "CC-BY-NC-SA": (
        "CC-BY-NC-SA-1.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-2.5 CC-BY-NC-SA-3.0 "
        "CC-BY-NC-SA-4.0"
    ).split(),
    "PolyForm-Noncommercial": ["PolyForm-Noncommercial-1.0.0"],
    NO_DERIVATIVES: (
        "CC-BY-ND-1.0 CC-BY-ND-2.0 CC-BY-ND-2.5 CC-BY-ND-3.0 CC-BY-ND-4.0 "
        "CC-BY-NC-ND-1.0 CC-BY-NC-ND-2.0 CC-BY-NC-ND-2.5 CC-BY-NC-ND-3.0 "
        "CC-BY-NC-ND-4.0"
    ).split(),
}
FAMILY_OF = {
    identifier: family
    for family, identifiers in FAMILIES.items()
    for identifier in identifiers
}

_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9.:+-]+)")
_SPELLING = {identifier.lower(): identifier for identifier in FAMILY_OF}
_OPERATORS = frozenset({"AND", "OR", "WITH"})


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
    parser = _Parser(_tokens(text))
    alternatives = parser.choice()
    if parser.token is not None:
        raise _unexpected(parser.token)
    return tuple(dict.fromkeys(alternatives))


def _tokens(text):
    tokens, position = [], 0
    while rest := text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise LicenseSyntaxError(f"unexpected {rest[0]!r}")
        tokens.append(match[1])
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent; `WITH` binds closer than `AND`, that than `OR`."""

    def __init__(self, tokens):
        self._rest = iter(tokens)
        self._advance()

    def _advance(self):
        self.token = next(self._rest, None)

    def choice(self):
        alternatives = self._union()
        while self.token == "OR":
            self._advance()
            alternatives = alternatives + self._union()
        return alternatives

    def _union(self):
        alternatives = self._operand()
        while self.token == "AND":
            self._advance()
            others = self._operand()
            if len(alternatives) * len(others) > MAX_ALTERNATIVES:
                raise LicenseSyntaxError("there are too many alternatives")
            alternatives = [a | b for a in alternatives for b in others]
        return alternatives

    def _operand(self):
        if self.token == "(":
            self._advance()
            alternatives = self.choice()
            if self.token != ")":
                raise LicenseSyntaxError("a bracket is not closed")
            self._advance()
            return alternatives
        identifier = _identifier(self._word())
        if self.token == "WITH":
            self._advance()
            self._word()
        return [frozenset({identifier})]

    def _word(self):
        word = self.token
        if word is None:
            raise LicenseSyntaxError("it ends where a licence should follow")
        if word.upper() in _OPERATORS or word in "()":
            raise _unexpected(word)
        self._advance()
        return word


def _unexpected(token):
    hint = ""
    if token.upper() in _OPERATORS - {token}:
        hint = f", write {token.upper()}"
    return LicenseSyntaxError(f"unexpected {token!r}{hint}")


def _identifier(word):
    """Returns the present spelling of an id."""
    known = _SPELLING.get(word.lower())
    if known is not None:
        return known
    base = word.removesuffix("+")
    ending = "-or-later" if word.endswith("+") else "-only"
    return _SPELLING.get(f"{base}{ending}".lower(), word)
