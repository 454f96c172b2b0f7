"""/v1/responses as agents use it: tools that do not run here, what is kept and for whom, conversations that are too
long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import serving
from tests.server.test_cut_calls import events
from tramontane.server.keys import SCOPES, KeyOptions, create_key
from tramontane.server.responses.store import StoredResponses

FUNCTION = {"type": "function", "name": "exec_command", "description": "Runs a command.", "strict": False,
            "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"],
                           "additionalProperties": False}}  # fmt: skip
AGENT: dict[str, Any] = {
    "model": "chat",
    "input": [
        {"type": "message", "id": "msg_a", "role": "developer",
         "content": [{"type": "input_text", "text": "You are a coding agent."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<cwd>/work</cwd>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello"}]},
    ],
    "tools": [
        FUNCTION,
        {"type": "namespace", "name": "agents", "description": "Sub-agents.", "tools": [FUNCTION]},
        {"type": "web_search", "external_web_access": False},
        {"type": "local_shell"},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "mcp", "server_label": "files", "server_url": "http://localhost"},
        {"type": "image_generation"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "key",
    "service_tier": "auto",
    "text": {"verbosity": "low"},
    "metadata": {"a": "b"},
    "client_metadata": {"x-installation-id": "1", "turn": "{}"},
    "max_output_tokens": 4,
}  # fmt: skip
"""The form in which Codex CLI asks."""


def post(client: TestClient, headers: dict[str, str] | None = None, **body: Any) -> Any:
    answer = client.post("/v1/responses", json={"model": "chat", "max_output_tokens": 3, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_agent_with_tools_that_do_not_run_here_is_answered_and_told(app_client: TestClient) -> None:
    answer = app_client.post("/v1/responses", json=AGENT)
    assert answer.status_code == 200, answer.text
    assert "response.incomplete" in answer.text or "response.completed" in answer.text
    ignored = set(answer.headers["x-ignored-fields"].split(", "))
    assert ignored == {
        "client_metadata", "include", "reasoning.summary", "service_tier", "text.verbosity", "tools[1].namespace",
        "tools[2].web_search", "tools[3].local_shell", "tools[4].custom", "tools[5].mcp", "tools[6].image_generation",
    }  # fmt: skip


@pytest.mark.parametrize(
    "choice",
    [{"type": "web_search"}, {"type": "custom", "name": "apply_patch"}, {"type": "function", "name": "none"},
     {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "none"}]}],
)  # fmt: skip
def test_a_tool_that_must_be_called_and_cannot_be_is_an_error(app_client: TestClient, choice: Any) -> None:
    answer = app_client.post("/v1/responses", json={**AGENT, "stream": False, "tool_choice": choice})
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"].startswith("tool_choice")


def test_required_needs_a_tool_that_runs_here(app_client: TestClient) -> None:
    body = {**AGENT, "stream": False, "tools": [{"type": "web_search"}], "tool_choice": "required"}
    assert app_client.post("/v1/responses", json=body).status_code == 400


def test_of_all_tools_only_those_allowed_are_called(app_client: TestClient) -> None:
    other = {**FUNCTION, "name": "now", "parameters": {"type": "object", "properties": {}}}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
    answer = post(app_client, input="x", tools=[FUNCTION, other], tool_choice=choice, max_output_tokens=100)
    assert {item["name"] for item in answer["output"]} == {"now"}


def test_what_came_of_foreign_tools_is_left_out_and_named(app_client: TestClient) -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}}
    turns = [{"role": "user", "content": "a"}, search, {"role": "assistant", "content": "b"},
             {"role": "user", "content": "c"}]  # fmt: skip
    body = {"model": "chat", "input": turns, "max_output_tokens": 1}
    answer = app_client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "input[1].web_search_call"


def test_the_headers_name_fields_as_the_client_knows_them(app_client: TestClient) -> None:
    pattern = {"type": "string", "pattern": "(?=a)", "maxLength": 1}
    schema = {"type": "object", "properties": {"a": pattern}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body = {
        "model": "chat",
        "input": turns,
        "max_output_tokens": 10**6,
        "reasoning": {"effort": "low"},
        "max_tokens": 5,
    }
    tools = [{"type": "mcp"}, {**FUNCTION, "parameters": schema, "strict": False}]
    answer = app_client.post("/v1/responses", json={**body, "tools": tools})
    assert answer.status_code == 200, answer.text
    ignored = set(answer.headers["x-ignored-fields"].split(", "))
    assert ignored == {"max_tokens", "reasoning.effort", "tools[0].mcp", "tools[1].parameters.properties.a.pattern"}
    assert answer.headers["x-changed-fields"] == "input, max_output_tokens"
    text = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    answer = app_client.post("/v1/responses", json={"model": "chat", "input": "x", "text": text})
    assert answer.headers["x-ignored-fields"] == "text.format.schema.properties.a.pattern"


def test_an_input_that_no_model_here_can_read_is_named(app_client: TestClient) -> None:
    answer = app_client.post("/v1/responses", json={"model": "chat", "input": [{"type": "web_search_call", "id": "x"}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


def test_a_response_that_is_not_kept_is_named_by_the_field_that_asked_for_it(app_client: TestClient) -> None:
    body = {"model": "chat", "input": "x", "previous_response_id": "resp_0"}
    answer = app_client.post("/v1/responses", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")


def test_a_streamed_response_is_kept_when_it_has_ended(app_client: TestClient) -> None:
    told = events(app_client, "/v1/responses", {"model": "chat", "input": "x", "max_output_tokens": 3}, {})
    last = told[-1]["response"]
    assert app_client.get(f"/v1/responses/{last['id']}").json() == last
    assert {event["response"]["id"] for event in told if "response" in event} == {last["id"]}


def test_a_stream_that_fails_leaves_nothing(app_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(StoredResponses, "add", fails)
    told = events(app_client, "/v1/responses", {"model": "chat", "input": "x", "max_output_tokens": 3}, {})
    assert told[-1]["type"] == "response.failed"
    monkeypatch.undo()
    assert app_client.get(f"/v1/responses/{told[-1]['response']['id']}").status_code == 404


def test_items_are_listed_in_pages(app_client: TestClient) -> None:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": str(n)} for n in range(5)]
    path = f"/v1/responses/{post(app_client, input=turns)['id']}/input_items"
    first = app_client.get(path, params={"limit": 2}).json()
    rest = app_client.get(path, params={"after": first["last_id"], "limit": 100}).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [item["content"] for item in [*first["data"], *rest["data"]]] == list("43210")
    assert len({item["id"] for item in [*first["data"], *rest["data"]]}) == 5
    again = post(app_client, input=[{"type": "item_reference", "id": rest["last_id"]}])
    assert app_client.get(f"/v1/responses/{again['id']}/input_items").json()["data"][0]["content"] == "0"


def test_what_the_context_cannot_hold_goes_from_the_oldest_turn_on(app_client: TestClient) -> None:
    turns = [{"role": "system", "content": "Be brief."}]
    for n in range(40):
        turns += [{"role": "user", "content": f"{n} " + "wind " * 60}, {"role": "assistant", "content": "A wind."}]
    turns.append({"role": "user", "content": "The last."})
    body = {"model": "chat", "input": turns, "max_output_tokens": 2}
    assert app_client.post("/v1/responses", json=body).status_code == 400
    answer = app_client.post("/v1/responses", json={**body, "truncation": "auto"})
    assert answer.status_code == 200, answer.text
    assert "input" in answer.headers["x-changed-fields"].split(", ")
    assert 1000 < answer.json()["usage"]["input_tokens"] < 2048
    path = f"/v1/responses/{answer.json()['id']}/input_items?limit=100&order=asc"
    kept = app_client.get(path).json()["data"]
    assert [item["content"] for item in (kept[0], kept[-1])] == ["Be brief.", "The last."]
    assert kept[1]["role"] == "user"
    short = app_client.post("/v1/responses", json={**body, "input": "x", "truncation": "auto"})
    assert "x-changed-fields" not in short.headers


@pytest.fixture(scope="module")
def tenants(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("tenants"), response_days=7) as client:
        yield client


def test_nobody_else_reads_or_goes_on_from_a_response(tenants: TestClient) -> None:
    app: Any = tenants.app
    keys = [create_key(app.state.services.database, KeyOptions(name, scopes=SCOPES))[1] for name in ("a", "b")]
    alice, bob = ({"authorization": f"Bearer {token}"} for token in keys)
    made = post(tenants, alice, input="secret")
    path = f"/v1/responses/{made['id']}"
    assert tenants.get(path, headers=alice).status_code == 200
    for ask in (tenants.get, tenants.delete):
        assert ask(path, headers=bob).status_code == 404
    assert tenants.get(f"{path}/input_items", headers=bob).status_code == 404
    assert tenants.post(f"{path}/cancel", headers=bob).status_code == 404
    for more in ({"previous_response_id": made["id"], "input": "x"},
                 {"input": [{"type": "item_reference", "id": made["output"][0]["id"]}]}):  # fmt: skip
        body = {"model": "chat", **more}
        answer = tenants.post("/v1/responses", json=body, headers=bob)
        assert answer.status_code == 404, answer.text
        assert "secret" not in answer.text
    assert json.loads(tenants.get(path, headers=alice).text) == made


def test_a_server_that_keeps_nothing_says_so(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, response_days=0) as client:
        made = post(client, input="x")
        assert made["store"] is False
        assert client.get(f"/v1/responses/{made['id']}").status_code == 404
