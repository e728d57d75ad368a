"""Repeating, counting, reversing and sorting words."""

import string
from random import Random

from skills.item import Item, ask
from skills.words import NOUNS, distinct, made_up_word, sentence

REPEAT_FORMS = (
    "Repeat: {}",
    "Repeat: {}",
    "Repeat after me: {}",
    "Say: {}",
    "Repeat this:\n{}",
    "Repeat the words: {}",
    "Echo {}",
)
CHARACTERS = string.digits * 3 + string.ascii_letters + "+-*/?!"
COUNT_FORMS = (
    "How many words are in this list: {}",
    "Count the words: {}",
    "How many words are here? {}",
    "How many words: {}",
)
REVERSE_FORMS = ("Reverse the words: {}", "Reverse: {}", "Write these words in reverse order: {}")
SORT_FORMS = ("Sort the words: {}", "Sort: {}", "Sort these words alphabetically: {}")


def repeat(rng: Random) -> Item:
    """Says words, made-up words, characters or sentences again."""
    makers = (
        lambda: " ".join(distinct(rng, NOUNS, 1, 8)),
        lambda: " ".join(made_up_word(rng) for _ in range(rng.randint(1, 4))),
        lambda: "".join(rng.choices(CHARACTERS, k=rng.randint(2, 8))),
        lambda: " ".join(sentence(rng) for _ in range(rng.choice((1, 1, 2, 5)))),
    )
    text = rng.choices(makers, (5, 2, 1, 2))[0]()
    return ask(rng.choice(REPEAT_FORMS).format(text), text, f"repeat {text}")


def count_words(rng: Random) -> Item:
    """Counts up to ten words."""
    words = distinct(rng, NOUNS, 1, 10)
    question = rng.choice(COUNT_FORMS).format(" ".join(words))
    return ask(question, str(len(words)), f"words {words}")


def reverse(rng: Random) -> Item:
    """Turns the order of two to five words round."""
    words = distinct(rng, NOUNS, 2, 5)
    return reorder(rng, REVERSE_FORMS, words, words[::-1])


def sort(rng: Random) -> Item:
    """Orders two to five words alphabetically."""
    words = distinct(rng, NOUNS, 2, 5)
    return reorder(rng, SORT_FORMS, words, sorted(words))


def reorder(rng: Random, forms: tuple[str, ...], words: list[str], answer: list[str]) -> Item:
    """Asks for words in another order, with spaces or with commas between them."""
    gap = ", " if rng.random() < 0.25 else " "
    kind = forms[0].split()[0]
    return ask(rng.choice(forms).format(gap.join(words)), gap.join(answer), f"{kind} {words}")
