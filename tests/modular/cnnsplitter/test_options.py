import dataclasses

import pytest

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.options import SearchOptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": 3}, "`population` must be at least 4"),
        ({"generations": 0}, "`generations` must be at least 1"),
        ({"retention_target": 0}, "`retention_target` is a share"),
        ({"mutation_rate": 1.5}, "`mutation_rate` is a share"),
        ({"min_collaborations": 300}, "`min_collaborations` must be at least"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        SearchOptions(**changes)


def test_options_are_plain_data():
    options = SearchOptions(population=8)
    assert SearchOptions(**options.as_dict()) == options
    assert (options.num_parents, options.num_elites) == (4, 2)
    few = dataclasses.replace(options, parent_rate=0.1, elite_rate=0.0)
    assert (few.num_parents, few.num_elites) == (2, 1)
