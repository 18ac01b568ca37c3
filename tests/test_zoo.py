"""A slice of the zoo; ``make zoo`` checks all of it."""

import pytest

from tests.zoo.catalogue import ENTRIES
from tests.zoo.check import examine
from tests.zoo.entry import Entry

SLICE = [entry for entry in ENTRIES if entry.fast]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", SLICE, ids=lambda entry: entry.name)
def test_model_of_the_zoo(entry: Entry) -> None:
    assert examine(entry).problems == []


def test_every_model_has_a_name_of_its_own() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names)) >= 120
