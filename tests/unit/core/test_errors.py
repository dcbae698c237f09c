from __future__ import annotations

import pytest

from elastriton.core.errors import (
    LONGEST,
    ConfigError,
    Internal,
    InvalidInput,
    Rejected,
    RequestError,
    Unavailable,
    parse,
)

KINDS = (InvalidInput, Rejected, Unavailable, Internal)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "prefix", ["", "in ensemble 'eurosat', ", "Failed to process the request(s): [500] scheduler: "]
)
def test_a_tagged_message_is_found_behind_any_prefix(kind: type[RequestError], prefix: str) -> None:
    found = parse(prefix + kind("level [4] is gone: retry").tagged())
    assert type(found) is kind
    assert str(found) == "level [4] is gone: retry"


def test_parse_strips_what_triton_appends() -> None:
    assert str(parse("[rejected] too late \n")) == "too late"


@pytest.mark.parametrize("text", ["", "CUDA out of memory", "[unknown] words", "rejected", "[Rejected] words"])
def test_a_text_without_a_tag_carries_no_error(text: str) -> None:
    assert parse(text) is None


def test_the_first_of_two_tags_counts() -> None:
    found = parse("[unavailable] the executor said: [internal] it broke")
    assert type(found) is Unavailable
    assert str(found) == "the executor said: [internal] it broke"


def test_a_message_of_several_lines_survives() -> None:
    assert str(parse("[invalid] first\nsecond")) == "first\nsecond"


def test_tags_are_distinct_and_codes_are_triton_s() -> None:
    assert len({kind.tag for kind in KINDS}) == len(KINDS)
    codes = {kind: kind.triton_code for kind in KINDS}
    assert codes == {
        InvalidInput: "INVALID_ARG",
        Rejected: "UNAVAILABLE",
        Unavailable: "UNAVAILABLE",
        Internal: "INTERNAL",
    }


def test_a_configuration_error_is_not_an_answer_to_a_request() -> None:
    assert not issubclass(ConfigError, RequestError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_grpc_would_lose_is_cut(kind: type[RequestError]) -> None:
    tagged = kind("\U0001f600" * 20_000).tagged()
    assert len("".join(f"%{byte:02x}" for byte in tagged.encode())) < 8192, "as it travels"
    found = parse(f"in ensemble 'intent', {tagged}")
    assert type(found) is kind
    assert str(found).endswith("\U0001f600…")
    assert kind("x" * LONGEST).tagged().endswith("x" * LONGEST)
