"""Whether a session serves somebody better once it works for a reward learned from their choices.

For each seed: a session of 14 visits on the simulated STED microscope, judged by the default weights, asks
which of its scans are better; simulated experts answer. From their first 8, or all 20, choices a reward is
learned, and a session on another sample works for it. What each visit after the four exploring ones is worth
to the expert is compared with the same session judged by the default weights.

Run: ``python -m benchmarks.preferred_settings [seeds]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from controller.assemble import new_session
from controller.config import load
from controller.core.decision import Acquire, AskLabel
from controller.learning.preferences import Choice, fit_reward
from controller.recording.reader import SessionReader
from policies.objectives import Measured
from policies.preferences import described

VISITS, INITIAL, QUESTIONS = 14, 4, 20
COUNTS = (8, 20)
EXPERIMENT = """
schema = "stedfast-experiment/1"
name = "preferred settings"
hardware = "sim_sted.toml"
seed = {seed}
[policy]
name = "regions"
[policy.options]
visits_max = {visits}
overlap_max = 0.2
questions = {{ questions_max = 0 }}
preferences = {{ questions_max = {questions}, scans_first = 3, scans_between = 1 }}
[policy.options.overview]
modality = "overview"
pixel_size_m = 100e-9
[policy.options.settings]
method = "thompson"
candidates = 200
{reward}
[denoiser]
name = "raw"
[segmenter]
name = "spots_wavelet"
options = {{ spot_size_m = 100e-9 }}
"""
#: What experts think of a scan; the last two are no lines.
EXPERTS: dict[str, Callable[[Mapping[str, float]], float]] = {
    "gentle: signal - 15 bleaching": lambda v: v["signal_log"] - 15 * v["bleached_fraction"],
    "sharp: 3 detail - bleaching": lambda v: 3 * v["detail_log"] - v["bleached_fraction"],
    "in haste: detail - 20 duration": lambda v: v["detail_log"] - 20 * v["duration_s"],
    "at a limit: 2 detail, bleaching above 10 % hurts": lambda v: (
        2 * v["detail_log"] - 30 * max(v["bleached_fraction"] - 0.1, 0)
    ),
    "signal, if there is detail": lambda v: v["signal_log"] * min(v["detail_log"], 1.0),
}


def run(folder: Path, seed: int, questions: int, reward: str = "") -> SessionReader:
    """Return a finished session."""
    folder.mkdir(parents=True, exist_ok=True)
    text = EXPERIMENT.format(seed=seed, visits=VISITS, questions=questions, reward=reward)
    (folder / "experiment.toml").write_text(text)
    session = new_session(load(folder), folder / "session")
    session.run()
    return SessionReader(folder / "session")


def visits(reader: SessionReader) -> list[dict[str, float]]:
    """Return what the visits showed, the exploring ones left out."""
    found, last = [], None
    for cycle in reader.cycles:
        told = cycle.decision.evidence
        if last is not None and "detail_snr" in told:
            measured = Measured(**{n: told[n] for n in Measured.__dataclass_fields__ if n in told})
            found.append(described(measured, last))
            last = None
        if isinstance(cycle.decision, Acquire) and cycle.decision.settings.modality == "sted":
            last = cycle.decision.settings
    return [values for values in found[INITIAL:] if values is not None]


def choices(reader: SessionReader, expert: Callable[[Mapping[str, float]], float]) -> list[Choice]:
    """Return what an expert picks."""
    asked = [c.decision.question.options for c in reader.cycles if isinstance(c.decision, AskLabel)]
    made = []
    for options in asked:
        values = tuple(option.values for option in options)
        made.append(Choice(values, int(np.argmax([expert(one) for one in values]))))
    return made


def main(seeds: int) -> None:
    """Print the table."""
    worth: dict[str, list[list[float]]] = {name: [] for name in EXPERTS}
    with TemporaryDirectory() as folder:
        for seed in range(1, seeds + 1):
            root = Path(folder) / str(seed)
            asking = run(root / "asking", seed, QUESTIONS)
            by_default = visits(run(root / "default", 100 + seed, 0))
            for number, (name, expert) in enumerate(EXPERTS.items()):
                row = [float(np.mean([expert(values) for values in by_default]))]
                made = choices(asking, expert)
                for count in COUNTS:
                    place = root / f"{number}-{count}"
                    place.mkdir()
                    fit_reward(made[:count], np.random.default_rng(0)).write(place / "reward.json")
                    served = visits(run(place, 100 + seed, 0, 'reward = "reward.json"'))
                    row.append(float(np.mean([expert(values) for values in served])))
                worth[name].append(row)
                print(seed, name, np.round(row, 3), file=sys.stderr, flush=True)
    print("| expert | default |", " | ".join(f"{count} choices | better" for count in COUNTS), "|")
    for name, rows in worth.items():
        table = np.array(rows)
        cells = [f"{table[:, 0].mean():.2f}"]
        for column in range(1, len(COUNTS) + 1):
            gain = table[:, column] - table[:, 0]
            error = gain.std(ddof=1) / len(gain) ** 0.5
            cells += [f"{gain.mean():+.2f} ± {error:.2f}", f"{int((gain > 0).sum())} of {len(gain)}"]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
