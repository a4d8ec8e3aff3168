"""The process that learns to denoise while a session runs; :mod:`controller.denoising.learner` starts it."""

from __future__ import annotations

import json

import torch
from safetensors.numpy import load

from controller.denoising.adaptation import AdaptationOptions, Sample, propose
from controller.denoising.corruption import choose_corruption
from controller.denoising.photon_transfer import PhotonTransfer
from controller.learning.process import Message, serve
from controller.networks.weights import check


def work(job: Message) -> Message:
    """Train and judge; answer the scores, and the weights if they are better."""
    values, blobs = job.values, job.blobs
    candidates = [
        check(blobs[f"weights{number}"], json.dumps(card), f"candidate {number}")
        for number, card in enumerate(values["cards"])
    ]
    movies = load(blobs["movies"])
    transfer = PhotonTransfer(**values["transfer"])
    verdict = propose(
        candidates,
        Sample(
            [movies[name] for name in sorted(movies)],
            choose_corruption(transfer),
            transfer.read_noise_photons**2,
        ),
        AdaptationOptions.model_validate_json(json.dumps(values["options"])),
        seed=values["seed"],
    )
    answer = {
        "number": values["number"],
        "is_better": verdict.is_better,
        "scores_db": list(verdict.scores_db),
        "reason": verdict.reason,
        "card": verdict.best.card.model_dump(mode="json", by_alias=True),
    }
    return Message(answer, {"weights": verdict.best.data} if verdict.is_better else {})


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(work)
