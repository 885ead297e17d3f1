"""YAML as people read it: version 1.2 scalars in, texts that no reader misunderstands out."""

from __future__ import annotations

import pytest
import yaml

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.yaml import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("12:30:45", "12:30:45"),
        ("no", "no"),
        ("on", "on"),
        ("2001-01-01", "2001-01-01"),
        ("1_000", "1_000"),
        ("'010'", "010"),
        ("010", 10),
        ("+10", 10),
        ("1e-3", 0.001),
        ("1e5", 100000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("true", True),
        ("~", None),
        ("", None),
        ("e3", "e3"),
        (".", "."),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    """2:4 stays a text, 1e-3 is a number, no is a word, 010 is ten."""
    found = read_yaml(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "outer: {a: 1, a: 1}", "- {x: 1, 'x': 2}"])
def test_a_repeated_key_is_refused(text):
    """Two values for one key: only one would count, so neither does; the sentence names the key."""
    with pytest.raises(BadRequest, match=r"The key [ax] appears twice"):
        read_yaml(text)


@pytest.mark.parametrize(
    "text", ["a: [1", "a: \x00", "{[1]: 2}", "a: !!int abc", "a: !!python/object/apply:os.system [ls]", "[" * 5000, "a: b: c", "*nowhere"]
)
def test_what_is_no_yaml_is_one_sentence(text):
    """Whatever is wrong with the text, and whatever it would run, the answer is a BadRequest that names the recipe."""
    with pytest.raises(BadRequest, match=r"recipe\.yaml"):
        read_yaml(text, name="recipe.yaml")


@pytest.mark.parametrize(
    "value",
    ["2:4", "1e-3", "1e5", "09", "-09", "+.5e1", "010", "no", "Yes", "null", "", "=", "1_000", "0x10", "2001-01-01", "a: b", "é", "#"],
)
def test_a_text_stays_a_text_for_both_versions(value):
    """Texts that look like numbers, words or dates in YAML 1.1 or 1.2 are quoted: both readers get them back."""
    written = write_yaml({"key": value})
    assert read_yaml(written) == {"key": value}
    assert yaml.safe_load(written) == {"key": value}


@pytest.mark.parametrize("value", [0.001, 1e-05, 1e22, 0.1, 12, -3, True, None, [0.5, "2:4"], {"name": "gmp", "every": "50it"}])
def test_plain_values_come_back(value):
    """Numbers, lists and mappings survive a round trip in both versions."""
    written = write_yaml({"key": value})
    assert read_yaml(written) == {"key": value} == yaml.safe_load(written)


def test_keys_keep_their_order():
    """What is written first is read first: a recipe looks like the person wrote it."""
    assert list(read_yaml(write_yaml({"verb": "prune", "b": 1, "a": 2}))) == ["verb", "b", "a"]
