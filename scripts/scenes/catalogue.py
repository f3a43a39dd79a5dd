"""Which picture of which package shows an object of which class, and which pictures show the same thing.

Flow: archives + licences -> **catalogue** + backgrounds -> cutouts. Tables, made by looking at every picture of the
packages of Debian 12; what a table does not name is not used. Pictures of one individual, one person, one make or one
design form a *group*: groups, not pictures, are divided over the folds.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .archives import Packages, SourceFile

CLASSES = (
    "bird", "fish", "ungulate", "furry_mammal", "arthropod", "fruit", "vegetable", "flower", "coin", "tool", "person",
    "road_vehicle", "sign",
)  # fmt: skip
EXTRA = "extra"
"""Label of an object of no class: for pre-training and, where it cannot be taken for any of them, a distractor."""

TUXPAINT, SCRATCH, GCOMPRIS = "tuxpaint-stamps-default", "scratch", "gcompris-qt-data"
EMOJI_NAMES, EMOJI_PICTURES = "emoji-datasource-google", "lobehub-fluent-emoji-3d"


@dataclass(frozen=True)
class Entry:
    """One picture of an object."""

    label: str
    """A name of `CLASSES`, or `EXTRA`."""
    group: str
    kind: str
    """``photo`` or ``render``."""
    distractor: bool
    """Whether it may stand unlabelled in a scene."""
    source: SourceFile
    left_half: bool = False
    """The picture holds two phases of a movement side by side."""
    white_ground: bool = False
    """The picture has no alpha channel: the object stands on white."""


class Rule(NamedTuple):
    """A class for the files of a folder, both given as regular expressions; the first rule that matches counts."""

    label: str
    folder: str
    name: str = ""


TUXPAINT_RULES = (
    Rule("bird", "animals/birds"),
    Rule("arthropod", "animals/fish", "lobster|shrimp"),
    Rule("fish", "animals/fish"),
    Rule("arthropod", "animals/insects"),
    Rule("ungulate", "animals/mammals/(bovines|camel|deer|equines)"),
    Rule("ungulate", "animals/mammals", "giraffe|pig|hippo|rhino|elephant|wildboar"),
    Rule("furry_mammal", "animals/mammals", "badger|ferret|rabbit"),
    Rule("furry_mammal", "animals/mammals/(rodents|bears|cats|dogs|apes)|animals/marsupials"),
    Rule("furry_mammal", "animals/mammals/aquatic", "otter|sea_lion"),
    Rule("fruit", "food/fruit"),
    Rule("vegetable", "food/(vegetables|spices)"),
    Rule("flower", "plants/flowers(/plastic)?"),
    Rule("flower", "seasonal/easter", "daffodil"),
    Rule("coin", "symbols/money/((canadian|euro|us)/coins|japanese)"),
    Rule("tool", "household/tools", "hammer|mallet|paintbrush|plyers|saw|spade|wrench"),
    Rule("tool", "household/arttools", "scissors"),
    Rule("tool", "household/dishes/utensils", "nutcracker"),
    Rule("person", "people", "fireman"),
    Rule("person", "space", "spacewalk"),
    Rule("road_vehicle", "vehicles/(auto|construction|race)"),
    Rule("road_vehicle", "vehicles/emergency", "firetruck|sedan_police"),
    Rule("road_vehicle", "vehicles", "garbage"),
    Rule("road_vehicle", "vehicles/masstransit", "green"),
    Rule("road_vehicle", "military/vehicles", "bradley|infantry|ww2"),
    Rule("sign", "town/roadsigns"),
    Rule(EXTRA, r"animals/(amphibians|lizards|shellfish)|animals/mammals/aquatic|food(/nuts)?|hobbies(/music/\w+)?"),
    Rule(EXTRA, "household(/(tools|arttools|dishes(/utensils)?))?"),
    Rule(EXTRA, "military(/ammunition|/vehicles)?", "(?!fireman)"),  # the fireman is filed twice
    Rule(EXTRA, "seasonal/christmas"),
    Rule(EXTRA, "seasonal", "candle"),
    Rule(EXTRA, "seasonal/halloween", "grave"),
    Rule(EXTRA, r"plants(/(mushrooms|trees))?|space(/(moon|planets))?|sports|town/monuments|vehicles(/\w+)*"),
)
TUXPAINT_SKIPPED = re.compile(  # drawings, other views of the same picture, two objects at once, cut badly
    r".*_mirro[r]?|hedgehog|echidna|glass|highlighter|measuring_tape_mirror|sedan_police|stoplight_.*|traffic_cone"
    r"|railroad_crossing|wheelie_bin|Brown_slug|6_saturn|0_sun|moon_crescent|1_mercury|tree|Santa|santahat"
    r"|stocking|pizza|bow|star|lamp|candy_cane|hard_candy|xmas_tp_bulb|inukshuk-outline|arrow_"
)
TUXPAINT_SUFFIX = re.compile(  # what names another picture of the same individual, or of its kind
    r"(_mirror|[-_ ]?\d+[a-z]?|[-_](white|golden|black|small|sitting|stand|baby|eating|lamb|little|sumatran))*$"
)
ONE_NAME_ONE_GROUP = ("coin", "flower", "fruit", "sign", "tool")
"""Classes of `TUXPAINT` in which the suffix names another thing: `apple_red` is not `apple_green`."""
EURO_DESIGNS = {"001": "copper", "002": "copper", "005": "copper", "010": "gold", "020": "gold", "050": "gold",
                "100": "bimetal", "200": "bimetal"}  # fmt: skip
# Extras that could be taken for one of the classes never stand unlabelled in a scene.
NO_DISTRACTOR = re.compile(
    r"dolphin|orca|whale|abalone|mussel|toolbox|cementmixer|measuring_tape|rubberduck|final-roll-call|paratrooper"
    r"|fireman|eggplant|lettuce|cep|rambutan|thyme|lavender|holly|German_Christmas_toy|pudding|Roast_turkey"
    r"|pink_tricycle|f22_raptor|7spoke|wheel_tractor|key|grinder|xmaswreath|almond|pecan|walnut"
)

SCRATCH_RULES = (
    Rule("ungulate", "Animals", "buffalo1|cow1|elephant$"),
    Rule("arthropod", "Animals", "insect1-a|insect2|grasshopper2"),
    Rule("bird", "Animals", "bird-flying"),
    Rule("furry_mammal", "Animals", "squirrel1"),
    Rule("road_vehicle", "Transportation", "bus|car-blue|car-bug|street-cleaner|bike"),
    Rule(
        "person", "People",
        r"amon|anjuli|anna|breakdancer\d|calvrett|cassy|chamak|dan\d|ed|football|jay|jodi|lee|mako|marissa|nathan|nina"
        r"|paul|referee|ribbon|thai",
    ),
)  # fmt: skip
ONE_FILE_ONE_GROUP = re.compile(r"breakdancer\d|car-\w+|insect\d")

GCOMPRIS_FISH = r"(?!sea\d|teeth|manta).*\.webp"
GCOMPRIS_TOOLS = "cuttingTool|hammer5|hammer8|hammer9|plier1|plier2|plier3|scissors1|scissors4|wrench|tweezer1"

EMOJI_CLASSES = {
    "animal-bird": "bird", "animal-bug": "arthropod", "plant-flower": "flower", "food-fruit": "fruit",
    "food-vegetable": "vegetable",
}  # fmt: skip
EMOJI_NAMED = (  # label, subcategory, words in the name
    Rule(
        "ungulate", "animal-mammal",
        "ram|sheep|ewe|cow|ox|buffalo|goat|camel|llama|giraffe|elephant|rhino|hippo|horse|zebra|deer|pig|boar|bison"
        "|moose|donkey|mammoth",
    ),
    Rule(
        "furry_mammal", "animal-mammal",
        "monkey|gorilla|orangutan|dog|poodle|wolf|fox|raccoon|cat|lion|tiger|leopard|mouse|rat|hamster|rabbit|chipmunk"
        "|beaver|hedgehog|bear|koala|panda|sloth|otter|skunk|kangaroo|badger|bat",
    ),
    Rule("fish", "animal-marine", "fish|tropical fish|blowfish|shark"),
    Rule("arthropod", "animal-marine", "crab|lobster|shrimp"),
    Rule(
        "road_vehicle", "transport-ground",
        "car|taxi|bus|truck|lorry|ambulance|fire engine|tractor|scooter|motorcycle|bicycle|racing|van|minibus"
        "|trolleybus|automobile|vehicle|auto rickshaw",
    ),
    Rule("tool", "tool", "hammer|axe|pick|saw|wrench|screwdriver|scissors"),
    Rule("tool", "office", "scissors"),
    Rule(EXTRA, "animal-(reptile|amphibian)"),
    Rule(EXTRA, "food-(prepared|asian|sweet)|drink|dishware"),
    Rule(EXTRA, "clothing|computer|phone|music|musical-instrument|sound|book-paper|writing|science|household|lock"),
    Rule(EXTRA, "sport|transport-(air|water)|other-object|arts & crafts|money|light & video"),
)  # fmt: skip
EMOJI_SKIPPED = re.compile(
    r"feather|wing|web\b|microbe|worm|footprint|paw|nose|rosette|white flower|bucket|bouquet|nest|face|jelly|shell"
    r"|bus stop|shrimp$|parachute|kimono|moyai|placard|identification|cancellation|sign\b|chart|trend"
    r"|revolving|railway|tram\b"
)
EMOJI_NO_DISTRACTOR = re.compile(
    r"shrimp|poultry|sweet potato|salad|coin|money|crocodile|dragon|sauropod|t-rex|lizard|turtle|mushroom|sled|airplane"
    r"|helicopter|hook|ladder|razor|broom|knife|chopsticks|canoe|rocket|flying saucer|elevator|fishing"
)


def catalogue(packages: Packages, renders: bool) -> Iterator[Entry]:
    """Every picture of an object, photos before renders, in an order that depends on the packages alone.

    Raises:
        InputError: a package is missing.
    """
    yield from _tuxpaint(packages)
    yield from _gcompris(packages)
    yield from _scratch(packages)
    if renders:
        yield from _emoji(packages)


def label_of(rules: tuple[Rule, ...], folder: str, name: str) -> str | None:
    """The class of the first rule whose expression matches the whole folder and the start of the name."""
    for rule in rules:
        if re.fullmatch(rule.folder, folder) and re.match(rule.name, name):
            return rule.label
    return None


def tuxpaint_group(label: str, folder: str, stem: str) -> str:
    """The group of a stamp: its name without what tells apart pictures of one kind."""
    name = stem.lower()
    if label == "coin":
        country = folder.removesuffix("/coins").rpartition("/")[2]
        name = f"{country}-{EURO_DESIGNS[stem] if country == 'euro' else name}"
    elif name.startswith(("gnu", "heron", "garlic", "scissors")):
        name = re.match("[a-z]+", name).group()  # type: ignore[union-attr]  # each of the four is letters
    elif label not in ONE_NAME_ONE_GROUP:
        name = TUXPAINT_SUFFIX.sub("", name)
    return f"{label}:tuxpaint:{name}"


def _tuxpaint(packages: Packages) -> Iterator[Entry]:
    root = "usr/share/tuxpaint/stamps"
    for file in packages.files(TUXPAINT, root):
        folder, stem = file.path.removeprefix(f"{root}/").rpartition("/")[0], file.stem
        label = label_of(TUXPAINT_RULES, folder, stem)
        if label is None or TUXPAINT_SKIPPED.fullmatch(stem) or re.search("cartoon|toys", folder):
            continue
        free = label == EXTRA and not NO_DISTRACTOR.search(stem)
        yield Entry(label, tuxpaint_group(label, folder, stem), "photo", free, file)


def _gcompris(packages: Packages) -> Iterator[Entry]:
    for file in packages.archived(GCOMPRIS, "clickgame", GCOMPRIS_FISH):
        name = file.stem if re.match(r"f\d", file.stem) else re.sub(r"\d+$", "", file.stem)
        yield Entry("fish", f"fish:xfishtank:{name}", "photo", False, file, left_half=True)
    for file in packages.archived(GCOMPRIS, "categorization", rf"images/tools/({GCOMPRIS_TOOLS})\.webp"):
        yield Entry("tool", f"tool:gcompris:{file.stem}", "photo", False, file, white_ground=True)


def _scratch(packages: Packages) -> Iterator[Entry]:
    root = "usr/share/scratch/Media/Costumes"
    for file in packages.files(SCRATCH, root, (".png", ".gif", ".jpg")):
        folder = file.path.removeprefix(f"{root}/").rpartition("/")[0]
        label = label_of(SCRATCH_RULES, folder, file.stem)
        if label is not None:
            found = ONE_FILE_ONE_GROUP.match(file.stem) or re.match("[a-z]+", file.stem)
            yield Entry(label, f"{label}:scratch:{found.group()}", "photo", False, file)  # type: ignore[union-attr]


def _emoji(packages: Packages) -> Iterator[Entry]:
    names = packages.npm(EMOJI_NAMES) / "emoji.json"
    pictures = packages.npm(EMOJI_PICTURES) / "assets"
    for emoji in json.loads(names.read_text(encoding="utf-8")):
        kind, name, key = emoji.get("subcategory") or "", (emoji["name"] or "").lower(), emoji["unified"].lower()
        label = EMOJI_CLASSES.get(kind) or emoji_label(kind, name)
        if label is None or EMOJI_SKIPPED.search(name):
            continue
        candidates = (pictures / f"{key}.webp", pictures / f"{key.replace('-fe0f', '')}.webp")
        path = next((path for path in candidates if path.exists()), None)
        if path is not None:
            free = label == EXTRA and not EMOJI_NO_DISTRACTOR.search(name)
            file = packages.npm_file(EMOJI_PICTURES, path)
            yield Entry(label, f"{label}:emoji:{re.sub('[^a-z0-9]+', '-', name)}", "render", free, file)


def emoji_label(kind: str, name: str) -> str | None:
    """The class of an emoji by its subcategory and the words of its name."""
    for rule in EMOJI_NAMED:
        if re.fullmatch(rule.folder, kind) and re.search(rf"\b({rule.name})", name):
            return rule.label
    return None
