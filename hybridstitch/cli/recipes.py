"""`hybridstitch recipes`: lists the named recipes with their strategies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybridstitch.base.paths import INDEX
from hybridstitch.cli.paths import folder_to_read
from hybridstitch.recipe.names import TUNED_FILE


def recipes(options: argparse.Namespace) -> None:
    """List the named recipes, including those that the pair was tuned to."""
    from hybridstitch.recipe.catalogue import Catalogue

    named = {name: recipe.to_dict() for name, recipe in Catalogue.load().of_pair(options.pair).recipes.items()}
    if options.json:
        print(json.dumps(named, indent=2))
        return
    for name, recipe in named.items():
        axes = (f"{axis}={_strategy_text(recipe[axis])}" for axis in ("plan", "mask", "fill"))
        steps = f"  at {recipe['step_share']:g} of the steps" if recipe["step_share"] < 1 else ""
        print(f"{name:<18}{'  '.join(axes)}{steps}")


def _strategy_text(strategy: dict[str, Any]) -> str:
    values = {name: _strategy_text(value) if isinstance(value, dict) else value for name, value in strategy.items()}
    parameters = ", ".join(f"{name}={value}" for name, value in values.items() if name != "type")
    return f"{strategy['type']}({parameters})" if parameters else strategy["type"]


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("recipes", help=recipes.__doc__, description=recipes.__doc__)
    command.set_defaults(run=recipes)
    command.add_argument("--json", action="store_true", help="print all parameters as JSON")
    command.add_argument(
        "--pair", type=folder_to_read("a pair", INDEX, TUNED_FILE), default=pair, help="the pair (%(default)s)"
    )
