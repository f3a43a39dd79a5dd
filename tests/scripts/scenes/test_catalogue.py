import re
from pathlib import Path

import pytest
from scenes.archives import Packages
from scenes.backgrounds import backgrounds, place
from scenes.catalogue import (
    CLASSES,
    EMOJI_CLASSES,
    EMOJI_NAMED,
    EXTRA,
    NO_DISTRACTOR,
    SCRATCH_RULES,
    TUXPAINT_RULES,
    catalogue,
    emoji_label,
    label_of,
    tuxpaint_group,
)


def test_the_tables_name_known_classes_and_every_class() -> None:
    named = {rule.label for rule in (*TUXPAINT_RULES, *SCRATCH_RULES, *EMOJI_NAMED)} | set(EMOJI_CLASSES.values())
    assert named == {*CLASSES, EXTRA}


@pytest.mark.parametrize(
    ("folder", "name", "label"),
    [
        ("animals/fish", "lobster", "arthropod"),
        ("animals/fish", "clownfish", "fish"),
        ("animals/mammals", "pig_golden2", "ungulate"),
        ("animals/mammals/aquatic", "otter", "furry_mammal"),
        ("animals/mammals/aquatic", "orca", EXTRA),
        ("symbols/money/euro/coins", "001", "coin"),
        ("military/vehicles", "f22_raptor", EXTRA),
        ("military", "fireman240a", None),
        ("symbols/math", "0", None),
    ],
)
def test_stamps_get_the_class_of_their_folder_and_name(folder: str, name: str, label: str | None) -> None:
    assert label_of(TUXPAINT_RULES, folder, name) == label


def test_pictures_of_one_thing_are_one_group_and_of_two_are_two() -> None:
    def group(label: str, folder: str, *stems: str) -> set[str]:
        return {tuxpaint_group(label, folder, stem) for stem in stems}

    assert len(group("ungulate", "bovines", "gnu-baby-stand", "gnu-sitting", "gnu-stand")) == 1
    assert len(group("ungulate", "bovines", "cow", "cow_white")) == 1
    assert len(group("bird", "birds", "heron_greatblue", "heron_greatblue_flying")) == 1
    assert len(group("coin", "symbols/money/euro/coins", "001", "002", "005")) == 1, "one design"
    assert len(group("coin", "symbols/money/euro/coins", "001", "010", "100")) == 3
    coins = [tuxpaint_group("coin", f"symbols/money/{land}/coins", "001penny") for land in ("us", "canadian")]
    assert len(set(coins)) == 2
    assert len(group("fruit", "food/fruit", "apple_red", "apple_green")) == 2
    assert len(group("flower", "plants/flowers", "flower1", "flower10")) == 2


def test_what_could_be_taken_for_a_class_is_no_distractor() -> None:
    for name in ("dolphin", "toolbox", "rubberduck", "cep-1", "pink_tricycle"):
        assert NO_DISTRACTOR.search(name)
    for name in ("guitar2", "teapot", "soccer", "grave-a"):
        assert not NO_DISTRACTOR.search(name)


def test_emoji_get_their_class_by_whole_words() -> None:
    assert emoji_label("animal-mammal", "tiger") == "furry_mammal"
    assert emoji_label("animal-mammal", "water buffalo") == "ungulate"
    assert emoji_label("animal-marine", "spouting whale") is None
    assert emoji_label("transport-ground", "delivery truck") == "road_vehicle"


def test_the_packages_are_read_by_the_tables(sources: Path) -> None:
    found = list(catalogue(Packages(sources), renders=False))
    labels = [(entry.label, entry.source.stem, entry.distractor, entry.source.licence) for entry in found]
    assert labels == [
        ("bird", "owl", False, "GPL-2"),
        ("ungulate", "cow", False, "GPL-2"),
        ("ungulate", "cow_white", False, "GPL-2"),
        (EXTRA, "toolbox", False, "GPL-2"),
        (EXTRA, "soccer", True, "GPL-2"),
        ("fish", "f01", False, "public-domain"),
        ("tool", "plier1", False, "see the package's copyright file"),
        ("person", "dan1", False, "CC-BY-SA-3.0"),
    ]
    places = [(entry.group, entry.source.licence) for entry in backgrounds(Packages(sources))]
    assert places == [("wood-d", "GPL-2"), ("sea1", "CC0-1.0")]


def test_one_place_is_one_group() -> None:
    assert place("greatPyramidOfGiza") == place("greatPyramid")
    assert place("brick-wall1") == place("brick-wall-and-stairs")
    assert place("statueA") != place("statueB")
    assert re.fullmatch("[a-z0-9-]+", place("Train-Tracks1"))
