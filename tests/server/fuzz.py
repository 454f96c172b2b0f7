"""Requests made up from our own OpenAPI schema, right ones and wrong ones, and what no answer may be."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

SLOWEST_S = 20.0
"""An answer that takes longer hangs: the server of a fuzz run has short contexts."""


@dataclass
class Report:
    num_cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0


def fuzz(url: str, num_cases: int, *, model: str) -> Report:
    """Send about `num_cases` requests, spread over all routes. Raises AssertionError for an answer of 500 and above,
    one that is not as the schema says, and one that takes too long. `model` stands in for made-up names half the time.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operations.append(result.ok())
    report = Report()
    with requests.Session() as session:
        for operation in operations:
            for mode in GenerationMode:
                share = max(1, num_cases // (2 * len(operations)))
                _fuzz_operation(operation, mode, share, model, session, report)
    return report


def _fuzz_operation(
    operation: Any, mode: GenerationMode, num_cases: int, model: str, session: requests.Session, report: Report
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode), is_real=st.booleans())
    @settings(
        max_examples=num_cases, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    def check(case: Any, is_real: bool) -> None:
        if is_real and isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = model
        started = time.monotonic()
        answer = case.call(session=session, timeout=SLOWEST_S)
        report.slowest_s = max(report.slowest_s, time.monotonic() - started)
        report.num_cases += 1
        report.statuses[answer.status_code] += 1
        assert answer.status_code < 500, f"{answer.status_code} {answer.text}\n{case.as_curl_command()}"
        if answer.headers.get("content-type") == "application/json":
            case.validate_response(answer, checks=[schemathesis.checks.CHECKS.get_one("response_schema_conformance")])

    try:
        check()
    except Unsatisfiable:
        return  # a route without parameters can be called in no wrong way
