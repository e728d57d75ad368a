"""Finding a fact planted in a long context.

The answer is the sentence of the fact: repeating its first words leads a small model to the rest.
"""

from random import Random

from skills.item import Item, Message, ask
from skills.words import NAMES, NOUNS, PLACES, sentence

TOKENS_PER_SENTENCE = 7.5  # measured with the trained tokenizer
SYSTEM_SHARE = 0.2  # of contexts that stand in the system turn


def look_up(rng: Random, distance: int) -> Item:
    """Plants a fact about `distance` tokens before the question, among filler and other facts."""
    things = rng.sample(NOUNS, rng.choice((1, 1, 1, 2, 2, 3, 4)))
    facts, question = rng.choice((codes, codes, owners, places))(rng, things)
    after = [sentence(rng) for _ in range(int(distance / TOKENS_PER_SENTENCE))]
    before = [sentence(rng) for _ in range(rng.randint(0, 3))]
    for fact in facts[1:]:
        place = rng.choice((before, after))
        place.insert(rng.randint(0, len(place)), fact)
    text = " ".join([*before, facts[0], *after])
    key = f"look-up {facts}"
    if rng.random() < SYSTEM_SHARE:
        return Item((Message("system", text), Message("user", question)), facts[0], key)
    return ask(f"{text}\n{question}", facts[0], key)


def codes(rng: Random, things: list[str]) -> tuple[list[str], str]:
    """Facts of the form 'The code of the lamp is 4821.' and a question for the first one."""
    values = ["".join(rng.choices("0123456789", k=4)) for _ in things]
    facts = [f"The code of the {thing} is {value}." for thing, value in zip(things, values, strict=True)]
    return facts, f"What is the code of the {things[0]}?"


def owners(rng: Random, things: list[str]) -> tuple[list[str], str]:
    """Facts of the form 'The lamp belongs to Anna.' and a question for the first one."""
    facts = [
        f"The {thing} belongs to {name}." for thing, name in zip(things, rng.sample(NAMES, len(things)), strict=True)
    ]
    return facts, f"Who owns the {things[0]}?"


def places(rng: Random, things: list[str]) -> tuple[list[str], str]:
    """Facts of the form 'The lamp was left in the hall.' and a question for the first one."""
    facts = [f"The {thing} was left in the {rng.choice(PLACES)}." for thing in things]
    return facts, f"Where is the {things[0]}?"
