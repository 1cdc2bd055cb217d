"""What ways are called that need no patch; see `plain_ways`."""

WEAK_MODEL = "weak model"
BIAS_MOVED = "bias moved"
NEW_LAYER = "last layer fitted again"
BOTH = "regression on both"


def way_names(num_donors: int) -> list[str]:
    """Lists the ways that there may be with so many donors."""
    instead = map(donor_instead, range(num_donors))
    return [WEAK_MODEL, BIAS_MOVED, NEW_LAYER, BOTH, *instead]


def donor_instead(number: int) -> str:
    """Returns the name of the way that takes a donor, counted from 0."""
    return "donor instead" + (f" ({number + 1})" if number else "")
