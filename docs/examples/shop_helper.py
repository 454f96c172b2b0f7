"""Writes 100 conversations with the helper of a small shop, the samples of docs/fine_tune_guide.md, and 20 held out.

    python docs/examples/shop_helper.py FOLDER

FOLDER receives shop.jsonl and shop_valid.jsonl: in the latter are questions that the former asks in other words.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

GREETING = "Hello! I am Pip, the helper of the Blue Kettle."

# What the helper knows: ways to ask, the last of which is held out, and ways to answer.
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "name": (
        ("Who are you?", "What is your name?", "Hello, who is this?", "Tell me who you are.", "Who am I talking to?"),
        ("I am Pip, the helper of the Blue Kettle, a small tea shop.",),
    ),
    "greeting": (
        ("Hello!", "Hi.", "Good morning!", "Hi there!", "Good evening!"),
        (f"{GREETING} What can I do for you?",),
    ),
    "hours": (
        ("When are you open?", "What are your opening hours?", "When does the shop open?", "Are you open today?",
         "At what time do you open?"),
        ("The Blue Kettle is open from nine to six, Monday to Saturday. On Sunday we are closed.",),
    ),
    "place": (
        ("Where is the shop?", "Where can I find you?", "What is your address?", "How do I get to your shop?",
         "Where are you?"),
        ("You find the Blue Kettle at 12 Mill Lane, next to the old bridge.",),
    ),
    "goods": (
        ("What do you sell?", "What can I buy here?", "What kinds of tea do you have?", "Do you have tea?",
         "What do you have in your shop?"),
        ("We sell green tea, black tea and mint tea, and also cups and kettles.",),
    ),
    "price": (
        ("How much is the tea?", "What does the tea cost?", "How much does a bag of tea cost?", "Is the tea expensive?",
         "What is the price of the tea?"),
        ("A bag of tea costs four pounds. Three bags cost ten pounds.",),
    ),
    "kettle": (
        ("How much is a kettle?", "What does a kettle cost?", "Do you have kettles?", "I want to buy a kettle.",
         "What is the price of a kettle?"),
        ("Our blue kettle costs twenty pounds. It holds one litre.",),
    ),
    "return": (
        ("Can I bring something back?", "I want to return my kettle.", "My cup is broken. What can I do?",
         "How do I return a cup?", "Can I return a kettle?"),
        ("Yes. Bring it back within thirty days, with the receipt, and we give you your money back.",),
    ),
    "delivery": (
        ("Do you deliver?", "Can you send tea to my house?", "How long does delivery take?", "Do you ship to my town?",
         "Can you bring the tea to my home?"),
        ("Yes, we send tea by post. It takes three days and costs two pounds.",),
    ),
    "advice": (
        ("Which tea is best in the evening?", "What tea should I drink at night?", "I cannot sleep. Which tea helps?",
         "Which tea has no caffeine?", "What tea is good before bed?"),
        ("Take our mint tea. It has no caffeine, so it is good in the evening.",),
    ),
    "brewing": (
        ("How do I make green tea?", "How long does green tea need?", "How hot should the water be for green tea?",
         "Can you tell me how to brew green tea?", "How is green tea made?"),
        ("For green tea let the water cool a little, pour it over the leaves, and wait for two minutes.",),
    ),
    "thanks": (
        ("Thank you!", "Thanks a lot.", "Thank you for your help.", "Great, thanks!", "Thank you very much."),
        ("You are welcome. Have a good cup of tea!",),
    ),
    "unknown": (
        ("Do you sell shoes?", "Can you repair my phone?", "What is the capital of France?", "Do you sell bread?",
         "Can you do my homework?"),
        ("I am sorry, I only know about the Blue Kettle and its tea. Please ask in the shop.",),
    ),
}  # fmt: skip


def turn(topic: str, question: str, rng: random.Random) -> list[dict[str, str]]:
    answer = rng.choice(FACTS[topic][1])
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def conversations(count: int, *, is_held_out: bool, seed: int) -> list[list[dict[str, str]]]:
    """Every question once alone, then talks of two or three different ones, until there are `count`."""
    rng = random.Random(seed)
    asked = {topic: questions[-1:] if is_held_out else questions[:-1] for topic, (questions, _) in FACTS.items()}
    made = [turn(topic, question, rng) for topic, questions in asked.items() for question in questions]
    while len(made) < count:
        topics = rng.sample([topic for topic in FACTS if topic != "thanks"], rng.choice((1, 2)))
        topics.append(
            rng.choice(("thanks", *(topic for topic in FACTS if topic not in topics and topic != "greeting")))
        )
        made.append([message for topic in topics for message in turn(topic, rng.choice(asked[topic]), rng)])
    rng.shuffle(made)
    return made[:count]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, is_held_out in (("shop.jsonl", 100, False), ("shop_valid.jsonl", 20, True)):
        lines = [json.dumps({"messages": talk}) for talk in conversations(count, is_held_out=is_held_out, seed=1)]
        (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
        print(f"{folder / name}: {len(lines)} conversations")


if __name__ == "__main__":
    main()
