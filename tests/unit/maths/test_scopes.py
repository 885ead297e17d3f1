"""Scopes by hand."""

from sparsify_cli.maths.scopes import class_names, group_members, parts
from tests.predictions import answering

GROUPS = {"slant": ("left", "right", "left")}


def test_parts_are_classes_in_label_order_then_groups_sorted():
    """Three outputs and one column of two values: five scopes with their samples."""
    found = {scope: members.tolist() for scope, members in parts(answering([0, 0, 0], [1, 0, 1], groups=GROUPS, classes="abc"))}
    assert found == {
        "class:a": [False, True, False],
        "class:b": [True, False, True],
        "class:c": [False, False, False],
        "group:slant=left": [True, False, True],
        "group:slant=right": [False, True, False],
    }


def test_classes_without_a_name_are_called_by_their_label():
    """One name for three outputs: the rest are 1 and 2."""
    assert class_names(answering([0], [0], classes=["cat"])) == ("cat", "1", "2")


def test_group_members_are_sorted_by_value():
    """The order of values does not depend on which sample comes first."""
    assert list(group_members(answering([0, 0, 0], [0, 0, 0], groups={"g": ("z", "a", "m")}), "g")) == ["a", "m", "z"]
