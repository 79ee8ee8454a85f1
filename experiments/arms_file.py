"""arms.json of a run: every arm's network row by row, so that a report needs no network.

Written when a run starts, read by `experiments.html_networks`. `runs.jsonl` alone is enough for a
report; this file adds what no record holds.
"""

import json
import re
from pathlib import Path
from typing import Any

from absl import logging

from cnnjax import analysis
from cnnjax.files import write_atomically
from experiments.studies import Arm, Study

__all__ = ["NAME", "SCHEMA", "write_arms"]

NAME = "arms.json"
SCHEMA = 1


def write_arms(directory: Path, study: Study, image_shape: tuple[int, int, int]) -> None:
    """Write arms.json, unless there is one for these arms already.

    A network whose account cannot be made has no rows and a sentence why; a disk that is full
    gets a warning. A run never ends by this file.

    Args:
      directory: the run directory.
      study: the question and its arms.
      image_shape: (height, width, channels) of what an arm sees that has no sets of its own.
    """
    path = directory / NAME
    described = [_described(arm) for arm in study.arms]
    try:
        kept = json.loads(path.read_text("utf-8"))["arms"]
        known = [{name: arm[name] for name in described[0]} for arm in kept]
    except (OSError, ValueError, KeyError, TypeError):
        known = []
    # A resumed run need not follow the networks again.
    if known == described:
        return
    arms: list[dict[str, Any]] = []
    for arm, text in zip(study.arms, described, strict=True):
        shape = arm.sets.training.images.shape[1:] if arm.sets else image_shape
        arms.append({**text, "input_shape": list(shape), **_rows(arm, shape)})
    document = {"schema": SCHEMA, "study": study.name, "arms": arms}
    try:
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=True) + "\n")
    except OSError as error:
        logging.warning("%s was not written: %s; the report is without its networks", path, error)


def _described(arm: Arm) -> dict[str, Any]:
    """What is told of an arm beside its rows, as JSON gives it back."""
    return json.loads(
        json.dumps(
            {
                "name": arm.name,
                "title": arm.title,
                "differs_in": arm.differs_in,
                "against": arm.against,
                "settings": dict(arm.settings),
                # A function in it stands at another address in each process.
                "network": re.sub(r" at 0x[0-9a-f]+", "", repr(arm.module)),
            }
        )
    )


def _rows(arm: Arm, shape: tuple[int, ...]) -> dict[str, Any]:
    try:
        rows = analysis.records(analysis.account(arm.module, shape))
    # Whatever a network does while it is traced; the run itself does not need the account.
    except Exception as error:
        logging.warning("%s: its layers cannot be told: %s", arm.name, error)
        return {"rows": [], "why": f"{type(error).__name__}: {error}"}
    return {"rows": rows, "why": ""}
