from __future__ import annotations

import json
from typing import Any

import pytest

from elastriton.core.errors import InvalidInput
from elastriton.core.parameters import MAX_SLO_MS, MAX_UNIX_MS, MAX_UTILITY, RequestOptions, parse_options


@pytest.mark.parametrize("text", ["", "{}", '{"slo_ms": null}', '{"gamma": 4, "other": [true]}'])
def test_absent_options_are_left_to_the_task(text: str) -> None:
    assert parse_options(text) == RequestOptions(None, None)


@pytest.mark.parametrize(
    ("value", "number"), [(100, 100.0), (0.5, 0.5), ("100", 100.0), ("1e2", 100.0), (" 7.5 ", 7.5)]
)
def test_numbers_and_their_decimal_text_are_read(value: Any, number: float) -> None:
    options = parse_options(json.dumps({"slo_ms": value, "utility": value}))
    assert options == RequestOptions(slo_ms=number, utility=number)


@pytest.mark.parametrize("name", ["slo_ms", "utility", "sent_unix_ms"])
@pytest.mark.parametrize("value", [True, False, "", "soon", "0x10", [100], {"a": 1}, 10**400])
def test_what_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"{name}=.*is not a number"):
        parse_options(json.dumps({name: value}))


@pytest.mark.parametrize("name", ["slo_ms", "utility", "sent_unix_ms"])
@pytest.mark.parametrize("value", [0, -1, -0.5, "0", "nan", "inf", "-inf", float("nan"), float("inf"), 1e300, "1e999"])
def test_numbers_out_of_bounds_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"{name}=.*is out of bounds"):
        parse_options(json.dumps({name: value}))


def test_the_upper_bounds_are_inclusive() -> None:
    options = parse_options(json.dumps({"slo_ms": MAX_SLO_MS, "utility": MAX_UTILITY}))
    assert options == RequestOptions(MAX_SLO_MS, MAX_UTILITY)


@pytest.mark.parametrize(
    ("name", "bound"), [("slo_ms", MAX_SLO_MS), ("utility", MAX_UTILITY), ("sent_unix_ms", MAX_UNIX_MS)]
)
def test_just_above_the_upper_bound_is_refused(name: str, bound: float) -> None:
    with pytest.raises(InvalidInput, match="out of bounds"):
        parse_options(json.dumps({name: bound * 1.0001}))


def test_triton_s_timeout_stands_in_for_slo_ms() -> None:
    assert parse_options("", timeout_us=1500).slo_ms == 1.5
    assert parse_options('{"utility": 2}', timeout_us=1500) == RequestOptions(1.5, 2.0)
    assert parse_options("", timeout_us=0).slo_ms is None


def test_slo_ms_goes_before_the_timeout() -> None:
    assert parse_options('{"slo_ms": 20}', timeout_us=1500).slo_ms == 20.0


def test_a_request_has_waited_since_it_was_sent_and_never_less_than_not_at_all() -> None:
    assert parse_options('{"slo_ms": 20}').waited_ms(1_795_000_000_123.0) == 0.0
    options = parse_options('{"sent_unix_ms": 1795000000123}')
    assert [options.waited_ms(1_795_000_000_123.0 + after) for after in (40.0, 0.0, -40.0)] == [40.0, 0.0, 0.0]


def test_background_is_a_boolean() -> None:
    assert parse_options('{"background": true}').background
    assert not parse_options("{}").background
    with pytest.raises(InvalidInput, match="background='yes' is not a boolean"):
        parse_options('{"background": "yes"}')


@pytest.mark.parametrize("name", ["slo_ms", "background"])
def test_a_long_value_is_not_sent_back_whole(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}='xxx.*xxx' is not a") as caught:
        parse_options(json.dumps({name: "x" * 20_000}))
    assert len(str(caught.value)) < 200
