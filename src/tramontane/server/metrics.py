"""Metrics: what Prometheus reads at /metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from tramontane.engine.engine import EngineStats
from tramontane.server.request_record import RequestRecord

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PER_SECOND = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class BusyTime:
    """How long at least one request was being answered; requests are added in the order they end."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._spans: deque[tuple[float, float]] = deque(maxlen=1024)  # apart from each other, the latest last

    def add(self, end: float, duration_s: float) -> None:
        start = end - duration_s
        while self._spans and self._spans[-1][1] >= start:
            earlier, until = self._spans.pop()
            self.total_s -= until - earlier
            start = min(start, earlier)
        self.total_s += end - start
        self._spans.append((start, end))


class Metrics:
    """Labels hold names of routes and served models alone, so that callers cannot make up new ones."""

    def __init__(self, price_per_hour: float | None = None) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "tramontane_requests", "Requests that ended, by status", ["endpoint", "model", "status"], registry=registry
        )
        self._prompt = Counter("tramontane_prompt_tokens", "Prompt tokens", ["model"], registry=registry)
        self._cached = Counter(
            "tramontane_cached_prompt_tokens", "Prompt tokens from the prefix cache", ["model"], registry=registry
        )
        self._completion = Counter("tramontane_completion_tokens", "Generated tokens", ["model"], registry=registry)
        self._first_token = Histogram(
            "tramontane_first_token_seconds",
            "Time to the first token",
            ["model"],
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._duration = Histogram(
            "tramontane_request_seconds",
            "Time to the end",
            ["endpoint", "model"],
            buckets=DURATION_S,
            registry=registry,
        )
        self._speed = Histogram(
            "tramontane_completion_tokens_per_second",
            "Generated tokens of a request by the time from its first token to its end",
            ["model"],
            buckets=PER_SECOND,
            registry=registry,
        )
        self._busy = BusyTime()
        self._num_tokens = 0
        self._busy_s = Gauge("tramontane_busy_seconds", "Time in which requests were answered", registry=registry)
        self._price_per_hour = price_per_hour
        if price_per_hour is not None:
            self._cost = Gauge(
                "tramontane_cost_per_million_tokens",
                "The machine's price for its busy time, by the tokens of that time, prompt and completion",
                registry=registry,
            )
        self._engine = {
            name: Gauge(f"tramontane_engine_{name}", text, ["model"], registry=registry)
            for name, text in (
                ("running_sequences", "Sequences that hold pages"),
                ("waiting_requests", "Requests waiting for pages"),
                ("steps", "Steps computed"),
                ("prompt_tokens", "Prompt tokens of what was begun, metered or not"),
                ("generated_tokens", "Tokens of answers, metered or not"),
                ("preemptions", "Sequences that lost their pages and were computed again"),
                ("pages", "KV pages there are"),
                ("held_pages", "KV pages of running sequences"),
                ("cached_pages", "KV pages kept for reuse"),
                ("evictions", "Cached KV pages that were given up for others"),
                ("touched_bytes", "Memory of the KV pages used so far: on a CPU it is taken page by page"),
            )
        }

    def observe(self, record: RequestRecord) -> None:
        self._requests.labels(record.endpoint, record.model, str(record.status)).inc()
        self._duration.labels(record.endpoint, record.model).observe(record.duration_s)
        self._prompt.labels(record.model).inc(record.prompt_tokens)
        self._cached.labels(record.model).inc(record.cached_tokens)
        self._completion.labels(record.model).inc(record.completion_tokens)
        self._busy.add(time.perf_counter(), record.duration_s)
        self._num_tokens += record.prompt_tokens + record.completion_tokens
        self._busy_s.set(self._busy.total_s)
        if self._price_per_hour is not None and self._num_tokens:
            self._cost.set(self._price_per_hour * self._busy.total_s / 3600 / self._num_tokens * 1e6)
        if record.first_token_s is not None:
            self._first_token.labels(record.model).observe(record.first_token_s)
            decoding_s = record.duration_s - record.first_token_s
            if record.completion_tokens > 1 and decoding_s > 0:
                self._speed.labels(record.model).observe((record.completion_tokens - 1) / decoding_s)

    def text(self, engines: Iterable[tuple[str, EngineStats]]) -> bytes:
        """Everything, with the engines as they stand now."""
        for model, stats in engines:
            for name, value in (
                ("running_sequences", stats.num_running),
                ("waiting_requests", stats.num_waiting),
                ("steps", stats.num_steps),
                ("prompt_tokens", stats.num_prompt_tokens),
                ("generated_tokens", stats.num_generated_tokens),
                ("preemptions", stats.num_preemptions),
                ("pages", sum(group.num_pages for group in stats.groups)),
                ("held_pages", sum(group.num_held for group in stats.groups)),
                ("cached_pages", sum(group.num_cached for group in stats.groups)),
                ("evictions", sum(group.num_evictions for group in stats.groups)),
                ("touched_bytes", sum(group.num_touched * group.page_bytes for group in stats.groups)),
            ):
                self._engine[name].labels(model).set(value)
        return generate_latest(self.registry)
