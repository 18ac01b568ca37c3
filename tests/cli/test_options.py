"""The options of pitome on the command line, and its help."""

import argparse
import dataclasses
import inspect
from typing import Any

import pytest

from pitome_fx.cli.arguments import make_parser
from pitome_fx.cli.words import options_of
from pitome_fx.options import Options
from tests.cli.calls import Cli


class TestOptions:
    """The options of pitome are the fields of Options."""

    GIVEN = (
        ("--ratio 0.9", {"ratio": 0.9}),
        ("--ratio 1", {"ratio": 1}),
        ("--r 3", {"r": 3}),
        ("--flops .5", {"flops": 0.5}),
        ("--schedule 0.9,0.8", {"schedule": (0.9, 0.8)}),
        ("--schedule 0.9", {"schedule": (0.9,)}),
        ("--speedup 1.5", {"speedup": 1.5}),
        ("--latency 0.02", {"latency": 0.02}),
        ("--round-to 8", {"round_to": 8}),
        ("--algorithm pitome-elu", {"algorithm": "pitome-elu"}),
        (
            "--algorithm pitome --algorithm-options margin=-0.5,alpha=2",
            {"algorithm": "pitome", "algorithm_options": {"margin": -0.5, "alpha": 2}},
        ),
        ("--metric hidden", {"metric": "hidden"}),
        ("--protect auto", {"protect": "auto"}),
        ("--protect 2", {"protect": 2}),
        ("--no-proportional", {"proportional": False}),
        ("--blocks 0,2", {"blocks": (0, 2)}),
        ("--blocks 1", {"blocks": (1,)}),
        ("--min-tokens 16", {"min_tokens": 16}),
        ("--strict", {"strict": True}),
        ("", {}),
    )

    @pytest.mark.parametrize(("words", "options"), GIVEN, ids=lambda value: str(value))
    def test_words_become_options(self, words: str, options: dict[str, Any]) -> None:
        parsed = make_parser().parse_args(["export", "m:f", "--to", "ep", *words.split()])
        assert options_of(parsed) == options
        assert Options.parse(options_of(parsed)) == Options(**options)

    def test_every_field_is_tried_and_explained(self) -> None:
        fields = {field.name for field in dataclasses.fields(Options)}
        fields -= {"lowering", "lowering_options", "form", "regions"}
        assert fields == {name for _, options in self.GIVEN for name in options}
        (commands_of,) = (
            action
            for action in make_parser()._actions
            if isinstance(action, argparse._SubParsersAction)
        )
        for name, without in (("export", set()), ("explain", {"strict"})):
            actions = {action.dest: action for action in commands_of.choices[name]._actions}
            assert set(actions) & fields == fields - without
            explained = str(inspect.getdoc(Options)).replace("`", "")
            for field in fields - without:
                assert len(str(actions[field].help)) > 25
                assert str(actions[field].help)[:25] in explained

    @pytest.mark.parametrize(
        "words", ["-h", "explain -h", "export -h", "calibrate -h", "--version"]
    )
    def test_help_is_printed(self, cli: Cli, words: str) -> None:
        with pytest.raises(SystemExit) as ended:
            cli(*words.split())
        assert ended.value.code == 0
