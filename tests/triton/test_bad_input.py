"""Bad input through the real server: an error that names what was wrong, and nobody else is the worse for it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from elastriton.client import Client, InvalidInputError, UnknownTaskError
from elastriton.generator.serve import Server


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=60.0) as client:
        yield client


@pytest.fixture(params=["http", "grpc"])
def infer(request: pytest.FixtureRequest, tiny_server: Server) -> Iterator[Any]:
    """`infer(model, {name: (dtype, array)}, **options)` by NVIDIA's own client: what ours would never send."""
    library = tritonclient.http if request.param == "http" else tritonclient.grpc
    address = tiny_server.http_url.removeprefix("http://") if request.param == "http" else tiny_server.grpc_url
    client = library.InferenceServerClient(address)

    def infer(model: str, tensors: dict[str, tuple[str, Any]], **options: Any) -> Any:
        inputs = []
        for name, (dtype, array) in tensors.items():
            entry = library.InferInput(name, list(array.shape), dtype)
            entry.set_data_from_numpy(array)
            inputs.append(entry)
        return client.infer(model, inputs, **options)

    yield infer
    client.close()


def bytes_array(rows: list[list[bytes]]) -> Any:
    return np.array(rows, dtype=object)


def test_an_undecodable_image_costs_its_neighbours_nothing(client: Client, make_jpeg: Any) -> None:
    good = make_jpeg("red")
    outcomes = client.classify("colour", images=[good, b"no image", good, good[:200], good], return_errors=True)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Answer",
        "InvalidInputError",
        "Answer",
        "InvalidInputError",
        "Answer",
    ]
    assert "cannot be decoded" in str(outcomes[1])
    assert "damaged" in str(outcomes[3])


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("intent", "", "empty"),
        ("intent", "  \n", "empty"),
        ("intent", "hello " * 50, "over-long: it has 52 tokens, at most 16"),
    ],
)
def test_bad_texts(client: Client, task: str, text: str, message: str) -> None:
    bad, good = client.classify(task, texts=[text, "hello there"], return_errors=True)
    assert isinstance(bad, InvalidInputError)
    assert message in str(bad)
    assert not isinstance(good, Exception)


def test_text_that_is_not_utf8(infer: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"\[invalid\] TEXT is not UTF-8"):
        infer("intent", {"TEXT": ("BYTES", bytes_array([[b"\xff\xfe"]]))})


def test_an_unknown_task_is_named(client: Client, make_jpeg: Any) -> None:
    with pytest.raises(UnknownTaskError, match="nonsense"):
        client.classify("nonsense", images=[make_jpeg("red")])


def test_unknown_label_set_named_to_the_scheduler(infer: Any) -> None:
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(InferenceServerException, match=r"\[invalid\] TASK is \['imagenet'\].*colour, warm"):
        infer("vit_scheduler", {"PIXELS": ("UINT8", pixels), "TASK": ("BYTES", bytes_array([[b"imagenet"]]))})


def test_two_label_sets_in_one_request(infer: Any) -> None:
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    tasks = bytes_array([[b"colour"], [b"warm"]])
    with pytest.raises(InferenceServerException, match="name one task per request"):
        infer("vit_scheduler", {"PIXELS": ("UINT8", pixels), "TASK": ("BYTES", tasks)})


def test_a_token_id_that_the_model_does_not_have(infer: Any) -> None:
    ids = np.array([[2, 4, 9999, 3]], np.int64)
    tokens = {"INPUT_IDS": ids, "ATTENTION_MASK": np.ones_like(ids), "TOKEN_TYPE_IDS": np.zeros_like(ids)}
    tensors = {name: ("INT64", array) for name, array in tokens.items()} | {
        "TASK": ("BYTES", bytes_array([[b"intent"]]))
    }
    with pytest.raises(InferenceServerException, match=r"\[invalid\] INPUT_IDS has 9999; send ids from 0 to 16"):
        infer("bert_scheduler", tensors)


def test_unknown_level_named_to_the_executor(infer: Any) -> None:
    tensors = {"PIXELS": ("UINT8", np.zeros((1, 32, 32, 3), np.uint8)), "TASK": ("BYTES", bytes_array([[b"colour"]]))}
    with pytest.raises(InferenceServerException, match=r"\[invalid\] level -99 is unknown"):
        infer("vit_executor", tensors, parameters={"gamma": -99})
    with pytest.raises(InferenceServerException, match=r"\[invalid\] parameter gamma='fast' is not an integer"):
        infer("vit_executor", tensors, parameters={"gamma": "fast"})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"slo_ms": -5}, "slo_ms=-5 is out of bounds"),
        ({"slo_ms": "soon"}, "slo_ms='soon' is not a number"),
        ({"slo_ms": 0}, "slo_ms=0 is out of bounds"),
        ({"utility": -1.5}, "utility=-1.5 is out of bounds"),
        ({"utility": True}, "utility=True is not a number"),
    ],
)
@pytest.mark.parametrize("task", ["colour", "intent"])
def test_bad_parameters(infer: Any, make_jpeg: Any, task: str, parameters: dict[str, Any], message: str) -> None:
    name, value = ("IMAGE", make_jpeg("red")) if task == "colour" else ("TEXT", b"hello")
    with pytest.raises(InferenceServerException, match=r"\[invalid\]") as caught:
        infer(task, {name: ("BYTES", bytes_array([[value]]))}, parameters=parameters)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [int, float, str])
def test_a_deadline_counts_from_sending_where_the_request_says_when(infer: Any, make_jpeg: Any, kind: Any) -> None:
    def send(ago_ms: int) -> Any:
        parameters = {"slo_ms": 4000, "sent_unix_ms": kind(int(time.time() * 1000.0) - ago_ms)}
        return infer("colour", {"IMAGE": ("BYTES", bytes_array([[make_jpeg("red")]]))}, parameters=parameters)

    assert send(0).as_numpy("LABEL").shape == (1, 1)
    with pytest.raises(InferenceServerException, match=r"\[rejected\] .* under way for \d{4,}\.\d of its 4000 ms"):
        send(5000)


def test_numbers_as_decimal_text_are_fine(infer: Any, make_jpeg: Any) -> None:
    tensors = {"IMAGE": ("BYTES", bytes_array([[make_jpeg("red")]]))}
    answer = infer("colour", tensors, parameters={"slo_ms": "4000.5", "utility": "2"}, request_id="mine")
    assert answer.as_numpy("LABEL").shape == (1, 1)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"IMAGE": ("FP32", np.zeros((1, 1), np.float32))}, "data-type"),
        ({"IMAGE": ("BYTES", bytes_array([[b"a", b"b"]]))}, "shape"),
        ({"PICTURE": ("BYTES", bytes_array([[b"a"]]))}, "PICTURE|expected"),
        ({"IMAGE": ("BYTES", bytes_array([[b"a"]] * 100))}, "batch"),
    ],
)
def test_wrong_types_and_shapes(infer: Any, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        infer("colour", tensors)


def test_a_batch_of_zero_is_refused(tiny_server: Server) -> None:
    body = {"inputs": [{"name": "TEXT", "shape": [0, 1], "datatype": "BYTES", "data": []}]}
    request = urllib.request.Request(
        f"{tiny_server.http_url}/v2/models/intent/infer", data=json.dumps(body).encode(), method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as error:
        assert error.code in {400, 500}
        assert error.read()


def test_one_bad_sample_fails_its_own_request_only(infer: Any, make_jpeg: Any) -> None:
    batch = bytes_array([[make_jpeg("red")], [b"broken"]])
    with pytest.raises(InferenceServerException, match="cannot be decoded"):
        infer("colour", {"IMAGE": ("BYTES", batch)})
    good = infer("colour", {"IMAGE": ("BYTES", bytes_array([[make_jpeg("red")]] * 3))})
    assert good.as_numpy("PROBABILITIES").shape == (3, 3)
    assert good.as_numpy("GAMMA").shape == (3, 1)
