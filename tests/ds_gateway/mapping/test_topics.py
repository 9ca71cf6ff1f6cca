from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from ds_gateway.mapping import MappingError, TopicPattern, topic_filter
from ds_gateway.mapping.topics import covers, overlap

_LEVELS = st.sampled_from(["a", "b", "", "$x"])
_TOPICS = st.lists(_LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
_FILTERS = (
    st.tuples(st.lists(_LEVELS | st.just("+"), min_size=1, max_size=3), st.sampled_from([[], ["#"], ["+"], ["b"]]))
    .map(lambda parts: "/".join([*parts[0], *parts[1]]))
    .filter(bool)
)
# Long enough and with enough different levels to tell any two filters of the strategy above apart.
_ALL_TOPICS = [
    topic
    for size in range(1, 6)
    for topic in map("/".join, itertools.product(["a", "b", "", "$x"], repeat=size))
    if topic
]


def _error(pattern: str) -> str:
    with pytest.raises(MappingError) as caught:
        TopicPattern(pattern)
    assert caught.value.key == "topic"
    return str(caught.value)


class TestFilter:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("sensors/{hall}/{sensor}/telemetry", "sensors/+/+/telemetry"),
            ("sensors/{path...}", "sensors/#"),
            ("{all...}", "#"),
            ("+/{x}/#", "+/+/#"),
            ("a/b", "a/b"),
            ("/a//b/", "/a//b/"),
            ("$SYS/broker/{what...}", "$SYS/broker/#"),
        ],
    )
    def test_captures_become_wildcards(self, pattern: str, expected: str) -> None:
        assert topic_filter(pattern) == expected


class TestMatch:
    def test_a_capture_takes_one_level(self) -> None:
        pattern = TopicPattern("sensors/{hall}/{sensor}/telemetry")
        assert pattern.captures == ("hall", "sensor")
        assert pattern.match("sensors/h1/s1/telemetry") == {"hall": "h1", "sensor": "s1"}
        assert pattern.match("sensors/h1/s1/x/telemetry") is None
        assert pattern.match("sensors/h1/s1") is None

    def test_a_last_capture_with_dots_takes_the_rest(self) -> None:
        pattern = TopicPattern("a/{x}/{rest...}")
        assert pattern.match("a/1/2/3") == {"x": "1", "rest": "2/3"}

    def test_the_rest_may_be_nothing_because_the_parent_level_matches(self) -> None:
        assert TopicPattern("a/{rest...}").match("a") == {"rest": ""}
        assert TopicPattern("a/#").match("a") == {}

    def test_a_level_may_be_empty(self) -> None:
        assert TopicPattern("a/{x}/b").match("a//b") == {"x": ""}
        assert TopicPattern("{x}/{y}").match("/") == {"x": "", "y": ""}

    @pytest.mark.parametrize("pattern", ["#", "+/monitor", "{x}/monitor", "{all...}"])
    def test_wildcards_in_front_do_not_match_topics_of_the_broker_itself(self, pattern: str) -> None:
        assert TopicPattern(pattern).match("$SYS/monitor") is None
        assert TopicPattern("$SYS/{x}").match("$SYS/monitor") == {"x": "monitor"}

    def test_letters_of_two_cases_are_different(self) -> None:
        assert TopicPattern("a/B").match("a/b") is None

    @settings(deadline=None)
    @given(subscription=_FILTERS, topic=_TOPICS)
    def test_matching_is_what_the_mqtt_library_says(self, subscription: str, topic: str) -> None:
        matched = TopicPattern(subscription).match(topic) is not None
        assert matched == topic_matches_sub(subscription, topic)


class TestMistakes:
    @pytest.mark.parametrize(
        ("pattern", "words"),
        [
            ("", "at least one character"),
            ("a/{x}/{x}", "{x} is there twice"),
            ("a/{x}/{x...}", "{x} is there twice"),
            ("a/{}", "has no name"),
            ("a/{...}", "has no name"),
            ("$share/group/a", "lose messages with a persistent session"),
            ("$share", "lose messages with a persistent session"),
            ("a/#/b", "can only be the last level"),
            ("a/{x...}/b", "can only be the last level"),
            ("a/b#", "stands for a whole level"),
            ("a/b+", "stands for a whole level"),
            ("a/sensor-{id}", "takes a whole level"),
            ("a/{id", "takes a whole level"),
            ("a/{my name}", "takes a whole level"),
            ("a/{1}", "takes a whole level"),
            ("a/{gateway}", "another name"),
            ("a/\0", "NUL"),
            ("a" * 70000, "65535"),
        ],
    )
    def test_each_is_told_in_words(self, pattern: str, words: str) -> None:
        message = _error(pattern)
        assert words in message
        assert len(message) < 400


class TestRelations:
    @settings(deadline=None, max_examples=200)
    @given(wide=_FILTERS, narrow=_FILTERS)
    def test_a_filter_that_covers_another_matches_all_of_its_topics(self, wide: str, narrow: str) -> None:
        if covers(wide, narrow):
            assert all(TopicPattern(wide).match(t) is not None for t in _matched(narrow))

    @settings(deadline=None, max_examples=200)
    @given(one=_FILTERS, other=_FILTERS)
    @example(one="+", other="/#")
    def test_filters_overlap_exactly_if_some_topic_matches_both(self, one: str, other: str) -> None:
        common = [t for t in _matched(one) if TopicPattern(other).match(t) is not None]
        assert overlap(one, other) == bool(common)

    @pytest.mark.parametrize(
        ("wide", "narrow", "expected"),
        [
            ("#", "a/+", True),
            ("a/#", "a", True),
            ("a/+", "a/b", True),
            ("a/b", "a/+", False),
            ("a/+", "a/#", False),
            ("#", "$SYS/#", False),
            ("+/x", "$SYS/x", False),
            ("a/b", "a/b", True),
        ],
    )
    def test_covering(self, wide: str, narrow: str, *, expected: bool) -> None:
        assert covers(wide, narrow) is expected


def _matched(subscription: str) -> list[str]:
    pattern = TopicPattern(subscription)
    return [topic for topic in _ALL_TOPICS if pattern.match(topic) is not None]
