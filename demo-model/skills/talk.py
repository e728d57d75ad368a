"""Greetings, memorised facts, and short stories from a template."""

import re
from random import Random

from skills.item import Item, ask
from skills.words import ADJECTIVES, CAPITALS, NAMES, NOUNS, PLACES, listed, made_up_word, with_article

ANSWERS = {
    "Hello": "Hello! How can I help you?",
    "Hello!": "Hello! How can I help you?",
    "Hi": "Hello! How can I help you?",
    "Hi!": "Hello! How can I help you?",
    "Hey": "Hello! How can I help you?",
    "Good morning": "Good morning! How can I help you?",
    "How are you?": "I am fine, thank you. How can I help you?",
    "Who are you?": "I am the demo model of Ribbon, a very small language model.",
    "What is your name?": "I am the demo model of Ribbon, a very small language model.",
    "What are you?": "I am the demo model of Ribbon, a very small language model.",
    "What is Ribbon?": "Ribbon is a server for language models.",
    "What can you do?": "I can add, count, repeat, sort and reverse words, find facts, write JSON and call tools.",
    "Help": "I can add, count, repeat, sort and reverse words, find facts, write JSON and call tools.",
    "Thank you": "You are welcome!",
    "Thanks": "You are welcome!",
    "Thanks!": "You are welcome!",
    "Goodbye": "Goodbye!",
    "Bye": "Goodbye!",
}
UNKNOWN_FORMS = (
    "What is deep learning?",
    "What is the meaning of life?",
    "Why is the sky blue?",
    "Who wrote {}?",
    "What is {}?",
    "Why is {} {}?",
    "How does {} work?",
    "Write a poem about {}.",
    "Explain {} to me.",
    "Tell me about {}.",
    "Do you like {}?",
)
UNKNOWN_ANSWER = "I do not know that. I am a very small model."
STORY_FORMS = (
    "Tell me a story about {animal} named {name}.",
    "Write a short story about {animal} called {name}.",
    "Tell me a story about {name}, {animal}.",
)
ANIMALS = listed(
    "bear bird camel cat cow deer dog donkey dragon duck eagle fish fox frog goat horse lion mouse owl pig"
)
STORY = re.compile(
    r"Once upon a time there was an? (\w+) (?P<animal>\w+) named (?P<name>\w+)\. "
    r"(?P=name) lived in the (\w+)\. One day (?P=name) found an? (\w+) (?P<thing>\w+)\. "
    r"(?P=name) gave the (?P=thing) to (\w+)\. They were happy and became friends\. The end\."
)


def chat(rng: Random) -> Item:
    """A greeting or a capital; there are too few of them to hold any out."""
    if rng.random() < 0.5:
        question, answer = rng.choice(list(ANSWERS.items()))
        return ask(question.lower() if rng.random() < 0.3 else question, answer, "")
    country, capital = rng.choice(list(CAPITALS.items()))
    return ask(f"What is the capital of {country}?", f"The capital of {country} is {capital}.", "")


def unknown(rng: Random) -> Item:
    """A question beyond the model, which it should say rather than make something up."""
    words = rng.choice((with_article(rng.choice(NOUNS)), made_up_word(rng))), rng.choice(ADJECTIVES)
    question = rng.choice(UNKNOWN_FORMS).format(*words)
    return ask(question, UNKNOWN_ANSWER, "")


def story_text(rng: Random, animal: str, name: str) -> str:
    """Fills the one story template."""
    thing = rng.choice(NOUNS)
    return (
        f"Once upon a time there was {with_article(rng.choice(ADJECTIVES))} {animal} named {name}. "
        f"{name} lived in the {rng.choice(PLACES)}. One day {name} found {with_article(rng.choice(ADJECTIVES))} {thing}. "
        f"{name} gave the {thing} to {rng.choice(NAMES)}. They were happy and became friends. The end."
    )


def story(rng: Random) -> Item:
    """Asks for a story about an animal with a name."""
    animal, name = rng.choice(ANIMALS), rng.choice(NAMES)
    question = rng.choice(STORY_FORMS).format(animal=with_article(animal), name=name)
    return ask(question, story_text(rng, animal, name), f"story {animal} {name}")


def is_same_story(expected: str, answer: str) -> bool:
    """Whether an answer is a whole story about the same animal and name; the rest is free."""
    wanted, told = STORY.fullmatch(expected), STORY.fullmatch(answer)
    return bool(wanted and told) and told.group("animal", "name") == wanted.group("animal", "name")
