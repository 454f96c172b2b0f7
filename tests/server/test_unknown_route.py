"""Every operation of the official clients is answered, or named as one that is not implemented."""

from __future__ import annotations

import openai
import pytest
from fastapi.testclient import TestClient
from mistralai.client import Mistral, errors

from tests.server.client_operations import operations
from tests.server.live import LiveServer


def test_no_operation_of_a_client_is_an_unknown_path(app_client: TestClient) -> None:
    known = operations()
    assert len(known) > 300
    num_missing = 0
    for path, methods in known.items():
        for method in methods:
            answer = app_client.request(method, path.replace("{}", "x"))
            assert answer.status_code != 405, (method, path)
            if answer.status_code == 404:
                assert answer.json()["code"] != "unknown_path", (method, path)
            if answer.status_code == 501:
                num_missing += 1
                assert answer.json()["error"]["code"] == "not_implemented"
    assert num_missing > 300


def test_both_clients_say_what_is_missing(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="POST /v1/images/generations is not") as missing:
            client.images.generate(prompt="wind")
        assert (missing.value.status_code, missing.value.code) == (501, "not_implemented")
        with pytest.raises(openai.NotFoundError) as unknown:
            client.post("/messages", cast_to=object, body={})
        assert unknown.value.code == "unknown_path"
    with Mistral(api_key="none", server_url=server.url) as theirs, pytest.raises(errors.SDKError) as refused:
        theirs.beta.libraries.list()
    assert refused.value.status_code == 501
    assert "GET /v1/libraries is not implemented" in str(refused.value)
