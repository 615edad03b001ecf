"""The search for recipes that pay on a pair."""
