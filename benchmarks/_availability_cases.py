"""What one tenant may do to keep the others waiting: each case prepares its bytes and returns the attack itself.

A new case is a function here that takes an Attacker and returns an Attack, in CASES.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from tests.documents.hostile_files import HOSTILE

MIB = 2**20
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]

PATIENCE_S = 60.0
FOLLOWED_S = 20.0

Attack = Callable[[], str]
"""Does it once, to the end; returns what was answered."""


@dataclass(frozen=True)
class Attacker:
    """A tenant with a key of its own."""

    url: str
    token: str

    def send(self, path: str, content: bytes, content_type: str = "application/json", method: str = "POST") -> str:
        """The status, or how the connection ended."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": content_type}
        try:
            answer = httpx.request(method, self.url + path, content=content, headers=headers, timeout=PATIENCE_S)
            return str(answer.status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    def posting(self, path: str, body: Any) -> Attack:
        """The attack that sends `body` as JSON, or as it is where it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        return lambda: self.send(path, content)

    def chatting(self, **fields: Any) -> Attack:
        return self.posting(CHAT, {"model": "default", "messages": HELLO, "max_tokens": 1, **fields})


def together(attacks: Sequence[Attack]) -> Attack:
    """All at once, each from a thread of its own."""

    def run() -> str:
        found: list[str] = []
        threads = [threading.Thread(target=lambda attack=attack: found.append(attack())) for attack in attacks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return " ".join(f"{found.count(status)}x{status}" for status in sorted(set(found)))

    return run


def text(num_bytes: int) -> str:
    return ("the north wind blows over the hills " * (num_bytes // 36 + 1))[:num_bytes]


def small_chats(attacker: Attacker) -> Attack:
    """No attack: what sharing the machine with an ordinary tenant costs."""
    return attacker.chatting()


def wrong_messages(attacker: Attacker) -> Attack:
    return attacker.chatting(messages=[{"role": "user", "x": 1}] * 1_200_000)


def wrong_messages_of_2_mib(attacker: Attacker) -> Attack:
    return attacker.chatting(messages=[{"role": "user", "x": 1}] * 90_000)


def repeated_gbnf_rules(attacker: Attacker) -> Attack:
    rules = "\n".join(f'r{number} ::= "a" | "b"' for number in range(400_000))
    return attacker.chatting(response_format={"type": "grammar", "grammar": f'root ::= "x"\n{rules}'})


def enum_of_31_mib(attacker: Attacker) -> Attack:
    schema = {"type": "string", "enum": [f"wind {number:015}" for number in range(1_400_000)]}
    return attacker.chatting(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def prediction_of_31_mib(attacker: Attacker) -> Attack:
    return attacker.chatting(prediction={"type": "content", "content": text(31 * MIB)})


def fim_of_31_mib(attacker: Attacker) -> Attack:
    body = {"model": "default", "prompt": text(16 * MIB), "suffix": text(15 * MIB), "max_tokens": 1}
    return attacker.posting("/v1/fim/completions", body)


def nested_metadata(attacker: Attacker) -> Attack:
    return attacker.chatting(metadata={"a": [[]] * 10_000_000})


def wrong_logit_bias(attacker: Attacker) -> Attack:
    return attacker.chatting(logit_bias={f"x{number}": "y" for number in range(150_000)})


def chat_of_31_mib(attacker: Attacker) -> Attack:
    return attacker.chatting(messages=[{"role": "user", "content": text(31 * MIB)}])


def twelve_chats_of_12_mib(attacker: Attacker) -> Attack:
    return together([attacker.chatting(messages=[{"role": "user", "content": text(12 * MIB)}])] * 12)


def forty_summaries_of_8_mb(attacker: Attacker) -> Attack:
    """As many as are taken, each followed for some seconds and then left."""
    body = json.dumps({"model": "default", "text": text(7_900_000), "stream": True}).encode()
    headers = {"authorization": f"Bearer {attacker.token}", "content-type": "application/json"}

    def follow() -> str:
        try:
            with httpx.stream(
                "POST", f"{attacker.url}/api/documents/summary", content=body, headers=headers, timeout=PATIENCE_S
            ) as response:
                until = time.monotonic() + FOLLOWED_S
                for _ in response.iter_raw():
                    if time.monotonic() > until:
                        break
                return str(response.status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    return together([follow] * 40)


def hostile_documents(attacker: Attacker) -> Attack:
    """One of every kind, eight at a time."""
    names = itertools.cycle(HOSTILE)

    def upload() -> str:
        name = next(names)
        form = {"file": (name, HOSTILE[name](100_000))}
        headers = {"authorization": f"Bearer {attacker.token}"}
        try:
            answer = httpx.post(f"{attacker.url}/api/documents/text", files=form, headers=headers, timeout=PATIENCE_S)
            return str(answer.status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    return together([upload] * 8)


Case = Callable[[Attacker], Attack]

CASES: tuple[Case, ...] = (
    small_chats,
    wrong_messages,
    wrong_messages_of_2_mib,
    repeated_gbnf_rules,
    enum_of_31_mib,
    prediction_of_31_mib,
    fim_of_31_mib,
    nested_metadata,
    wrong_logit_bias,
    chat_of_31_mib,
    twelve_chats_of_12_mib,
    forty_summaries_of_8_mb,
    hostile_documents,
)
