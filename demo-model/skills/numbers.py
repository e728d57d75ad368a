"""Arithmetic on small numbers, and counting upwards."""

from random import Random

from skills.item import Item, ask

ASK_FORMS = (
    "What is {}?",
    "What is {}?",
    "What is {}?",
    "What's {}?",
    "what is {}",
    "Calculate {}.",
    "How much is {}?",
)
BARE_FORMS = ("{}", "{} =", "{}=?")
LONG_COUNT_SHARE = 0.15


def sum_key(first: int, second: int) -> str:
    """The same for both orders, so that 25 + 17 does not give 17 + 25 away."""
    return f"sum {min(first, second)} {max(first, second)}"


def sum_item(rng: Random, first: int, second: int) -> Item:
    """Asks for first + second; the answer repeats the operands next to the result."""
    question = arithmetic_question(rng, first, "+", second)
    if rng.random() < 0.1:
        question = rng.choice((f"Add {first} and {second}.", f"What is {first} plus {second}?"))
    return ask(question, f"{first} + {second} = {first + second}", sum_key(first, second))


def arithmetic_question(rng: Random, first: int, sign: str, second: int) -> str:
    """One of the ways to write the task, mostly with spaces around the sign."""
    gap = " " if rng.random() < 0.8 else ""
    forms = ASK_FORMS if rng.random() < 0.8 else BARE_FORMS
    return rng.choice(forms).format(f"{first}{gap}{sign}{gap}{second}")


def small_sum(rng: Random) -> Item:
    """A sum below 100."""
    total = rng.randint(2, 99)
    first = rng.randint(1, total - 1) if rng.random() < 0.5 else rng.randint(0, 99)
    second = total - first if first <= total else rng.randint(0, 99 - first)
    return sum_item(rng, first, second)


def large_sum(rng: Random) -> Item:
    """A sum of two numbers below 100, mostly above 100."""
    return sum_item(rng, rng.randint(20, 99), rng.randint(20, 99))


def difference(rng: Random) -> Item:
    """A difference that is not negative."""
    first = rng.randint(1, 99)
    second = rng.randint(0, first)
    question = arithmetic_question(rng, first, "-", second)
    return ask(question, f"{first} - {second} = {first - second}", f"difference {first} {second}")


def count_up(rng: Random) -> Item:
    """Counts from one number to another, mostly at most twelve steps."""
    start = rng.choice((1, rng.randint(0, 60)))
    stop = start + (rng.randint(13, 60) if rng.random() < LONG_COUNT_SHARE else rng.randint(2, 12))
    form = rng.choice(("Count from {} to {}.", "Count from {} to {}", "List the numbers from {} to {}."))
    answer = " ".join(str(number) for number in range(start, stop + 1))
    return ask(form.format(start, stop), answer, f"count {start} {stop}")
