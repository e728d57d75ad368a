"""The words every skill draws from, and made-up ones. Knows no task."""

from random import Random


def listed(words: str) -> list[str]:
    """Reads a list written as text, which stays short enough to look over."""
    return words.split()


NOUNS = listed("""
acorn anchor angel ant apple apron arrow badge bag ball banana barn basket bath beach bead bean bear bed bee bell belt
bench bike bird board boat bone book boot bottle bowl box branch bread brick bridge broom brush bucket bus bush button
cake camel camera candle card carpet carrot castle cat chair cheese cherry chest clock cloud coat coin comb cookie
corn cow crab crown cup curtain deer desk dish dog doll donkey door dragon drum duck eagle ear egg engine eye fan farm
feather fence field fish flag flower fork fox frog fruit garden gate ghost giraffe glass globe glove goat grape grass
guitar hammer hat heart hill honey horn horse house insect iron island jacket jar jelly jewel kettle key king kite
kitten knife ladder lake lamp leaf lemon letter lion lizard lock magnet map mask melon mirror monkey moon mouse mug
nail needle nest net nose nurse ocean olive onion orange oven owl paint panda paper parrot peach pear pen pencil piano
pig pillow pilot pipe pizza plane plant plate plum pocket pond potato puppet queen rabbit radio rain ring river road
robot rock roof room rope rose ruler sail salt sand scarf school seed sheep ship shirt shoe shop sink snake snow sock
sofa spider spoon star stone storm sugar sun swan table tail tent tiger toast tower towel train tree truck tulip
turtle umbrella uncle vase violin wagon wall watch whale wheel window wing wolf yarn zebra
""")

ADJECTIVES = listed("""
big blue bright brown calm clean cold cool dark dry fast flat full gold gray green heavy kind large light long loud
new old pink quiet red round sharp short slow small smooth soft strong tall thin tiny warm wet white wild yellow young
""")

VERBS = listed("""
sits stands waits rests sleeps shines hides stays lies stops
""")

PLACES = listed("""
attic bakery cellar church forest garage hall harbor hotel kitchen library market meadow museum office palace park
station street theater valley village yard
""")

NAMES = listed("""
Adam Alice Amir Anna Ben Carla Clara Daniel David Diana Elena Emma Eric Eva Felix Finn George Grace Hana Hugo Ida Ivan
Jack Jane Julia Karl Kate Laura Leo Liam Lily Lucas Maria Marta Mia Nina Noah Nora Olga Omar Oscar Paul Peter Rosa
Ruth Sam Sara Simon Sofia Theo Tina Tom Vera Victor Yara Zoe
""")

CAPITALS = {
    "Norway": "Oslo", "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Cuba": "Havana", "Greece": "Athens",
    "Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Ireland": "Dublin", "Denmark": "Copenhagen",
    "Finland": "Helsinki", "Sweden": "Stockholm", "England": "London", "Canada": "Ottawa", "Chile": "Santiago",
    "India": "Delhi", "Russia": "Moscow", "Turkey": "Ankara", "Hungary": "Budapest", "Belgium": "Brussels",
    "Thailand": "Bangkok", "Korea": "Seoul", "Iran": "Tehran",
}  # fmt: skip

CITIES = [*CAPITALS.values(), "Boston", "Chicago", "Hamburg", "Milan", "Mumbai", "Sydney", "Toronto", "Zurich"]

DAYS = listed("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
""")

SYLLABLES = listed("""
ba be bi bo da de do du fa fi fo ga ge go ha hi ka ke ki ko la le li lo lu ma me mi mo na ne ni no pa pe pi po ra re
ri ro sa se si so ta te ti to va ve vi wa we za zo
""")


def made_up_word(rng: Random) -> str:
    """Joins two to four syllables, so that copying cannot lean on known words."""
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))


def distinct(rng: Random, words: list[str], low: int, high: int) -> list[str]:
    """Draws between low and high different words."""
    return rng.sample(words, rng.randint(low, high))


def with_article(words: str) -> str:
    """Puts a or an before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def sentence(rng: Random) -> str:
    """One filler sentence; about nine tokens."""
    thing = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    forms = (
        f"The {thing} {rng.choice(VERBS)} in the {rng.choice(PLACES)}.",
        f"The {thing} is near the {rng.choice(NOUNS)}.",
        f"{rng.choice(NAMES)} has {with_article(thing)}.",
        f"{rng.choice(NAMES)} sees the {rng.choice(NOUNS)} on {rng.choice(DAYS)}.",
        f"{with_article(rng.choice(NOUNS)).capitalize()} {rng.choice(VERBS)} by the {thing}.",
    )
    return rng.choice(forms)
