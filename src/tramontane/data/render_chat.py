"""Records of the raw sets as conversations for chat tuning. A recipe names these functions in `render`.

Like `render`, but what is yielded are samples `{"messages": [...]}` for `sample_shapes.parse_row`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tramontane.data.identity import identity
from tramontane.data.record import Record
from tramontane.data.render import (
    RenderContext,
    define,
    either,
    plain_answer,
    plain_question,
    sentence,
    storybook_parts,
    text_field,
)
from tramontane.data.sample_shapes import conversation_row
from tramontane.data.story_words import characters, memorable_words
from tramontane.errors import DataError

Sample = dict[str, Any]
ChatRenderer = Callable[[Sequence[Record], RenderContext], Iterator[Sample]]


def conversation(*contents: str, system: str | None = None) -> Sample:
    """A sample of alternating user and assistant messages."""
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    messages += [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return {"messages": messages}


def pair(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """One question and its answer. Options: `question` and `answer` name the fields (prompt, response); `skip` is a
    regular expression of questions to leave out."""
    skip = context.options.get("skip")
    for record in records:
        question = plain_question(text_field(record, context.options.get("question", "prompt")))
        answer = plain_answer(text_field(record, context.options.get("answer", "response")))
        if question and answer and not (skip and re.search(skip, question)):
            yield conversation(question, answer)


_SHORTEN = (
    "Summarize this story:\n{text}",
    "Please summarize this:\n\n{text}",
    "Give me a short summary of this text.\n\n{text}",
    "{text}\n\nSummarize the text above.",
    "Make this shorter:\n\n{text}",
    "What happens in this story? Answer briefly.\n\n{text}",
    "Can you sum this up for me?\n\n{text}",
)
_REPHRASE = (
    "Rewrite this story in your own words:\n{text}",
    "Please rephrase this:\n\n{text}",
    "Paraphrase the following text.\n\n{text}",
    "{text}\n\nRewrite the text above.",
    "Say this differently:\n\n{text}",
    "Can you reword this for me?\n\n{text}",
)


def summary(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Prompts whose first line is an instruction, with the instruction reworded. Option `task`: summarize (default)
    or rephrase."""
    wordings = _REPHRASE if context.options.get("task") == "rephrase" else _SHORTEN
    for record in records:
        _, _, text = text_field(record, "prompt").partition("\n")
        if text.strip():
            question = context.rng.choice(wordings).format(text=text.strip())
            yield conversation(question, text_field(record, "response").strip())


_FEELING = (
    "What feeling does this text show? Answer with one word.\n\n{text}",
    "Classify the emotion of this review:\n{text}",
    "Name the emotion in this text in one word.\n\n{text}",
    "{text}\n\nWhich emotion does the writer feel?",
    "How does the writer feel?\n\n{text}",
)


def sentiment(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Prompts of an instruction line and a review; the response is the name of an emotion."""
    for record in records:
        _, _, text = text_field(record, "prompt").partition("\n")
        answer = text_field(record, "response").strip().strip(".").lower()
        if text.strip() and answer and len(answer.split()) <= 3:
            yield conversation(context.rng.choice(_FEELING).format(text=text.strip()), answer.capitalize())


_ASK_TRIVIA = ("{question}", "{question}", "Do you know this? {question}", "Quiz question: {question}")


def trivia_chat(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Quiz questions, with their choices half of the time, answered in a short sentence or a word."""
    for record in records:
        question, answer = text_field(record, "question").strip(), text_field(record, "answer").strip()
        choices = [str(choice) for choice in record.fields.get("choices") or ()]
        if not answer:
            continue
        asked = context.rng.choice(_ASK_TRIVIA).format(question=question)
        form = context.rng.random()
        if len(choices) > 1 and form < 0.35:
            asked += f" {either(choices)}"
        elif len(choices) > 1 and form < 0.7:
            asked += "\n" + "\n".join(f"{'ABCDEFGH'[place]}. {each}" for place, each in enumerate(choices[:8]))
        elif re.search(r"\b(?:these|of the following|which one)\b", question, re.I):
            continue  # cannot be answered without seeing the choices
        said = context.rng.choice([sentence(answer), sentence(answer), f"The answer is {answer}.", f"It is {answer}."])
        yield conversation(asked, re.sub(r"\.\.$", ".", said))


_ASK_MEANING = (
    'What does "{word}" mean?',
    'What does the word "{word}" mean?',
    "Define {word}.",
    'Explain the word "{word}".',
    "What is the meaning of {word}?",
    'Can you tell me what "{word}" means?',
    "define: {word}",
)


def definition_chat(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Dictionary entries of one word as question and answer; words without any example are left out."""
    meanings = [record.fields for record in records if isinstance(record.fields.get("definition"), str)]
    if any(each.get("example") for each in meanings):
        word = str(meanings[0]["word"]).strip()
        yield conversation(context.rng.choice(_ASK_MEANING).format(word=word), define(meanings, context.rng, most=3))


_ASK_STORY = ("Write a short story", "Tell me a story", "Tell me a short story", "Make up a little story")


def story_chat(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Stories asked for by their characters, by words they use, or by title. Option `field`: where the story is."""
    rng = context.rng
    for record in records:
        title, text = "", text_field(record, context.options.get("field", "text")).strip()
        if context.options.get("form") == "storybook":
            title, pages = storybook_parts(text)
            text = "\n\n".join(pages)
        names, words = characters(text), memorable_words(text, rng)
        asked = rng.choice(_ASK_STORY)
        wishes = []
        if names and rng.random() < 0.7:
            wishes.append(f" about {' and '.join(names)}")
        elif title:
            wishes.append(f' called "{title}"')
        if len(words) == 3 and (not wishes or rng.random() < 0.5):
            listed = f"{words[0]}, {words[1]} and {words[2]}"
            wishes.append(rng.choice([". Use the words ", " with the words ", ". It should have the words "]) + listed)
        if wishes and len(text) > 200:
            yield conversation(asked + "".join(wishes) + ".", text)


def simplify(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """News texts of one title at several levels: rewrite an upper level as the elementary one."""
    levels = {str(record.fields.get("level")): text_field(record, "text").strip() for record in records}
    simple = levels.get("elementary")
    for level in ("intermediate", "advanced"):
        if simple and level in levels:
            asked = context.rng.choice(
                ["Rewrite this in simpler English:\n\n{text}", "Make this text easier to read.\n\n{text}"]
            )
            yield conversation(asked.format(text=levels[level]), simple)


def messages(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Conversations of any shape that `sample_shapes` knows, as they are: system prompts, tools, calls and results
    included. Options: `system` puts a system prompt before those that have none (several, separated by "|", are drawn
    from); `most` keeps only the first so many messages."""
    prompts = [each.strip() for each in context.options.get("system", "").split("|")]
    for record in records:
        try:
            row = conversation_row(record.fields, context.notes)
        except DataError:
            yield dict(record.fields)  # told, with the reason, by whoever reads the sample
            continue
        if row is not None:
            prompt = context.rng.choice(prompts)
            said = list(row["messages"])
            if prompt and not (isinstance(said[0], Mapping) and said[0].get("role") in ("system", "developer")):
                said.insert(0, {"role": "system", "content": prompt})
            yield {**row, "messages": _answered(said, context)}


def _answered(said: list[Any], context: RenderContext) -> list[Any]:
    """`said` up to the last answer within the option `most`."""
    num_system = sum(isinstance(each, Mapping) and each.get("role") in ("system", "developer") for each in said)
    kept = said[: num_system + int(context.options.get("most", len(said)))]
    while kept and not (isinstance(kept[-1], Mapping) and kept[-1].get("role") == "assistant"):
        kept.pop()
    if len(kept) < len(said) and kept:
        context.notes.tell("messages after the last answer or the most that are kept, left out of a conversation")
    return kept or said


def talk(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """`messages` of two people talking, made to alternate from user to assistant; neighbours of one role are joined and
    spaces folded, as transcripts of speech ask for. Options as for `messages`."""
    for record in records:
        turns = alternate(record.fields.get("messages") or ())
        turns = turns[: int(context.options.get("most", len(turns)))]
        turns = turns[: len(turns) // 2 * 2]
        if turns:
            prompts = [each.strip() for each in context.options.get("system", "").split("|")]
            yield conversation(*turns, system=context.rng.choice(prompts) or None)


def alternate(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Contents from the first user message to the last assistant message; neighbours of one role are joined."""
    contents: list[str] = []
    last_role = "assistant"
    for turn in turns:
        role, content = turn.get("role"), re.sub(r"[ \t]+", " ", str(turn.get("content") or "")).strip()
        if not content or role not in ("user", "assistant") or (not contents and role == "assistant"):
            continue
        if role == last_role:
            contents[-1] += " " + content
        else:
            contents.append(content)
            last_role = role
    return contents if len(contents) % 2 == 0 else contents[:-1]


_NAMES = (
    *("Alex", "Anna", "Ben", "Clara", "Daniel", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Julia", "Leo"),
    *("Lucy", "Maria", "Max", "Mia", "Noah", "Nora", "Oliver", "Paul", "Rosa", "Sam", "Sophie", "Tom", "Victor"),
)
_BLANK_NAME = re.compile(
    r"[\[(](?:user ?(?P<user>[12])(?:'s)?(?: name)?|name)[\])]|\buser (?P<bare>[12])\b", re.IGNORECASE
)
_OWN = re.compile(r"(?:\bI'?m|\bI am|\bname is|\bname's|\bit's|\bme)\s*$", re.IGNORECASE)
_BLANK = re.compile(r"[\[{<]")


def persona_chat(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Conversations of two people with a few sentences about each; the assistant's become its system prompt. Names
    that were left blank are drawn; conversations with other blanks are left out."""
    for record in records:
        names = context.rng.sample(_NAMES, 2)
        contents = alternate(record.fields.get("messages") or ())
        turns = [_with_names(content, names, place % 2) for place, content in enumerate(contents)]
        facts = [line.strip() for line in str(record.fields.get("persona_assistant") or "").split("\n") if line.strip()]
        if turns and facts and not any(_BLANK.search(turn) for turn in turns):
            if any(names[1] in turn for turn in turns):
                facts.insert(0, f"My name is {names[1]}")
            opening = context.rng.choice(["This is who you are:", "Play this person:", "You are this person:"])
            yield conversation(*turns, system=f"{opening} {' '.join(map(sentence, facts))}")


def _with_names(content: str, names: Sequence[str], speaker: int) -> str:
    """`content` of speaker 0 or 1 with `[user 1's name]` and the like filled in; a bare `[name]` is the speaker's own
    after "I am" and the other's elsewhere."""

    def fill(match: re.Match[str]) -> str:
        number = match["user"] or match["bare"]
        if number:
            return names[int(number) - 1]
        return names[speaker if _OWN.search(content[: match.start()]) else 1 - speaker]

    return _BLANK_NAME.sub(fill, content)


def message_trees(records: Sequence[Record], context: RenderContext) -> Iterator[Sample]:
    """Open Assistant trees (`text`, `role`, `rank`, `replies`): the path of best-ranked replies."""
    for record in records:
        node: Mapping[str, Any] | None = record.fields
        turns: list[dict[str, Any]] = []
        while node is not None:
            role = {"prompter": "user", "assistant": "assistant"}.get(str(node.get("role")))
            turns.append({"role": role, "content": str(node.get("text") or "").strip()})
            replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
            replies.sort(key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))
            node = replies[0] if replies else None
        while turns and turns[-1]["role"] != "assistant":
            turns.pop()
        if turns:
            yield {"messages": turns}


CHAT_RENDERERS: Mapping[str, ChatRenderer] = {
    "pair": pair,
    "summary": summary,
    "sentiment": sentiment,
    "trivia": trivia_chat,
    "definition": definition_chat,
    "story": story_chat,
    "simplify": simplify,
    "messages": messages,
    "talk": talk,
    "persona": persona_chat,
    "message_trees": message_trees,
    "identity": identity,
}
