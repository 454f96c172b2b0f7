"""Tenants of a server that is killed again and again: each works, writes down what was acknowledged, and checks it at
the end against what is there. Everything a tenant sends holds a word of its own, so that what leaks can be told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

WORDS = ("wind", "rain", "sea", "cold", "north", "hill", "snow", "cloud", "bird", "stone")
NUM_PROMPTS = 12
BACK_S = 120.0
"""Longest wait for a killed server, and for what it owes at the end beyond its work."""
LONGEST_JOB_S = 1200.0
KEPT_FILES = 4
ENDED = ("SUCCESS", "FAILED", "CANCELLED", "TIMEOUT_EXCEEDED")
CHAT, FILES, BATCHES, JOBS = "/v1/chat/completions", "/v1/files", "/v1/batch/jobs", "/v1/fine_tuning/jobs"


@dataclass
class Ledger:
    """What all tenants have seen. `faults` are what must not be."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # 429 and 503, by what was refused
    num_cut: int = 0  # requests that a kill has ended
    faults: list[str] = field(default_factory=list)


class Tenant:
    """`is_up` is set while the server lives: a request cut by a kill is tried again, where it creates something under
    the same Idempotency-Key."""

    def __init__(self, name: str, client: httpx.AsyncClient, is_up: asyncio.Event, ledger: Ledger) -> None:
        self.name = name
        self.word = f"{name}-{uuid.UUID(int=random.Random(name).getrandbits(128)).hex[:12]}"
        self._client, self._is_up, self._ledger = client, is_up, ledger
        self._draw = random.Random(name)
        self._answers: dict[int, str] = {}  # to each prompt, as it was answered first
        self.files: dict[str, str] = {}  # id -> sha256
        self.batches: dict[str, list[int]] = {}  # id -> prompts, in order
        self.jobs: list[str] = []

    async def send(self, method: str, path: str, *, creates: bool = False, **content: Any) -> httpx.Response | None:
        """The answer, whatever kills come in between; None where it was refused for now (429, 503)."""
        headers = {"idempotency-key": uuid.uuid4().hex} if creates else {}
        while True:
            await self._is_up.wait()
            try:
                answer = await self._client.request(method, path, headers=headers, **content)
            except httpx.TransportError:
                self._ledger.num_cut += 1
                await asyncio.sleep(0.2)
                continue
            if answer.status_code in (429, 503):
                self._ledger.refused[f"{method} {path.split('/')[2]} {answer.status_code}"] += 1
                await asyncio.sleep(min(5.0, float(answer.headers.get("retry-after", 1))))
                return None
            if answer.status_code >= 500:
                self.fault(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return answer

    def fault(self, what: str) -> None:
        self._ledger.faults.append(f"{time.strftime('%H:%M:%S')} {self.name}: {what}")

    def is_good(self, answer: httpx.Response | None, what: str) -> bool:
        """Whether there is an answer, and it is no refusal; one that nothing explains is a fault."""
        if answer is not None and answer.status_code != 200:
            self.fault(f"{what}: {answer.status_code} {answer.text[:300]}")
        return answer is not None and answer.status_code == 200

    def body(self, number: int) -> dict[str, Any]:
        """Prompt `number` of this tenant; its answer is the same every time."""
        draw = random.Random(f"{self.name} {number}")
        text = f"{self.word} {number} " + " ".join(draw.choices(WORDS, k=draw.randrange(5, 120)))
        return {
            "model": "default", "messages": [{"role": "user", "content": text}], "max_tokens": 48,
            "seed": number, "temperature": (0, 0.8)[number % 2],
        }  # fmt: skip

    def check_text(self, number: int, text: str) -> None:
        if text != self._answers.setdefault(number, text):
            self.fault(f"prompt {number} was answered {text!r} and before {self._answers[number]!r}")

    async def chat(self) -> None:
        number = self._draw.randrange(NUM_PROMPTS)
        answer = await self.send("POST", CHAT, json=self.body(number))
        if answer is not None and self.is_good(answer, "chat"):
            self.check_text(number, answer.json()["choices"][0]["message"]["content"])
            self._ledger.done["chat"] += 1

    async def stream(self) -> None:
        """Read to the end, or left after a few events."""
        number, leaves_after = self._draw.randrange(NUM_PROMPTS), self._draw.choice((None, 1, 3, 10))
        await self._is_up.wait()
        try:
            text = await self._read(self.body(number) | {"stream": True}, leaves_after)
        except httpx.TransportError:
            self._ledger.num_cut += 1
            return
        if text is not None:
            self.check_text(number, text)
        self._ledger.done["left stream" if text is None else "stream"] += 1

    async def _read(self, body: dict[str, Any], leaves_after: int | None) -> str | None:
        """The text of a stream; None where it was not read to the end."""
        text, num_events, is_over = "", 0, False
        async with self._client.stream("POST", CHAT, json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                if answer.status_code not in (429, 503):
                    self.fault(f"stream: {answer.status_code} {answer.text[:300]}")
                return None
            async for line in answer.aiter_lines():
                is_over = is_over or line == "data: [DONE]"
                if line.startswith("data: {"):
                    event, num_events = json.loads(line[6:]), num_events + 1
                    if "error" in event:
                        self.fault(f"stream: {line[:300]}")
                        return None
                    text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                if num_events == leaves_after:
                    return None
        if not is_over:
            self.fault(f"a stream ended without its end: {text!r}")
        return text if is_over else None

    async def upload(self) -> None:
        data = f"{self.word} {self._draw.getrandbits(64)} ".encode() * self._draw.randrange(1, 4000)
        await self._upload("notes.txt", data, "user_data")

    async def _upload(self, name: str, data: bytes, purpose: str) -> str | None:
        """The id of the file, unless it was refused."""
        answer = await self.send("POST", FILES, creates=True, files={"file": (name, data)}, data={"purpose": purpose})
        if answer is None or not self.is_good(answer, "upload"):
            return None
        file_id: str = answer.json()["id"]
        self.files[file_id] = hashlib.sha256(data).hexdigest()
        self._ledger.done["upload"] += 1
        return file_id

    async def delete(self) -> None:
        if len(self.files) <= KEPT_FILES:
            return
        file_id = self._draw.choice(sorted(self.files))
        expected = self.files.pop(file_id)  # no other worker of this tenant looks for it meanwhile
        answer = await self.send("DELETE", f"{FILES}/{file_id}")
        if answer is None:
            self.files[file_id] = expected
        elif answer.status_code == 404 or self.is_good(answer, "delete"):  # 404: killed before it was said
            self._ledger.done["delete"] += 1

    async def download(self) -> None:
        if self.files:
            await self.check_file(self._draw.choice(sorted(self.files)))

    async def check_file(self, file_id: str) -> None:
        answer = await self.send("GET", f"{FILES}/{file_id}/content")
        if answer is None or file_id not in self.files:
            return
        if answer.status_code != 200 or hashlib.sha256(answer.content).hexdigest() != self.files[file_id]:
            self.fault(f"file {file_id}: {answer.status_code}, {len(answer.content)} bytes")
        self._ledger.done["download"] += 1

    async def batch(self) -> None:
        numbers = [self._draw.randrange(NUM_PROMPTS) for _ in range(self._draw.randrange(5, 40))]
        lines = [{"custom_id": str(place), "body": self.body(number)} for place, number in enumerate(numbers)]
        answer = await self.send("POST", BATCHES, creates=True, json={"endpoint": CHAT, "requests": lines})
        if answer is not None and self.is_good(answer, "batch"):
            self.batches[answer.json()["id"]] = numbers
            self._ledger.done["batch"] += 1

    async def check_batch(self, job_id: str) -> None:
        """Each request answered once, in order, as it would be alone."""
        job = await self._ended(f"{BATCHES}/{job_id}", 60 + 5 * len(self.batches))
        if job is None:
            return
        if job["status"] != "SUCCESS" or not job["output_file"]:
            self.fault(f"batch {job_id}: {job}")
            return
        answer = await self._answered("GET", f"{FILES}/{job['output_file']}/content")
        results = [json.loads(line) for line in answer.text.splitlines()]
        if [result["custom_id"] for result in results] != [str(place) for place in range(len(self.batches[job_id]))]:
            self.fault(f"batch {job_id} has the results {[result['custom_id'] for result in results]}")
            return
        for number, result in zip(self.batches[job_id], results, strict=True):
            self.check_text(number, result["response"]["body"]["choices"][0]["message"]["content"])
        self._ledger.done["batch results"] += len(results)

    async def document(self) -> None:
        page = f"<h1>{self.word}</h1>" + "".join(f"<p>{word}</p>" for word in self._draw.choices(WORDS, k=400))
        answer = await self.send("POST", "/api/documents/text", files={"file": ("page.html", page.encode())})
        if answer is not None and self.is_good(answer, "document"):
            if self.word not in answer.json()["text"]:
                self.fault(f"document: {answer.text[:300]}")
            self._ledger.done["document"] += 1

    async def summary(self) -> None:
        body = {"model": "default", "text": " ".join(self._draw.choices(WORDS, k=1500)), "words": 20}
        if self.is_good(await self.send("POST", "/api/documents/summary", json=body), "summary"):
            self._ledger.done["summary"] += 1

    async def fine_tune(self) -> None:
        """A small job, watched to its end."""
        sample = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": self.word}]
        data = "".join(json.dumps({"messages": sample}) + "\n" for _ in range(20)).encode()
        file_id = await self._upload("samples.jsonl", data, "fine-tune")
        if file_id is None:
            return
        wanted = {"training_steps": 8, "learning_rate": 1e-3}
        body = {"model": "default", "training_files": [file_id], "hyperparameters": wanted}
        made = await self.send("POST", JOBS, creates=True, json=body)
        if made is None or not self.is_good(made, "job"):
            return
        self.jobs.append(made.json()["id"])
        job = await self._ended(f"{JOBS}/{made.json()['id']}", LONGEST_JOB_S)
        if job is not None:
            if job["status"] != "SUCCESS":
                self.fault(f"job {job['id']}: {job['status']} {job.get('events', [])[-2:]}")
            self._ledger.done["fine-tuning"] += 1

    async def look_elsewhere(self, other: Tenant) -> None:
        """What is another's is not there for this one."""
        known = ((FILES, sorted(other.files)), (BATCHES, sorted(other.batches)), (JOBS, other.jobs))
        for path in [f"{kind}/{ids[0]}" for kind, ids in known if ids]:
            answer = await self.send("GET", path)
            if answer is not None and answer.status_code != 404:
                self.fault(f"{path} of {other.name} is seen: {answer.text[:200]}")
            self._ledger.done["looked elsewhere"] += 1

    async def settle(self) -> None:
        """At the end: everything acknowledged is there, once, and everything deleted is not."""
        for job_id in self.batches:
            await self.check_batch(job_id)
        for file_id in sorted(self.files):
            await self.check_file(file_id)
        listed = (await self._answered("GET", FILES, params={"page_size": 10_000})).json()["data"]
        seen = {file["id"] for file in listed if file["purpose"] in ("user_data", "fine-tune")}
        for kind, ids in (("lost", set(self.files) - seen), ("twice or undeleted", seen - set(self.files))):
            if ids:
                self.fault(f"{len(ids)} files {kind}: {sorted(ids)[:3]}")
        for path, known in ((BATCHES, set(self.batches)), (JOBS, set(self.jobs))):
            there = {
                job["id"] for job in (await self._answered("GET", path, params={"page_size": 1000})).json()["data"]
            }
            if there != known:
                self.fault(f"{path}: {len(known - there)} lost, {len(there - known)} too many")

    async def _answered(self, method: str, path: str, **content: Any) -> httpx.Response:
        while (answer := await self.send(method, path, **content)) is None:
            pass
        return answer

    async def _ended(self, path: str, patience_s: float) -> dict[str, Any] | None:
        started = time.monotonic()
        while time.monotonic() - started < patience_s + BACK_S:
            answer = await self.send("GET", path)
            if answer is not None and answer.status_code != 200:
                self.fault(f"{path}: {answer.status_code} {answer.text[:200]}")
                return None
            if answer is not None and answer.json()["status"] in ENDED:
                job: dict[str, Any] = answer.json()
                return job
            await asyncio.sleep(1)
        self.fault(f"{path} has not ended in {patience_s + BACK_S:.0f} s")
        return None


Work = Callable[[Tenant], Awaitable[None]]
MIX: tuple[tuple[Work, int], ...] = (
    (Tenant.chat, 30), (Tenant.stream, 30), (Tenant.upload, 8), (Tenant.delete, 6), (Tenant.download, 10),
    (Tenant.batch, 2), (Tenant.document, 3), (Tenant.summary, 1),
)  # fmt: skip
