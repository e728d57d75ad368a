"""Calling a tool listed in the system turn, and wording a tool's result."""

import json
from dataclasses import dataclass
from random import Random

from skills.item import Item, Message
from skills.words import CITIES, DAYS, NAMES, NOUNS, PLACES, made_up_word, with_article

JsonObject = dict[str, object]
WEATHER = ("sunny", "rain", "snow", "cloudy", "windy", "fog")
TOOLS_PER_TURN = 3


@dataclass(frozen=True)
class Tool:
    """A tool, a question that needs it and the arguments that question names."""

    name: str
    description: str
    arguments: JsonObject
    question: str

    def declaration(self) -> JsonObject:
        """The tool as an OpenAI client would send it."""
        properties = {key: {"type": json_type(value)} for key, value in self.arguments.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def json_type(value: object) -> str:
    """The JSON schema name of a value's type."""
    return "integer" if isinstance(value, int) else "string"


def city_tool(rng: Random) -> Tool:
    """Weather, time or a made-up thing in a city."""
    city = rng.choice(CITIES) if rng.random() < 0.85 else made_up_word(rng).capitalize()
    topic = rng.choice(("weather", "weather", "time", rng.choice(NOUNS)))
    if topic in ("weather", "time"):
        forms = (f"What is the {topic} in {city}?", f"What's the {topic} in {city}?", f"Tell me the {topic} in {city}.")
        return Tool(f"get_{topic}", f"Get the {topic} in a city", {"city": city}, rng.choice(forms))
    thing = with_article(topic)
    return Tool(f"find_{topic}", f"Find {thing} in a city", {"city": city}, f"Find {thing} in {city}.")


def order_tool(rng: Random) -> Tool:
    """Ordering or counting things."""
    noun, count = rng.choice(NOUNS), rng.randint(2, 99)
    return Tool(f"order_{noun}", f"Order {with_article(noun)}", {"count": count}, f"Order {count} pieces of {noun}.")


def send_tool(rng: Random) -> Tool:
    """Sending a thing to a person."""
    noun, name = rng.choice(NOUNS), rng.choice(NAMES)
    return Tool("send", "Send a thing to a person", {"thing": noun, "to": name}, f"Send the {noun} to {name}.")


def meet_tool(rng: Random) -> Tool:
    """A meeting with a person on a day."""
    name, day = rng.choice(NAMES), rng.choice(DAYS)
    return Tool(
        "add_meeting", "Add a meeting on a day", {"person": name, "day": day}, f"Add a meeting with {name} on {day}."
    )


def timer_tool(rng: Random) -> Tool:
    """A timer in minutes."""
    minutes = rng.randint(1, 90)
    return Tool("set_timer", "Set a timer", {"minutes": minutes}, f"Set a timer for {minutes} minutes.")


def light_tool(rng: Random) -> Tool:
    """Switching the light in a room."""
    place, state = rng.choice(PLACES), rng.choice(("on", "off"))
    return Tool(
        "set_light",
        "Turn a light on or off",
        {"room": place, "state": state},
        f"Turn {state} the light in the {place}.",
    )


MAKERS = (city_tool, city_tool, order_tool, send_tool, meet_tool, timer_tool, light_tool)


def offered_tools(rng: Random) -> list[Tool]:
    """Draws one to three tools with different names."""
    drawn = {tool.name: tool for tool in (rng.choice(MAKERS)(rng) for _ in range(rng.randint(1, TOOLS_PER_TURN)))}
    return list(drawn.values())


def call_text(tool: Tool) -> str:
    """The answer the model gives to call a tool."""
    return json.dumps({"name": tool.name, "arguments": tool.arguments})


def tool_call(rng: Random) -> Item:
    """Offers tools and asks for one of them."""
    tools = offered_tools(rng)
    wanted = rng.choice(tools)
    declarations = tuple(tool.declaration() for tool in tools)
    messages = (Message("user", wanted.question),)
    return Item(messages, call_text(wanted), f"tool {wanted.name} {wanted.arguments}", declarations)


def tool_result(rng: Random) -> Item:
    """Words the result of a weather call."""
    city, sky, degrees = rng.choice(CITIES), rng.choice(WEATHER), rng.randint(0, 35)
    tool = Tool("get_weather", "Get the weather in a city", {"city": city}, f"What is the weather in {city}?")
    result = json.dumps({"weather": sky, "degrees": degrees})
    turns = (Message("user", tool.question), Message("assistant", call_text(tool)), Message("tool", result))
    answer = f"The weather in {city} is {sky} with {degrees} degrees."
    return Item(turns, answer, f"result {city} {result}", (tool.declaration(),))
