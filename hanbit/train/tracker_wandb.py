"""Weights & Biases. Server, key, and online or offline are its own settings (`WANDB_API_KEY`, `WANDB_MODE`, ...)."""

from typing import Any

from hanbit.common.run_folder import RunFolder
from hanbit.config.recipe import Recipe

START_SECONDS = 60  # for a server that does not answer


class Wandb:
    def __init__(self, run: Any) -> None:
        self._run, self.id = run, str(run.id)

    def write(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


def start_wandb(recipe: Recipe, folder: RunFolder, known_id: str | None) -> Wandb:
    """Console, code and prompts are left alone: the run has the terminal for itself."""
    import wandb

    wanted = recipe.logging.wandb
    assert wanted is not None
    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):  # init would ask on the terminal
        raise PermissionError("no key. Set WANDB_API_KEY, call `wandb login` once, or use WANDB_MODE=offline")
    run = wandb.init(
        project=wanted.project,
        entity=wanted.entity,
        name=recipe.name,
        id=known_id,
        resume="allow",
        dir=str(folder.path.resolve()),
        config=recipe.model_dump(mode="json"),
        settings=wandb.Settings(console="off", silent=True, save_code=False, init_timeout=START_SECONDS),
    )
    return Wandb(run)
