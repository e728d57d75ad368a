"""Extracting fields into JSON."""

import json
from random import Random

from skills.item import Item, ask
from skills.words import CITIES, DAYS, NAMES, NOUNS, PLACES, made_up_word, sentence

FORMS = (
    "Extract {fields} as JSON: {text}",
    "Extract {fields} as JSON.\n{text}",
    "{text}\nExtract {fields} as JSON.",
    "Give {fields} as JSON: {text}",
)
Record = dict[str, str | int]


def extraction(rng: Random) -> Item:
    """Asks for some fields of one record, in any order, as one JSON object."""
    record, text = rng.choice((person, order, event))(rng)
    names = rng.sample(list(record), rng.randint(min(2, len(record)), len(record)))
    if rng.random() < 0.3:
        text = rng.choice((f"{text} {sentence(rng)}", f"{sentence(rng)} {text}"))
    question = rng.choice(FORMS).format(fields=listing(names), text=text)
    answer = json.dumps({name: record[name] for name in names})
    return ask(question, answer, f"extract {sorted(map(str, record.values()))}")


def listing(names: list[str]) -> str:
    """Joins names the English way: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]])


def person(rng: Random) -> tuple[Record, str]:
    """A person with an age and a city."""
    name = rng.choice(NAMES) if rng.random() < 0.8 else made_up_word(rng).capitalize()
    age, city = rng.randint(18, 90), rng.choice(CITIES)
    forms = (
        f"{name} is {age} years old and lives in {city}.",
        f"{name} lives in {city} and is {age} years old.",
        f"My name is {name}, I am {age} and I live in {city}.",
        f"In {city} lives {name}, who is {age}.",
    )
    return {"name": name, "age": age, "city": city}, rng.choice(forms)


def order(rng: Random) -> tuple[Record, str]:
    """A purchase with a count and a price."""
    name, item = rng.choice(NAMES), rng.choice(NOUNS)
    count, price = rng.randint(2, 20), rng.randint(1, 99)
    forms = (
        f"{name} ordered {count} pieces of {item} for {price} dollars.",
        f"{count} pieces of {item} were sold to {name} for {price} dollars.",
        f"Order from {name}: {item}, {count} pieces, {price} dollars.",
    )
    return {"customer": name, "item": item, "count": count, "price": price}, rng.choice(forms)


def event(rng: Random) -> tuple[Record, str]:
    """A meeting with a day, an hour and a place."""
    name, day, hour, place = rng.choice(NAMES), rng.choice(DAYS), rng.randint(1, 12), rng.choice(PLACES)
    forms = (
        f"The meeting with {name} is on {day} at {hour} in the {place}.",
        f"On {day} at {hour} we meet {name} in the {place}.",
        f"{name} comes to the {place} at {hour} on {day}.",
    )
    return {"person": name, "day": day, "hour": hour, "place": place}, rng.choice(forms)
