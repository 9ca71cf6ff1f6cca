"""A page is cut into its elements whatever stands in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.downlink.pages import elements
from ds_gateway.errors import DownlinkError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class TestCutting:
    @given(st.lists(st.lists(values, max_size=4), max_size=3), st.sampled_from([None, 1]), st.booleans())
    def test_the_elements_are_those_that_were_joined(
        self,
        pages: list[list[object]],
        indent: int | None,
        ascii_only: bool,  # noqa: FBT001 - given by hypothesis
    ) -> None:
        data = b"".join(json.dumps(page, indent=indent, ensure_ascii=ascii_only).encode() for page in pages)
        found = [json.loads(element) for element in elements(data)]
        assert found == [value for page in pages for value in page]

    def test_nothing_is_no_element(self) -> None:
        assert elements(b"") == elements(b"[]") == elements(b" [ ] \n") == []

    def test_what_nobody_can_parse_is_an_element_as_any_other(self) -> None:
        deep = b"[" * 100_000 + b"]" * 100_000
        assert elements(b'[1,%b,"\xff",2]' % deep) == [b"1", deep, b'"\xff"', b"2"]

    @pytest.mark.parametrize(
        "page", [b"{}", b"1", b"[1", b"1]", b"[1]]", b'["a]', b"<html>", b"[1] x [2]", b'{"a":[1]}', b"[1]x"]
    )
    def test_what_is_no_array_is_refused(self, page: bytes) -> None:
        with pytest.raises(DownlinkError, match="no JSON array"):
            elements(page)
