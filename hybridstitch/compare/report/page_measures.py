"""The page's tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridstitch.compare.measures import REGIONS
from hybridstitch.html.document import as_float, between, figure, table
from hybridstitch.html.plots import intervals

TITLES = {
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "distance": "Perceptual distance",
    "seam_contrast": "Step across the mask's border, B minus A",
    "quality": "Quality, B minus A",
}
REGION_TITLES = {"inside": "inside the mask", "outside": "outside it", "seam": "along its border"}
WORDS = {True: ("yes", "good"), False: ("no", "bad"), None: ("not shown", "open")}


def metric_table(found: Sequence[Mapping[str, Any]], same: bool) -> str:
    """Means with intervals, what was asked of them and whether it was shown. same: all pictures are identical."""
    judged = [each for each in found if each["limit"] is not None and not same]
    rows = []
    for each in found:
        sign = "<" if each["lower_is_nearer"] else ">"
        asked = "" if each["limit"] is None else f"{sign} {each['limit']:g}"
        word, tone = WORDS[each["non_inferior"]] if each["limit"] is not None else ("", "")
        identical = same and each["name"].endswith("psnr_db")
        value = "identical" if identical else figure(each["value"], ".4g")
        chance = "" if each["p_adjusted"] is None else f"{each['p_adjusted']:.2g}"
        rows.append(
            [
                title(each["name"]),
                value,
                "" if identical else between(each, ".4g"),
                asked,
                f'<span class="{tone}">{word}</span>',
                chance,
                str(each["pairs"]),
            ]
        )
    drawn = [
        (title(each["name"]), *(as_float(each[name]) for name in ("value", "low", "high")), each["limit"])
        for each in judged
    ]
    heads = ["", "mean", "interval", "asked", "shown", "p (Holm)", "pairs"]
    return intervals(drawn) + table(heads, rows)


def title(name: str) -> str:
    """A metric's name for people."""
    if name in TITLES:
        return TITLES[name]
    region, _, metric = name.partition("_")
    return f"{TITLES[metric]}, {REGION_TITLES[region]}"


def region_table(found: Sequence[Mapping[str, Any]], same: bool) -> str:
    """The metrics inside the mask, outside and along its border, limits as in `metric_table` where there are any."""
    known = {each["name"]: each for each in found}
    rows = []
    for name in ("psnr_db", "ssim"):
        cells = [known.get(f"{region}_{name}") for region in REGIONS]
        if any(cells):
            rows.append([TITLES[name], *(_cell(each, same and name == "psnr_db") for each in cells)])
    if rows and (step := known.get("seam_contrast")):
        rows.append([TITLES["seam_contrast"], "", "", _cell(step, False)])
    judged = [each for each in found if each["limit"] is not None]
    drawn = table(["", *(REGION_TITLES[region] for region in REGIONS)], rows)
    return f'<div class="regions">{drawn}</div>' + (metric_table(judged, same) if judged else "")


def _cell(each: Mapping[str, Any] | None, identical: bool) -> str:
    if each is None:
        return ""
    return "identical" if identical else f"{figure(each['value'], '.3g')}<small>{between(each, '.3g')}</small>"
