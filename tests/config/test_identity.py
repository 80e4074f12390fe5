"""Identity of a run: other settings and other data are refused by name, what is free to change is not."""

from pathlib import Path

import pytest

from vitslite.config.identity import FREE_SETTINGS, changed_settings, check_resumable, flatten, is_free

PATH = Path("run/checkpoints/last.pt")


def header(**config):
    return {"config": {"a": {"b": 1}, "trainer": {"steps": 3}} | config, "frontend": {}, "environment": {"threads": 1}}


def test_other_settings_are_refused_and_named():
    with pytest.raises(ValueError, match=r"last\.pt was trained with other settings: a\.b=1 \(now 2\).*name="):
        check_resumable(header(), header(a={"b": 2}), PATH)
    with pytest.raises(ValueError, match=r"c=1 \(now unknown\); a\.d=1.*e=1.*f=1 .*trainer\.init_from=run/checkpoints"):
        check_resumable(header(a={"b": 1, "c": 1, "d": 1, "e": 1, "f": 1}), header(), PATH)


def test_what_was_advised_may_change_and_is_named():
    """With what the environment says, each key once; beside another setting it does not help."""
    stored = header(trainer={"precision": "fp32", "optimizer": {"learning_rate": 1}}, threads=1)
    now = header(trainer={"precision": "bf16", "optimizer": {"learning_rate": 0.5}}, threads=2)
    now["environment"] = {"threads": 2, "ranks": 2}
    named = ["threads=1 (now 2)", "trainer.optimizer.learning_rate=1 (now 0.5)", "trainer.precision=fp32 (now bf16)"]
    assert check_resumable(stored, now, PATH) == [*named, "ranks=unknown (now 2)"]
    with pytest.raises(ValueError, match=r"other settings: seed=unknown \(now 1\)\. "):
        check_resumable(stored, now | {"config": now["config"] | {"seed": 1}}, PATH)


@pytest.mark.parametrize("part", ["frontend", "corpus"])
def test_other_data_is_refused(part):
    with pytest.raises(ValueError, match=f"the {part} differs.*name="):
        check_resumable(header(), header() | {part: {"symbols": "x"}}, PATH)


def test_steps_may_change_and_another_environment_is_told():
    assert check_resumable(header(), header(trainer={"steps": 9}), PATH) == []
    assert check_resumable(header(), header() | {"environment": {"threads": 2}}, PATH) == ["threads=1 (now 2)"]


def test_a_group_is_free_with_all_its_settings():
    assert is_free("tracking.project") and is_free("trainer.steps") and not is_free("trainer.steps_more")
    assert not is_free("seed") and not is_free("trainer")
    flat = dict.fromkeys(FREE_SETTINGS, 1)
    assert changed_settings(flat, dict.fromkeys(FREE_SETTINGS, 2)) == []
    assert flatten({"a": {"b": 1, "c": {"d": 2}}}) == {"a.b": 1, "a.c.d": 2}


DEFAULTS = {"a": {"b": 1, "new": 0.5}, "trainer": {"steps": 9}, "text": {"units": "phones", "new": False}}


def test_a_run_from_before_a_setting_has_its_default():
    """In both directions, and nested; null is a value like others; what neither side has is no change."""
    old, now = {"a": {"b": 1}}, {"a": {"b": 1, "new": 0.5}}
    assert changed_settings(old, now, DEFAULTS) == changed_settings(now, old, DEFAULTS) == []
    assert changed_settings(old, {"a": {"b": 1, "new": 0.7}}, DEFAULTS) == ["a.new=0.5 (now 0.7)"]
    assert changed_settings({"a": {"b": 1, "new": None}}, now, DEFAULTS) == ["a.new=None (now 0.5)"]
    assert changed_settings(old, now) == ["a.new=unknown (now 0.5)"]  # planted: without the defaults it is refused
    assert check_resumable(header(), header(a={"b": 1, "new": 0.5}), PATH, DEFAULTS) == []


@pytest.mark.parametrize("value", [1, None])
def test_a_setting_that_is_no_more_is_a_change(value):
    assert changed_settings({"a": {"gone": value}}, {}, DEFAULTS) == [f"a.gone={value} (now unknown)"]


def test_a_frontend_from_before_a_setting_has_its_default():
    old, now, other = (
        {"frontend": {"settings": {"units": "phones"} | more, "vocabulary": ["_", "a"]}}
        for more in ({}, {"new": False}, {"new": True})
    )
    assert check_resumable(header() | old, header() | now, PATH, DEFAULTS) == []
    for stored, header_now, defaults in ((old, other, DEFAULTS), (old, now, {})):
        with pytest.raises(ValueError, match="the frontend differs"):
            check_resumable(header() | stored, header() | header_now, PATH, defaults)
