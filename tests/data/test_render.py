from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.data.chat_samples import parse_chat
from tramontane.data.prepare import cut
from tramontane.data.recipe import read_data_recipe
from tramontane.data.record import Origin, Record
from tramontane.data.render import TEXT_RENDERERS, RenderContext, restore_wikitext
from tramontane.data.render_chat import CHAT_RENDERERS
from tramontane.data.sources import read_file
from tramontane.data.story_words import characters, memorable_words
from tramontane.errors import DataError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STORY = (
    "Once there was a girl called Mira. Every day Mira went to the river with her brother, and there Tom and Mira "
    'looked for pebbles. One morning they found a lantern. "Shall we keep it?" asked Tom. In the evening Mira lit '
    "the lantern, and the moths danced around it until the stars came out. Then Mira and Tom walked home."
)


def context(seed: int, options: Mapping[str, str]) -> RenderContext:
    return RenderContext(random.Random(seed), options, {})


def records(*rows: Mapping[str, Any]) -> list[Record]:
    return [Record(row, Origin("s", "file.jsonl", number)) for number, row in enumerate(rows, 1)]


def texts(name: str, *rows: Mapping[str, Any], seed: int = 0, **options: str) -> list[str]:
    return list(TEXT_RENDERERS[name](records(*rows), context(seed, options)))


def chats(name: str, *rows: Mapping[str, Any], seed: int = 0, **options: str) -> list[list[tuple[str, str]]]:
    samples = list(CHAT_RENDERERS[name](records(*rows), context(seed, options)))
    for sample in samples:
        parse_chat(sample)  # all that is rendered must be sound
    return [[(message["role"], message["content"]) for message in sample["messages"]] for sample in samples]


def test_pairs_lose_their_labels() -> None:
    row = {"prompt": "Question: Who?", "response": "A: Me."}
    assert texts("prompt_response", row) == ["Who?\n\nMe."]
    assert texts("prompt_response", row, style="response") == ["Me."]
    assert chats("pair", row) == [[("user", "Who?"), ("assistant", "Me.")]]
    assert chats("pair", row, skip="(?i)who") == []
    assert chats("pair", {"q": "Who?", "a": "Me."}, question="q", answer="a") == chats("pair", row)


def test_definitions_read_as_sentences() -> None:
    meaning = {"word": "apple", "speech_part": "noun", "definition": "a round fruit", "example": "she ate an apple"}
    seen = {texts("definition", meaning | {"synonyms": ["pome"]}, seed=seed)[0] for seed in range(40)}
    assert len(seen) >= 6
    for text in seen:
        assert text.startswith(
            ('"apple" is a noun that means: a round fruit.', 'As a noun, "apple" means a round fruit.')
        )
        assert "She ate an apple." in text
        assert text.endswith("pome.")
    two = texts("definition", meaning, {"word": "apple", "speech_part": None, "definition": "a tree;"})[0]
    assert "\n1. As a noun, it means a round fruit." in two
    assert two.endswith("\n2. It means a tree.")
    (chat,) = chats("definition", meaning)
    assert "apple" in chat[0][1]
    assert "a round fruit" in chat[1][1]
    assert chats("definition", {"word": "apple", "definition": "no example"}) == []


def test_quiz_questions_show_choices_sometimes_and_always_where_needed() -> None:
    row = {"question": "Which of these barks?", "answer": "Dog", "choices": ["Dog", "Cat", "Cow"]}
    for seed in range(30):
        for chat in chats("trivia", row, seed=seed):
            assert "Cat" in chat[0][1]
            assert "Dog" in chat[1][1]
    seen = {texts("trivia", row, seed=seed)[0] for seed in range(30)}
    assert "Q: Which of these barks? Is it Dog, Cat or Cow?\nA: Dog" in seen
    assert "Which of these barks?\nDog" in seen


def test_books_lose_header_contents_marks_and_hard_line_breaks() -> None:
    header = "# Title: A Tale\n\n## Author: Nobody\n\n## Year: 1865\n\n-------\n\n"
    paragraph = "It was _very_ late when the old captain of the long ship came\n"
    body = "## Chapter 1 - Start\n\n" + paragraph * 5 + "\n" + paragraph * 4 + "home.\n\n* * *\n\nThe end."
    (text,) = texts("book", {"text": header + body})
    assert text.startswith("Chapter 1 - Start\n\nIt was very late when the old captain of the long ship came It was")
    assert text.endswith("home.\n\nThe end.")
    contents = "A TALE\n\nCONTENTS\n\nI\n\nII\n\nCHAPTER III. The End\n\n\nI\n\nCedric knew nothing about it at all."
    assert texts("book", {"text": contents})[0].endswith("TALE\n\nCedric knew nothing about it at all.")


def test_picture_books() -> None:
    text = "# The Frog\n\n##\nA frog\nsat.\n\n##\nIt sang.\n\n##\n* License: [CC-BY]\n* Text: Someone\n* Language: en\n"
    assert texts("storybook", {"text": text}) == ["The Frog\n\nA frog sat.\n\nIt sang."]


@pytest.mark.parametrize(
    ("tokens", "restored"),
    [
        (" = Robert <unk> = ", "Robert <unk>"),
        ("a guest @-@ starring role in 1 @,@ 000 shows", "a guest-starring role in 1,000 shows"),
        ("\" Teddy 's Story \" of ( the ) series , he did n't", "\"Teddy's Story\" of (the) series, he didn't"),
        (' = = The " Game " = = ', 'The "Game"'),
        ("It was 3 @.@ 5 % ; yes !", "It was 3.5%; yes!"),
    ],
)
def test_wikitext_is_restored(tokens: str, restored: str) -> None:
    assert restore_wikitext(tokens).strip() == restored


def test_articles_and_dialogues() -> None:
    assert texts("article", {"title": "WNL News", "text": "One. \nTwo."}) == ["News\n\nOne.\n\nTwo."]
    turns = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": "Hello"}]
    (text,) = texts("dialogue", {"messages": turns})
    assert [line.split(": ")[1] for line in text.split("\n")] == ["Hi", "Hello"]
    assert texts("question_answer", {"question": "Q", "answer": "A"}) == ["Q\n\nA"]
    assert texts("text", {"body": "x"}, field="body") == ["x"]


def test_a_missing_field_names_the_row() -> None:
    with pytest.raises(DataError, match=r"file\.jsonl:1: field 'text' is missing"):
        texts("text", {"body": "x"})


def test_tasks_are_worded_in_several_ways() -> None:
    row = {"prompt": "Summarize this story:\nA long tale.", "response": "Short."}
    seen = {chats("summary", row, seed=seed)[0][0][1] for seed in range(60)}
    assert len(seen) == 7
    assert all("A long tale." in asked for asked in seen)
    assert "reword" in str([chats("summary", row, seed=seed, task="rephrase") for seed in range(60)])
    feeling = {"prompt": "Guess:\nI won!", "response": "joy"}
    assert chats("sentiment", feeling)[0][1] == ("assistant", "Joy")
    assert chats("sentiment", feeling | {"response": "a long sentence about joy"}) == []


def test_stories_are_asked_for_by_what_is_in_them() -> None:
    assert characters(STORY) == ["Mira", "Tom"]
    words = memorable_words(STORY, random.Random(1))
    assert len(words) == 3
    assert all(word in STORY for word in words)
    asked = {chats("story", {"text": STORY}, seed=seed)[0][0][1] for seed in range(40)}
    assert any("about Mira and Tom" in each for each in asked)
    assert any("words" in each for each in asked)
    assert chats("story", {"text": "Too short."}) == []
    book = "# The Lantern\n##\n" + STORY.replace("Mira", "she").replace("Tom", "he")
    titles = [chats("story", {"text": book}, seed=seed, form="storybook")[0] for seed in range(9)]
    assert any('called "The Lantern"' in chat[0][1] for chat in titles)
    assert all("##" not in chat[1][1] for chat in titles)


def test_dialogues_are_made_to_alternate() -> None:
    turns = [("assistant", "Hey"), ("user", "Hi"), ("user", "there,  you"), ("assistant", "Yes?"), ("user", "Bye")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert chats("talk", row) == [[("user", "Hi there, you"), ("assistant", "Yes?")]]
    prompted = {chats("talk", row, seed=seed, system="Be nice.|Be kind.")[0][0] for seed in range(9)}
    assert prompted == {("system", "Be nice."), ("system", "Be kind.")}
    assert chats("talk", {"messages": []}) == []
    long = {"messages": [{"role": ("user", "assistant")[n % 2], "content": str(n)} for n in range(10)]}
    assert len(chats("talk", long, most="5")[0]) == 4


def test_conversations_stay_as_they_are() -> None:
    turns = [("assistant", "Hey"), ("user", "Hi"), ("user", "there,  you"), ("assistant", "Yes?"), ("user", "Bye")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert chats("messages", row) == [turns[:-1]]
    assert chats("messages", row, system="Be nice.") == [[("system", "Be nice."), *turns[:-1]]]
    own = {"messages": [{"role": "system", "content": "Be rude."}, *row["messages"]]}
    assert chats("messages", own, system="Be nice.") == [[("system", "Be rude."), *turns[:-1]]]
    assert chats("messages", own, most="1") == [[("system", "Be rude."), turns[0]]]
    assert chats("messages", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "  b"}]}) == [
        [("user", "a"), ("assistant", "  b")]
    ]


def test_personas_become_system_prompts() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    row = {"persona_assistant": "i have a turtle\nI like ships.", "messages": turns}
    (chat,) = chats("persona", row)
    assert chat[0][0] == "system"
    assert chat[0][1].endswith("I have a turtle. I like ships.")
    blank = [{"role": "user", "content": "Hi, I'm [User 1's name]."}]
    blank += [{"role": "assistant", "content": "Hello [name], I am (name). Is User 1 a nice name?"}]
    (chat,) = chats("persona", row | {"messages": blank})
    first = chat[1][1].removeprefix("Hi, I'm ").removesuffix(".")
    second = re.findall(r"My name is (\w+)\.", chat[0][1])[0]
    assert chat[2][1] == f"Hello {first}, I am {second}. Is {first} a nice name?"
    assert first != second
    assert chats("persona", row | {"messages": [{"role": "user", "content": "I live in [city]"}, turns[1]]}) == []


def test_the_best_path_of_a_message_tree() -> None:
    def reply(text: str, rank: int | None, **more: Any) -> dict[str, Any]:
        return {"text": text, "role": "assistant", "rank": rank, "replies": [], **more}

    tree = {"text": "Q", "role": "prompter", "replies": [reply("none", None), reply("b", 1), reply("a", 0)]}
    assert chats("message_trees", tree) == [[("user", "Q"), ("assistant", "a")]]
    gone = {"text": "Q", "role": "prompter", "replies": [reply("a", 0, deleted=True)]}
    assert chats("message_trees", gone) == []


def test_news_is_simplified_from_both_upper_levels() -> None:
    rows = [{"title": "t", "level": level, "text": level} for level in ("advanced", "elementary", "intermediate")]
    answers = [chat[1] for chat in chats("simplify", *rows)]
    assert answers == [("assistant", "elementary")] * 2
    assert chats("simplify", rows[0]) == []


def test_the_default_identity_is_sound_and_filled_in() -> None:
    recipe = read_data_recipe(RECIPES / "default_data.toml")
    record = list(read_file(RECIPES / "default_identity.toml", "default_identity.toml", "identity"))
    persona = dict(recipe.persona) | {"name": "Mimosa"}
    samples = list(CHAT_RENDERERS["identity"](record, RenderContext(random.Random(3), {"system": "0.3"}, persona)))
    assert len(samples) > 1000
    text = str(samples)
    assert "Mimosa" in text
    assert "{" not in "".join(m["content"] for sample in samples for m in sample["messages"])
    for sample in samples:
        parse_chat(sample)
    assert 0.2 < sum(sample["messages"][0]["role"] == "system" for sample in samples) / len(samples) < 0.4
    with pytest.raises(DataError, match=r"placeholder \{name\} has no value"):
        list(CHAT_RENDERERS["identity"](record, RenderContext(random.Random(3), {}, {"project": "x"})))


def test_cut_keeps_everything_and_prefers_paragraphs() -> None:
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 20 for number in range(20)).strip()
    pieces = cut(text, 300)
    assert all(len(piece) <= 300 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece.startswith("Paragraph") for piece in pieces)
    assert cut("x" * 25, 10) == ["x" * 9, "x" * 8, "x" * 8]
    assert cut("One. Two is here. Three", 12) == ["One. Two is", "here. Three"]
    assert cut("short", 12) == ["short"]


@given(text=st.text(st.sampled_from("ab .\n"), max_size=200), max_chars=st.integers(1, 40))
def test_cut_fits_and_loses_nothing_but_white_space(text: str, max_chars: int) -> None:
    pieces = cut(text, max_chars)
    assert all(0 < len(piece) <= max_chars for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
