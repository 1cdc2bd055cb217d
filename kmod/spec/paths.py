"""Why a path is not accepted in a spec.

The schema's pattern decides; this only finds words for it.
"""

import re

_REASONS = (
    (r"~", "`~` is another folder for everybody."),
    (r"/|[A-Za-z]:[/\\]", "An absolute path holds on one machine only."),
    (r"[A-Za-z][A-Za-z0-9+.-]*:", "Nothing is downloaded. Fetch it first."),
    (r".*\\", "Write / for \\, on Windows, too."),
    (r".*[. ](/|$)", "Windows drops a dot or space at the end of a name."),
)


def path_reason(path: str) -> str:
    """Returns what speaks against a path, or an empty text."""
    for pattern, reason in _REASONS:
        if re.match(pattern, path):
            return f" {reason}"
    return ""
