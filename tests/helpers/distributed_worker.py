"""One rank of tests/test_distributed.py: takes two steps and leaves every loss share and the summed gradients.

Of several cases, name -> overrides, in one group of processes: to start them takes longer than the steps.
"""

import json
import os
import sys
from pathlib import Path

import torch


def main(out: Path, run_dir: Path, cache: Path, fault: str, cases: dict[str, list[str]]) -> None:
    from vitslite import distributed

    with distributed.session("cpu", 1) as device:
        found = {name: steps(run_dir / name, cache, fault, case, device) for name, case in cases.items()}
        if distributed.is_main():
            torch.save(found, out)


def steps(run_dir: Path, cache: Path, fault: str, overrides: list[str], device: torch.device) -> list[dict]:
    import hydra
    from common import ROOT

    from vitslite import build, distributed
    from vitslite.monitoring.observer import RunObserver
    from vitslite.objectives.objective import Objective
    from vitslite.training.trainer import Trainer

    small = ["model=nano", "tracking=local", "threads=1", "data.n_sentences=60", "data.batch_size=8"]
    small += ["trainer.device=cpu", f"data.cache={cache}", f"run_dir={run_dir}"]
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = build.parse(hydra.compose("train", overrides=[*small, *overrides]), overrides)
    corpus = build.corpus(config)
    data = build.data(config, corpus)
    objective = build.objective(config)
    if fault == "planted":  # every rank divides by its own lengths: the usual mistake
        world = distributed.world_size()
        forward = Objective.forward
        objective.forward = lambda outputs, counts, *judged, step: _scaled(
            forward(objective, outputs, _own(objective, outputs, counts), *judged), 1 / world
        )
    model = build.model(config, corpus.frontend.n_symbols)
    build.start_from_data(model, data)
    started = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(1)
    with torch.no_grad():  # away from the zeros that the couplings start with, where gradients vanish
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tracker = build.tracker(config, Path(config.run_dir), overrides)
    observer = RunObserver(data, objective, None, config.synthesis, tracker, device)
    checkpoints = build.checkpoints(config, corpus, device)
    discriminator = build.discriminator(config)
    trainer = Trainer(config.trainer, model, discriminator, objective, data, observer, checkpoints, device)
    trainer.resume()
    first = update_discriminator(trainer, next(data.loader.batches(0)), fault) if discriminator else {}
    taken, batches = [], data.loader.batches(0)
    for _ in range(2):
        terms = {name: float(value) for name, value in trainer.step(next(batches)).terms.items()}
        gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        taken.append({"terms": terms, "gradients": gradients, "discriminator": first, "started": started})
    return taken


def update_discriminator(trainer, micro_batches, fault: str) -> dict[str, torch.Tensor]:
    """One update of the discriminator on the first batch; its gradients, as AdamW has averaged them."""
    from vitslite import distributed

    batches = [trainer.data.features(batch) for batch in micro_batches]
    sum_gradients = distributed.sum_gradients
    if fault == "planted":
        distributed.sum_gradients = lambda parameters: None
    trainer.guard.begin_step(1, [])
    trainer._update_discriminator(trainer.adversary, batches, trainer._global_counts(batches), 1.0)
    distributed.sum_gradients = sum_gradients
    states = trainer.adversary.optimizer.state_dict()["state"]
    return {str(i): state["exp_avg"].clone() for i, state in states.items()}


def _own(objective, outputs, counts):
    frames = outputs.latents.mask.sum().float()
    share = frames / counts.frames
    return counts._replace(
        frames=frames,
        tokens=(outputs.durations > 0).sum().float(),
        utterances=torch.tensor(float(len(outputs.audio))),
        refined=counts.refined * share,
        mels=[m * share for m in counts.mels],
    )


def _scaled(losses, factor):
    return losses._replace(terms={k: v * factor for k, v in losses.terms.items()}, total=losses.total * factor)


if __name__ == "__main__":
    sys.path[:0] = [os.path.dirname(__file__)]
    from vitslite import build

    build.register_schema()
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))
