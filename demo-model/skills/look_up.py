"""Finding a fact planted in a long context."""

from random import Random

from skills.item import Item, Message, ask
from skills.words import NAMES, NOUNS, PLACES, sentence

TOKENS_PER_SENTENCE = 7.5  # measured with the trained tokenizer
SYSTEM_SHARE = 0.2  # of contexts that stand in the system turn


def look_up(rng: Random, distance: int) -> Item:
    """Plants a fact about `distance` tokens before the question, among filler and other facts."""
    things = rng.sample(NOUNS, rng.randint(1, 4))
    facts, question, answer = rng.choices((codes, owners), (7, 3))[0](rng, things)
    after = [sentence(rng) for _ in range(int(distance / TOKENS_PER_SENTENCE))]
    before = [sentence(rng) for _ in range(rng.randint(0, 3))]
    for fact in facts[1:]:
        place = rng.choice((before, after))
        place.insert(rng.randint(0, len(place)), fact)
    text = " ".join([*before, facts[0], *after])
    key = f"look-up {facts}"
    if rng.random() < SYSTEM_SHARE:
        return Item((Message("system", text), Message("user", question)), answer, key)
    return ask(f"{text}\n{question}", answer, key)


def codes(rng: Random, things: list[str]) -> tuple[list[str], str, str]:
    """Facts of the form 'The code of the lamp is 4821.'; the first one is asked for."""
    values = ["".join(rng.choices("0123456789", k=4)) for _ in things]
    facts = [f"The code of the {thing} is {value}." for thing, value in zip(things, values, strict=True)]
    return facts, f"What is the code of the {things[0]}?", values[0]


def owners(rng: Random, things: list[str]) -> tuple[list[str], str, str]:
    """Facts of the form 'Anna left the lamp in the hall.'; the first one is asked for."""
    names, places = rng.sample(NAMES, len(things)), rng.choices(PLACES, k=len(things))
    rows = list(zip(names, things, places, strict=True))
    facts = [f"{name} left the {thing} in the {place}." for name, thing, place in rows]
    if rng.random() < 0.5:
        return facts, f"Where is the {things[0]}?", f"in the {places[0]}"
    return facts, f"Who left the {things[0]}?", names[0]
